package etcd

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// cutStreams ends watches and lease streams when ctx does. Without that etcd's
// end would now and then wait for its clients to leave, 5 s and two elections.
func cutStreams(ctx context.Context) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		life, cancel := context.WithCancel(ss.Context())
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		err := handler(srv, &stream{ss, life})
		if ctx.Err() != nil {
			return status.Error(codes.Unavailable, "server is stopping")
		}
		return err
	}
}

// stream is a stream that ends before its connection.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *stream) Context() context.Context { return s.ctx }
