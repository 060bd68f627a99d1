package integration

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// maxLostByMove is how many pings at 10 ms a planned move may lose on a machine that is
// busy with other things: one that nobody announces loses some fifty. The test logs how
// many it was; 2 at most are aimed at.
const maxLostByMove = 20

// TestVIP: an address that nothing is attached for is served by the hosts themselves.
// An agent's end loses nothing, planned moves lose next to nothing; it leaves a host
// that is drained, lost or cut off, and who had it and comes back keeps silent.
func TestVIP(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	s := newServiceOf(ctx, t, "vip", []string{"--mode", "vip"})

	s.stays(ctx, "agent killed", func() {
		s.must(s.Lab.Kill(ctx, first, "agent"))
		wait(ctx, 2*time.Second)
		s.must(s.Lab.StartServices(ctx, first, "agent"))
		wait(ctx, time.Second)
	})
	for _, to := range []string{second, third, first, third, second, first} {
		got := s.pinging(ctx, s.client, func() {
			wait(ctx, 500*time.Millisecond)
			_, err := s.Meshvpc(ctx, s.Server, "endpoint", "move", serviceName, "--node", to)
			s.must(err)
			s.at(ctx, to)
			wait(ctx, 500*time.Millisecond)
		})
		t.Logf("moved to %s: %d of %d pings lost, %s without an answer", to, got.Lost, got.Sent, got.Gap.Round(time.Millisecond))
		if got.Lost > maxLostByMove {
			t.Errorf("a planned move to %s lost %d pings, want %d at most", to, got.Lost, maxLostByMove)
		}
	}
	s.drained(ctx)
	s.thawed(ctx)
	wait(ctx, 8*time.Second)
	got := s.pinging(ctx, s.client, func() {
		s.must(s.Lab.PowerOff(ctx, second))
		s.at(ctx, first)
	})
	t.Logf("host powered off: %s without an answer, %d pings lost", got.Gap.Round(time.Millisecond), got.Lost)
	s.stays(ctx, "host boots", func() {
		s.must(s.Lab.Boot(ctx, second))
		s.unfenced(ctx)
		s.must(s.Until(ctx, func() error { return s.silent(ctx, second) }))
	})
}

// drained has the first host's endpoints leave it; one that is held stays.
func (s *service) drained(ctx context.Context) {
	s.t.Helper()
	_, err := s.Meshvpc(ctx, s.Server, "endpoint", "hold", serviceName)
	s.must(err)
	if out, err := s.Meshvpc(ctx, s.Server, "node", "drain", first); err == nil {
		s.t.Errorf("a node is drained of what is held: %s", out)
	}
	_, err = s.Meshvpc(ctx, s.Server, "endpoint", "release", serviceName)
	s.must(err)
	got := s.pinging(ctx, s.client, func() {
		_, err = s.Meshvpc(ctx, s.Server, "node", "drain", first)
		s.must(err)
		s.at(ctx, second)
	})
	if got.Lost > maxLostByMove {
		s.t.Errorf("a drain lost %d pings, want %d at most", got.Lost, maxLostByMove)
	}
	_, err = s.Meshvpc(ctx, s.Server, "node", "resume", first)
	s.must(err)
}

// thawed freezes the agent of the host that has it, and cuts that off: another gets it,
// and when the old owner is back, it goes on for a moment where it was, hears that it
// is none, and is silent.
func (s *service) thawed(ctx context.Context) {
	s.t.Helper()
	s.must(s.Lab.Freeze(ctx, second, "agent"))
	for _, other := range []string{first, third, "witness"} {
		s.must(s.Lab.Cut(ctx, second, other))
	}
	s.must(s.Until(ctx, func() error {
		node, _, err := s.where(ctx)
		if err == nil && node == second {
			err = fmt.Errorf("it is still at %s", node)
		}
		return err
	}))
	node, _, err := s.where(ctx)
	s.must(err)
	s.at(ctx, node)
	s.stays(ctx, "thawed", func() {
		s.must(s.Lab.Heal(ctx))
		s.must(s.Lab.Thaw(ctx, second, "agent"))
		s.unfenced(ctx)
		s.must(s.Until(ctx, func() error { return s.silent(ctx, second) }))
	})
	_, err = s.Meshvpc(ctx, s.Server, "endpoint", "move", serviceName, "--node", second)
	s.must(err)
	s.at(ctx, second)
}
