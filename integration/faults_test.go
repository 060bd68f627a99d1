package integration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// TestFaults: what is no loss of a host moves nothing. A loss of which nobody can decide
// is decided when that is possible again. A host that is heard by nobody, but hears, is
// left, also while another does not confirm its fence, and is silent once it is heard.
func TestFaults(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	s := newService(ctx, t, "faults")

	s.stays(ctx, "the store is out of the owner's reach, its peers are not", func() {
		s.must(s.Lab.Tamper(ctx, first, "", "store-drop"))
		wait(ctx, 8*time.Second)
		s.must(s.Lab.Tamper(ctx, first, "", "store-pass"))
		wait(ctx, 2*time.Second)
	})
	s.unmoved(ctx, "the owner is cut off for 300 ms", func() {
		s.must(s.Lab.Cut(ctx, first, ""))
		wait(ctx, 300*time.Millisecond)
		s.must(s.Lab.Heal(ctx))
		wait(ctx, 3*time.Second)
	})
	s.stays(ctx, "the controller is frozen, and goes on when another leads", func() {
		was := s.controller(ctx)
		s.must(s.Lab.Freeze(ctx, was, "server"))
		s.must(s.Until(ctx, func() error {
			if now := s.controller(ctx); now == was {
				return fmt.Errorf("%s still leads", was)
			}
			return nil
		}))
		s.must(s.Lab.Thaw(ctx, was, "server"))
		wait(ctx, 3*time.Second)
	})
	s.stays(ctx, "the store's leader is killed", func() {
		was := s.leader(ctx)
		s.must(s.Lab.Kill(ctx, was, "server"))
		wait(ctx, 4*time.Second)
		s.must(s.Lab.StartServices(ctx, was, "server"))
	})
	s.undecided(ctx)
	s.unheard(ctx)
}

// unmoved wants the service to stay where it is while do runs, whatever is lost.
func (s *service) unmoved(ctx context.Context, what string, do func()) {
	s.t.Helper()
	node, epoch, err := s.where(ctx)
	s.must(err)
	got := s.pinging(ctx, s.client, do)
	s.t.Logf("%s: %s without an answer", what, got.Gap.Round(time.Millisecond))
	var now string
	var later int64
	s.must(s.Until(ctx, func() (err error) { now, later, err = s.where(ctx); return err }))
	if now != node || later != epoch {
		s.t.Errorf("%s: it was at %s in epoch %d, and is at %s in %d", what, node, epoch, now, later)
	}
	s.at(ctx, node)
}

// controller is the server that leads the controller, as plain hosts see it.
func (s *service) controller(ctx context.Context) string {
	s.t.Helper()
	var leader struct{ Value struct{ Name string } }
	s.must(s.Until(ctx, func() error {
		err := s.JSON(ctx, &leader, s.plain, "get", "leader/controller", "--timeout", "2s")
		if err == nil && leader.Value.Name == "" {
			err = fmt.Errorf("nobody leads")
		}
		return err
	}))
	return leader.Value.Name
}

// undecided loses the owner's host while no quorum is there: it is waited for that.
func (s *service) undecided(ctx context.Context) {
	s.t.Helper()
	wait(ctx, 8*time.Second) // a new leader has to be elected, and to see for itself
	got := s.pinging(ctx, s.client, func() {
		for _, h := range []string{second, "witness"} {
			s.must(s.Lab.Kill(ctx, h, "server"))
		}
		wait(ctx, time.Second)
		s.must(s.Lab.PowerOff(ctx, first))
		wait(ctx, 5*time.Second)
		begun := time.Now()
		for _, h := range []string{second, "witness"} {
			s.must(s.Lab.StartServices(ctx, h, "server"))
		}
		s.elsewhere(ctx, first)
		s.t.Logf("host lost without a quorum: elsewhere %s after that was back", time.Since(begun).Round(time.Millisecond))
	})
	s.t.Logf("host lost without a quorum: %s without an answer", got.Gap.Round(time.Millisecond))
	s.must(s.Lab.Boot(ctx, first))
	s.unfenced(ctx)
	s.must(s.Lab.AddWorkload(ctx, lab.Workload{Host: first, Name: serviceName}))
	s.must(s.Until(ctx, func() error { return s.silent(ctx, first) }))
}

// unheard has nobody hear the owner, which hears all, while the agent of a host that
// has nothing to do with it is frozen: the record names that as one that may not know.
func (s *service) unheard(ctx context.Context) {
	s.t.Helper()
	s.at(ctx, second)
	bystander := lab.Workload{Host: first, Name: "bystander", VPC: "vpc1", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.10.11.203/24")}}
	s.must(s.Lab.AddWorkload(ctx, bystander))
	wait(ctx, 8*time.Second)
	s.must(s.Lab.Freeze(ctx, first, "agent"))
	to, leads := "", s.controller(ctx)
	got := s.pinging(ctx, s.client, func() {
		for _, other := range []string{first, "skynet", "third"} {
			s.must(s.Lab.OneWay(ctx, second, other))
		}
		to = s.elsewhere(ctx, second)
	})
	s.t.Logf("owner heard by nobody, the controller at %s: %s without an answer, it is at %s", leads, got.Gap.Round(time.Millisecond), to)
	var shown struct {
		Failover struct{ Moved struct{ Unfenced []string } }
	}
	s.must(s.JSON(ctx, &shown, s.Server, "endpoint", "show", serviceName))
	if !slices.Contains(shown.Failover.Moved.Unfenced, first) {
		s.t.Errorf("%s cannot have confirmed the fence, and is not named: %v", first, shown.Failover.Moved.Unfenced)
	}
	s.must(s.Lab.Thaw(ctx, first, "agent"))
	s.must(s.Until(ctx, func() error { // who was frozen follows
		r, err := s.Lab.Ping(ctx, lab.Ping{Host: bystander.Host, Workload: bystander.Name, To: netip.MustParseAddr(serviceAddr), Count: 1, Timeout: 200 * time.Millisecond})
		if err == nil && r.Lost > 0 {
			err = fmt.Errorf("the service does not answer %s", bystander.Name)
		}
		return err
	}))
	s.stays(ctx, "heard again", func() {
		s.must(s.Lab.Heal(ctx))
		s.unfenced(ctx)
		s.must(s.Until(ctx, func() error { return s.silent(ctx, second) }))
		wait(ctx, time.Second)
	})
}
