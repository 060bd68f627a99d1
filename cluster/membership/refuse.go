package membership

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshvpc/meshvpc/cluster"
)

// warnEvery is how often one caller's refusals are worth a line.
const warnEvery = 10 * time.Second

// refused logs a refusal, lets who asked too much wait, and returns what the
// caller is told.
func (a *Authorizer) refused(ctx context.Context, acc *account, err error) error {
	acc.mu.Lock()
	now := a.now()
	warn := acc.warned.IsZero() || now.Sub(acc.warned) >= warnEvery
	if warn {
		acc.warned = now
	}
	acc.mu.Unlock()
	if warn {
		a.log.Warn("refused", zap.Stringer("subject", acc.caller.Subject), zap.Error(err))
	}
	if _, over := errors.AsType[overQuota](err); over && acc.hold() {
		defer acc.release()
		t := time.NewTimer(penalty)
		defer t.Stop()
		select {
		case <-ctx.Done():
		case <-t.C:
		}
	}
	return refuse(err)
}

// refuse is an error as gRPC sends it.
func refuse(err error) error {
	if over, ok := errors.AsType[overQuota](err); ok {
		return status.Error(codes.ResourceExhausted, over.Error())
	}
	return status.Error(codes.PermissionDenied, err.Error())
}

// noteChange logs what a person has changed: nodes and servers change records
// all the time, and say so themselves.
func (a *Authorizer) noteChange(c cluster.Caller, d demand, answer any) {
	if c.Subject.Kind != cluster.SubjectUser || d.writes() == 0 {
		return
	}
	if txn, ok := answer.(*pb.TxnResponse); ok && !txn.Succeeded {
		return
	}
	var keys []string
	for _, x := range d.accesses {
		if x.Op == cluster.OpWrite || x.Op == cluster.OpDelete {
			keys = append(keys, x.String())
		}
	}
	a.log.Info("records changed", zap.Stringer("subject", c.Subject), zap.Strings("op", keys))
}
