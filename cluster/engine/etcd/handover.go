package etcd

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// handoverMost is how long a leader that stops tries to hand over: etcd gives it 7 s,
// also when no other member is there to take over.
const handoverMost = 2 * time.Second

// holdFor is how many elections a member lets nothing through at most, for another
// that hands over and then is not heard of.
const holdFor = 2

// Hold is for a member whose leader is about to hand over: it lets no call through
// from now on, until another leads, or two election timeouts have passed, and returns
// when those under way have ended, or ctx.
func (e *Engine) Hold(ctx context.Context) error {
	m := e.running.Load()
	if m == nil {
		return errors.New("the store has not started")
	}
	changed := m.Server.LeaderChangedNotify()
	held := e.gate.hold(holdFor * e.cfg.Timings.Election)
	go func() { // ends with the hold
		select {
		case <-changed:
			e.gate.open()
		case <-held:
		}
	}()
	return e.gate.quiet(ctx)
}

// still has all members let nothing through, so that no proposal is lost while the
// lead goes from this one to another, until the function that it returns is called.
func (e *Engine) still(ctx context.Context, m *embed.Etcd) (goOn func()) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timings.Election) // ten round trips
	defer cancel()
	var others []string
	for _, x := range m.Server.Cluster().Members() {
		if x.ID != m.Server.MemberID() && len(x.ClientURLs) > 0 {
			others = append(others, x.ClientURLs[0])
		}
	}
	e.gate.hold(handoverMost + holdFor*e.cfg.Timings.Election)
	if e.cfg.HoldOthers != nil {
		e.cfg.HoldOthers(ctx, others)
	}
	if err := e.gate.quiet(ctx); err != nil {
		e.log.Warn("the lead is handed over though proposals are under way", zap.Error(err))
	}
	return e.gate.open
}

// moveStill is for who has the lead move by a call.
func (e *Engine) moveStill(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if _, ok := request.(*pb.MoveLeaderRequest); ok {
		if m := e.running.Load(); m != nil && m.Server.Lead() == uint64(m.Server.MemberID()) {
			defer e.still(ctx, m)()
		}
	}
	return handler(ctx, request)
}

// handOver has another voter lead, if this member does.
func (e *Engine) handOver(m *embed.Etcd) {
	voters := 0
	for _, x := range m.Server.Cluster().Members() {
		if !x.IsLearner {
			voters++
		}
	}
	if voters < 2 || m.Server.Lead() != uint64(m.Server.MemberID()) {
		return
	}
	begun := time.Now()
	defer e.still(context.Background(), m)()
	moved := make(chan error, 1)
	go func() { moved <- m.Server.TryTransferLeadershipOnShutdown() }() // ends with the member
	if err := e.another(m, moved); err != nil {
		e.log.Warn("cannot hand over the lead without a stop", zap.Error(err))
		return
	}
	e.log.Info("handed over the lead", zap.Duration("duration", time.Since(begun)))
}

// another waits until another member leads.
func (e *Engine) another(m *embed.Etcd, moved <-chan error) error {
	patience := time.NewTimer(handoverMost)
	defer patience.Stop()
	for {
		changed := m.Server.LeaderChangedNotify()
		if now := m.Server.Lead(); now != 0 && now != uint64(m.Server.MemberID()) {
			return nil
		}
		select {
		case <-changed:
		case err := <-moved:
			if moved = nil; err != nil {
				return err
			}
		case <-patience.C:
			return errors.New("no other member takes over")
		}
	}
}
