package etcd

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// gate can make calls wait. A member that is not the leader sends its proposals
// there, and what a leader gets while it hands over is dropped without a word: who
// proposed it would wait in vain. So all members let nothing new through in that
// moment.
type gate struct {
	mu       sync.Mutex
	held     chan struct{} // closed when the gate opens; nil: it is open
	opens    *time.Timer
	under    int           // proposals under way
	finished chan struct{} // closed when there is none any more; nil: nobody waits
}

// hold closes the gate, for most at the longest. What it returns is closed when the
// gate opens.
func (g *gate) hold(most time.Duration) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held == nil {
		g.held = make(chan struct{})
		g.opens = time.AfterFunc(most, g.open)
	} else {
		g.opens.Reset(most)
	}
	return g.held
}

// open lets go on what waits.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held != nil {
		g.opens.Stop()
		close(g.held)
		g.held = nil
	}
}

// quiet returns when no proposal is under way, or ctx ends.
func (g *gate) quiet(ctx context.Context) error {
	g.mu.Lock()
	if g.under == 0 {
		g.mu.Unlock()
		return nil
	}
	if g.finished == nil {
		g.finished = make(chan struct{})
	}
	finished := g.finished
	g.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-finished:
		return nil
	}
}

// enter waits for the gate to be open.
func (g *gate) enter(ctx context.Context, proposes bool) error {
	for {
		g.mu.Lock()
		held := g.held
		if held == nil {
			if proposes {
				g.under++
			}
			g.mu.Unlock()
			return nil
		}
		g.mu.Unlock()
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-held:
		}
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.under--; g.under == 0 && g.finished != nil {
		close(g.finished)
		g.finished = nil
	}
}

// unary is the gate as an interceptor.
func (g *gate) unary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	proposes := true
	switch request.(type) {
	case *pb.StatusRequest, *pb.MemberListRequest, *pb.MoveLeaderRequest: // how it is, and what the gate is closed for
		return handler(ctx, request)
	case *pb.RangeRequest, *pb.HashRequest, *pb.HashKVRequest, *pb.LeaseTimeToLiveRequest, *pb.LeaseLeasesRequest:
		proposes = false
	}
	if err := g.enter(ctx, proposes); err != nil {
		return nil, err
	}
	if proposes {
		defer g.leave()
	}
	return handler(ctx, request)
}
