package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// beside is a workload on a host's own bridge, whose frames pass no tunnel.
func (s *service) beside(ctx context.Context, host, name, addr string) lab.Workload {
	s.t.Helper()
	w := lab.Workload{Host: host, Name: name, VPC: "vpc1", Prefixes: []netip.Prefix{netip.MustParsePrefix(addr + "/24")}}
	s.must(s.Lab.AddWorkload(ctx, w))
	return w
}

// deaf waits until the service does not answer a workload.
func (s *service) deaf(ctx context.Context, w lab.Workload) {
	s.t.Helper()
	s.must(s.Until(ctx, func() error {
		r, err := s.Lab.Ping(ctx, lab.Ping{Host: w.Host, Workload: w.Name, To: netip.MustParseAddr(serviceAddr), Count: 3, Interval: 50 * time.Millisecond, Timeout: 200 * time.Millisecond})
		if err == nil && r.Lost < r.Sent {
			err = errors.New("the service still answers " + w.Name)
		}
		return err
	}))
}

// elsewhere waits until another node has the service, and it answers there.
func (s *service) elsewhere(ctx context.Context, from string) (node string) {
	s.t.Helper()
	s.must(s.Until(ctx, func() (err error) {
		if node, _, err = s.where(ctx); err == nil && (node == "" || node == from) {
			err = fmt.Errorf("the service is at %q", node)
		}
		return err
	}))
	s.at(ctx, node)
	return node
}

// strictSafety is what a takeover takes at most here: far more than it should.
const strictSafety = 40 * time.Second

// TestStrict: of an endpoint that is exclusive strict no two hosts answer, not even
// those beside them. The owner's agent that is frozen has its port shut by the kernel,
// another host takes over, and after the thaw nothing is heard of the first; a planned
// move waits for the old owner; the loss of all servers shuts it, and their return opens
// it; the loss of the host moves it.
func TestStrict(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	s := newServiceOf(ctx, t, "strict", []string{"--mode", "stateless", "--exclusive", "strict"}, first, second, third)
	_, err := s.Meshvpc(ctx, s.Server, "failover", "profile", "default") // a busy machine does not reach the other's times
	s.must(err)
	near := s.beside(ctx, first, "near", "10.10.11.202")
	far := s.beside(ctx, second, "far", "10.10.11.203")

	// Killed for less than a grant, its agent loses no frame.
	s.stays(ctx, "agent killed", func() {
		s.must(s.Lab.Kill(ctx, first, "agent"))
		s.must(s.Lab.StartServices(ctx, first, "agent"))
		wait(ctx, 3*time.Second)
	})

	var beside, outside lab.PingResult
	beside = s.pinging(ctx, near, func() {
		outside = s.pinging(ctx, s.client, func() {
			s.must(s.Lab.Freeze(ctx, first, "agent"))
			s.elsewhere(ctx, first)
			s.must(s.Lab.Thaw(ctx, first, "agent"))
			s.must(s.Until(ctx, func() error { return s.silent(ctx, first) }))
			wait(ctx, time.Second)
		})
	})
	t.Logf("agent frozen: %s without an answer outside, %s beside the first", outside.Gap.Round(time.Millisecond), beside.Gap.Round(time.Millisecond))
	if outside.Gap == 0 || outside.Gap > strictSafety {
		t.Errorf("agent frozen: %s without an answer", outside.Gap)
	}

	// A planned move: heard from both sides at once, and answered by one.
	s.unfenced(ctx)
	got := s.pinging(ctx, far, func() {
		outside = s.pinging(ctx, s.client, func() {
			_, err := s.Meshvpc(ctx, s.Server, "endpoint", "move", serviceName, "--node", first)
			s.must(err)
			s.at(ctx, first)
			wait(ctx, time.Second)
		})
	})
	t.Logf("moved: %s without an answer outside, %s beside the old owner", outside.Gap.Round(time.Millisecond), got.Gap.Round(time.Millisecond))

	s.serversGone(ctx, near)
	wait(ctx, 8*time.Second) // a new leader has to be elected, and to see for itself
	got = s.pinging(ctx, s.client, func() {
		s.must(s.Lab.PowerOff(ctx, first))
		s.elsewhere(ctx, first)
	})
	t.Logf("host powered off: %s without an answer, %d pings lost", got.Gap.Round(time.Millisecond), got.Lost)
	if got.Gap > strictSafety {
		t.Errorf("host powered off: %s without an answer", got.Gap)
	}
}

// serversGone: without servers nothing is granted, so the port shuts, also for who is
// beside it; it opens again where it was.
func (s *service) serversGone(ctx context.Context, near lab.Workload) {
	servers := []string{third, second, "witness"}
	node, epoch, err := s.where(ctx)
	s.must(err)
	for _, h := range servers {
		s.must(s.Lab.Kill(ctx, h, "server"))
	}
	s.deaf(ctx, s.client)
	s.deaf(ctx, near)
	for _, h := range servers {
		s.must(s.Lab.StartServices(ctx, h, "server"))
	}
	s.at(ctx, node)
	if now, later, err := s.where(ctx); err != nil || now != node || later < epoch {
		s.t.Errorf("after all servers were gone it is at %s in epoch %d, was at %s in %d: %v", now, later, node, epoch, err)
	}
	s.must(s.Until(ctx, func() error {
		r, err := s.Lab.Ping(ctx, lab.Ping{Host: near.Host, Workload: near.Name, To: netip.MustParseAddr(serviceAddr), Count: 1, Timeout: 200 * time.Millisecond})
		if err == nil && r.Lost > 0 {
			err = fmt.Errorf("the service does not answer %s", near.Name)
		}
		return err
	}))
}
