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
	"github.com/meshvpc/meshvpc/cluster/store"
)

// warnEvery is how often one caller's refusals are worth a line.
const warnEvery = 10 * time.Second

// How long a refusal takes for who asks too much. The more calls wait, the
// longer each does, so that they come back at one pace however many they are:
// atOnce in each penalty. Above maxHeld, which cost some 100 MB, they are refused
// at once.
const (
	penalty = 250 * time.Millisecond
	atOnce  = 64
	maxHeld = 8192
)

// refused logs a refusal, lets who asked too much wait, and returns what the
// caller is told.
func (a *Authorizer) refused(ctx context.Context, acc *account, err error, request any) error {
	if acc.worthALine(a.now()) {
		a.log.Warn("refused", zap.Stringer("subject", acc.caller.Subject), zap.Error(err))
	}
	if _, over := errors.AsType[overQuota](err); over {
		if m, ok := request.(interface{ Reset() }); ok {
			m.Reset() // it may be large, and is kept while it waits
		}
		acc.wait(ctx)
	}
	return refuse(err)
}

func (acc *account) worthALine(now time.Time) bool {
	acc.mu.Lock()
	defer acc.mu.Unlock()
	if !acc.warned.IsZero() && now.Sub(acc.warned) < warnEvery {
		return false
	}
	acc.warned = now
	return true
}

// wait takes its time.
func (acc *account) wait(ctx context.Context) {
	defer acc.release()
	held := acc.hold()
	if held > maxHeld {
		return
	}
	store.Sleep(ctx, penalty*time.Duration(1+held/atOnce))
}

// hold is how many calls of this caller are waiting, with this one. release must
// follow.
func (acc *account) hold() int {
	acc.mu.Lock()
	defer acc.mu.Unlock()
	acc.held++
	return acc.held
}

func (acc *account) release() {
	acc.mu.Lock()
	defer acc.mu.Unlock()
	acc.held--
}

// refuse is an error as gRPC sends it.
func refuse(err error) error {
	if over, ok := errors.AsType[overQuota](err); ok {
		return status.Error(codes.ResourceExhausted, over.Error())
	}
	return status.Error(codes.PermissionDenied, err.Error())
}

// noteChange logs what a person has changed that is no event: nodes and servers
// change records all the time, and say so themselves.
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
