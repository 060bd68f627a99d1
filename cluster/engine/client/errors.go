package client

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// translate puts the error of mvcc that says the same before one of etcd. The
// context is the call's: etcd words its end in several ways.
func translate(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ended := ctx.Err(); ended != nil {
		return fmt.Errorf("%w: %w", mvcc.ErrUnavailable, ended)
	}
	for _, pair := range []struct{ etcd, ours error }{
		{rpctypes.ErrCompacted, mvcc.ErrCompacted},
		{rpctypes.ErrFutureRev, mvcc.ErrFutureRevision},
		{rpctypes.ErrLeaseNotFound, mvcc.ErrLeaseNotFound},
		{rpctypes.ErrLeaseExist, mvcc.ErrLeaseExists},
		{rpctypes.ErrNoLeader, mvcc.ErrNoLeader},
		{rpctypes.ErrGRPCNotSupportedForLearner, mvcc.ErrUnavailable}, // another server answers
		{rpctypes.ErrDuplicateKey, mvcc.ErrDuplicateKey},
		{rpctypes.ErrTooManyOps, mvcc.ErrTooManyOps},
		{rpctypes.ErrEmptyKey, mvcc.ErrEmptyKey},
	} {
		if errors.Is(rpctypes.Error(err), pair.etcd) {
			return pair.ours
		}
	}
	switch {
	case errors.Is(rpctypes.Error(err), rpctypes.ErrAuthOldRevision): // all of Judged's calls, so the users change and change
		return fmt.Errorf("%w: %w", mvcc.ErrUnavailable, err)
	case errors.Is(rpctypes.Error(err), rpctypes.ErrUserEmpty):
		return fmt.Errorf("%w: etcd does not know by which certificate it is asked", mvcc.ErrDenied)
	}
	switch code(err) {
	case codes.PermissionDenied:
		return fmt.Errorf("%w: %s", mvcc.ErrDenied, message(err))
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled: // not our context: the server's, or a closed client
		return fmt.Errorf("%w: %w", mvcc.ErrUnavailable, err)
	}
	return err
}

func message(err error) string {
	if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return e.Error()
	}
	return status.Convert(err).Message()
}

func code(err error) codes.Code {
	if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return e.Code()
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return codes.Canceled
	}
	return status.Code(err)
}
