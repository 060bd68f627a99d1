package membership

import (
	"context"
	"errors"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshvpc/meshvpc/cluster"
)

// Stream is for etcd.Config.Stream.
func (a *Authorizer) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	c, err := callerOf(ss.Context())
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	if !knownStream(info.FullMethod) {
		return refuse(&cluster.Refusal{Caller: c.Subject, Access: demandOf(c.Subject, info.FullMethod, nil).accesses[0], Why: "nobody may"})
	}
	if c == a.self {
		return handler(srv, ss)
	}
	acc, err := a.account(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ss.Context())
	defer cancel()
	s := &stream{ServerStream: ss, ctx: ctx, cancel: cancel, of: a, acc: acc, method: info.FullMethod, watches: map[int64]cluster.Access{}}
	if err := s.begin(); err != nil {
		return a.refused(ctx, acc, err, nil)
	}
	defer s.close()
	err = handler(srv, s)
	if ended := s.whyEnded(); ended != nil {
		return refuse(ended)
	}
	return err
}

func knownStream(method string) bool {
	switch method {
	case pb.KV_RangeStream_FullMethodName, pb.Watch_Watch_FullMethodName, pb.Lease_LeaseKeepAlive_FullMethodName, pb.Maintenance_Snapshot_FullMethodName:
		return true
	}
	return false
}

// stream is a stream of anybody but this server. It ends when the caller may not have
// any part of it any more, and tells nothing after that.
type stream struct {
	grpc.ServerStream
	ctx    context.Context
	cancel context.CancelFunc
	of     *Authorizer
	acc    *account
	method string

	sending sync.Mutex // one message at a time; may be held for long: the client may not listen

	mu      sync.Mutex
	ended   error                    // why, once it is
	holds   []cluster.Access         // for as long as it lasts
	asked   []cluster.Access         // watches that etcd has not answered yet, in order
	watches map[int64]cluster.Access // by etcd's number
}

func (s *stream) Context() context.Context { return s.ctx }

// begin takes the stream from the quota, and is the first judgement of it.
func (s *stream) begin() error {
	c := s.acc.caller
	q := s.of.quota(c)
	if err := s.acc.use(func(u *used) error { return u.request(q, s.of.now()) }); err != nil {
		return err
	}
	connect := demand{accesses: []cluster.Access{{Op: cluster.OpConnect}}}
	err := s.of.patiently(s.ctx, s.acc, func() error { return s.of.permit(c, connect) })
	if err != nil {
		return err
	}
	s.holds = connect.accesses
	if err := s.acc.use(func(u *used) error { return u.openStream(q, s.of.now()) }); err != nil {
		return err
	}
	s.acc.mu.Lock()
	s.acc.streams[s] = true
	s.acc.mu.Unlock()
	s.judge() // the roster may have changed before that
	return s.whyEnded()
}

func (s *stream) close() {
	s.mu.Lock()
	watches := len(s.asked) + len(s.watches)
	s.asked, s.watches = nil, nil
	if s.ended == nil {
		s.ended = errEnded // a message may be on its way still
	}
	s.mu.Unlock()
	s.acc.mu.Lock()
	defer s.acc.mu.Unlock()
	delete(s.acc.streams, s)
	s.acc.used.open--
	s.acc.used.watches -= watches
}

// judge ends the stream if the caller may not have it as it is.
func (s *stream) judge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := demand{accesses: append(append([]cluster.Access{}, s.holds...), s.asked...)}
	for _, w := range s.watches {
		d.accesses = append(d.accesses, w)
	}
	if err := s.of.permit(s.acc.caller, d); err != nil && s.ended == nil {
		s.ended = err
		s.cancel()
	}
}

func (s *stream) whyEnded() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// RecvMsg passes on what the client may ask for. A watch that it may not have is
// answered as etcd does it; anything else ends the stream.
func (s *stream) RecvMsg(m any) error {
	for {
		if err := s.ServerStream.RecvMsg(m); err != nil {
			return err
		}
		err := s.admit(m)
		if err == nil {
			return nil
		}
		err = s.of.refused(s.ctx, s.acc, err, nil)
		if w, ok := m.(*pb.WatchRequest); !ok || w.GetCreateRequest() == nil || s.whyEnded() != nil {
			return err
		}
		if err := s.refuseWatch(status.Convert(err).Message()); err != nil {
			return err
		}
	}
}

// admit judges one request, takes what it costs, and remembers what it opens.
func (s *stream) admit(m any) error {
	c := s.acc.caller
	q := s.of.quota(c)
	if err := s.acc.use(func(u *used) error { return u.request(q, s.of.now()) }); err != nil {
		return err
	}
	watch, isWatch := m.(*pb.WatchRequest)
	if isWatch && watch.GetCreateRequest() == nil {
		return nil // ends a watch, or asks how far it is
	}
	var d demand
	if isWatch {
		d = demandOf(c.Subject, s.method, watch.GetCreateRequest())
	} else {
		d = demandOf(c.Subject, s.method, m)
	}
	return s.of.patiently(s.ctx, s.acc, func() error { return s.open(q, d, m) })
}

// open takes into the stream what is allowed at this moment: judge sees it from
// then on.
func (s *stream) open(q Quota, d demand, m any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return s.ended
	}
	if err := s.of.permit(s.acc.caller, d); err != nil {
		return err
	}
	switch r := m.(type) {
	case *pb.WatchRequest:
		if err := s.acc.use(func(u *used) error { return u.watch(q, s.of.now()) }); err != nil {
			return err
		}
		s.asked = append(s.asked, d.accesses...)
	case *pb.LeaseKeepAliveRequest:
		return s.acc.use(func(u *used) error { return u.lease(q, r.ID, s.of.now()) })
	default:
		s.holds = append(s.holds, d.accesses...)
	}
	return nil
}

// SendMsg passes on what etcd tells, until the stream is ended.
func (s *stream) SendMsg(m any) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	if err := s.note(m); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

var errEnded = errors.New("stream has been ended")

// note keeps count of the watches there are.
func (s *stream) note(m any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return errEnded
	}
	s.acc.mu.Lock()
	defer s.acc.mu.Unlock()
	r, ok := m.(*pb.WatchResponse)
	if !ok {
		s.acc.used.answered(s.of.quota(s.acc.caller), answerCost(m))
		return nil
	}
	if r.Created && len(s.asked) > 0 {
		a := s.asked[0]
		s.asked = s.asked[1:]
		if !r.Canceled {
			s.watches[r.WatchId] = a
		} else {
			s.acc.used.watches--
		}
		return nil
	}
	if _, open := s.watches[r.WatchId]; open && r.Canceled {
		delete(s.watches, r.WatchId)
		s.acc.used.watches--
	}
	return nil
}

// refuseWatch tells the client that its last watch was not opened.
func (s *stream) refuseWatch(why string) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.ServerStream.SendMsg(&pb.WatchResponse{Header: &pb.ResponseHeader{}, WatchId: -1, Created: true, Canceled: true, CancelReason: why})
}
