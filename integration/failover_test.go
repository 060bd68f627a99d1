package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// service is an endpoint that moves by itself, on three hosts in two datacenters, and
// a client beside one of them.
type service struct {
	*trio
	client lab.Workload
}

const (
	serviceName = "www"
	serviceAddr = "10.10.11.100"
	first       = "gold-hoster-02" // it runs no server
	second      = "gold-hoster-01"
	third       = "jhoster1"
)

func newService(ctx context.Context, t *testing.T, name string) *service {
	t.Helper()
	return newServiceOf(ctx, t, name, []string{"--mode", "stateless"}, first, second, third)
}

// newServiceOf is one that is made with these flags, attached at some hosts.
func newServiceOf(ctx context.Context, t *testing.T, name string, flags []string, attached ...string) *service {
	t.Helper()
	s := &service{trio: newTrio(ctx, t, name)}
	for _, args := range [][]string{
		{"failover", "profile", "fast"},
		{"vpc", "create", "vpc1", "--network", "10.10.11.0/24"},
		append([]string{"endpoint", "create", serviceName, "--vpc", "vpc1", "--ip", serviceAddr, "--place", first + ",dc=hetzner,dc=skynet"}, flags...),
	} {
		_, err := s.Meshvpc(ctx, s.Server, args...)
		s.must(err)
	}
	for _, host := range attached {
		s.attachAt(ctx, host)
	}
	s.client = lab.Workload{Host: third, Name: "client", VPC: "vpc1", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.10.11.201/24")}}
	s.must(s.Lab.AddWorkload(ctx, s.client))
	if len(attached) == 0 { // whoever was ready first has it
		s.must(s.Until(ctx, func() error {
			_, err := s.Meshvpc(ctx, s.Server, "endpoint", "move", serviceName, "--node", first)
			return err
		}))
	}
	s.at(ctx, first)
	return s
}

// attachAt runs the service on a host.
func (s *service) attachAt(ctx context.Context, host string) {
	s.t.Helper()
	s.must(s.Lab.AddWorkload(ctx, lab.Workload{Host: host, Name: serviceName}))
	_, err := s.Meshvpc(ctx, host, "endpoint", "attach", serviceName, "--netns", serviceName)
	s.must(err)
}

// where is the service's node, and its epoch.
func (s *service) where(ctx context.Context) (node string, epoch int64, err error) {
	var w struct {
		Node  string
		Epoch int64
	}
	err = s.JSON(ctx, &w, s.Server, "endpoint", "where", serviceName, "--timeout", "2s")
	return w.Node, w.Epoch, err
}

// at waits until a node has the service, and it answers.
func (s *service) at(ctx context.Context, want string) {
	s.t.Helper()
	s.must(s.Until(ctx, func() error {
		node, epoch, err := s.where(ctx)
		if err == nil && node != want {
			err = fmt.Errorf("the service is at %q in epoch %d, want %s", node, epoch, want)
		}
		return err
	}))
	s.must(s.Until(ctx, func() error {
		r, err := s.Lab.Ping(ctx, lab.Ping{Host: s.client.Host, Workload: s.client.Name, To: netip.MustParseAddr(serviceAddr), Count: 1, Timeout: 200 * time.Millisecond})
		if err == nil && r.Lost > 0 {
			err = errors.New("the service does not answer")
		}
		return err
	}))
}

// pinging pings the service at 10 ms from a namespace while do runs.
func (s *service) pinging(ctx context.Context, w lab.Workload, do func()) lab.PingResult {
	s.t.Helper()
	run, err := s.Lab.StartPing(ctx, lab.Ping{Host: w.Host, Workload: w.Name, To: netip.MustParseAddr(serviceAddr), Interval: 10 * time.Millisecond})
	s.must(err)
	do()
	got, err := run.Stop(ctx)
	s.must(err)
	if got.Duplicates > 0 {
		s.t.Errorf("%d pings were answered twice", got.Duplicates)
	}
	return got
}

// stays wants the service to stay where it is, with no ping lost, while do runs.
func (s *service) stays(ctx context.Context, what string, do func()) {
	s.t.Helper()
	node, epoch, err := s.where(ctx)
	s.must(err)
	got := s.pinging(ctx, s.client, do)
	if got.Lost > 0 {
		s.t.Errorf("%s: %d of %d pings lost", what, got.Lost, got.Sent)
	}
	var now string
	var later int64
	s.must(s.Until(ctx, func() (err error) { now, later, err = s.where(ctx); return err }))
	if now != node || later != epoch {
		s.t.Errorf("%s: it was at %s in epoch %d, and is at %s in %d", what, node, epoch, now, later)
	}
}

// unfenced waits until no node is fenced.
func (s *service) unfenced(ctx context.Context) {
	s.t.Helper()
	s.must(s.Until(ctx, func() error {
		var status struct {
			Fences []struct{ Node, Why string }
		}
		err := s.JSON(ctx, &status, s.Server, "failover", "status")
		if err == nil && len(status.Fences) > 0 {
			err = fmt.Errorf("fences: %+v", status.Fences)
		}
		return err
	}))
}

// wait lets a fault last.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// TestFailover: the loss of an agent, or of all servers, moves nothing and loses
// nothing; that of a host or of a datacenter moves the service, with its address; who
// had it and comes back keeps silent.
func TestFailover(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	s := newService(ctx, t, "failover")

	s.stays(ctx, "agent killed", func() {
		s.must(s.Lab.Kill(ctx, first, "agent"))
		wait(ctx, 3*time.Second)
		s.must(s.Lab.StartServices(ctx, first, "agent"))
		wait(ctx, time.Second)
	})
	s.stays(ctx, "agent frozen", func() {
		s.must(s.Lab.Freeze(ctx, first, "agent"))
		wait(ctx, 6*time.Second)
		s.must(s.Lab.Thaw(ctx, first, "agent"))
		wait(ctx, time.Second)
	})
	s.stays(ctx, "all servers gone", func() {
		servers := []string{third, second, "witness"}
		for _, h := range servers {
			s.must(s.Lab.Kill(ctx, h, "server"))
		}
		wait(ctx, 8*time.Second)
		for _, h := range servers {
			s.must(s.Lab.StartServices(ctx, h, "server"))
		}
		wait(ctx, 2*time.Second)
	})

	wait(ctx, 8*time.Second) // a new leader has to be elected, and to see for itself
	got := s.pinging(ctx, s.client, func() {
		s.must(s.Lab.PowerOff(ctx, first))
		s.at(ctx, second)
	})
	t.Logf("host powered off: %s without an answer, %d pings lost", got.Gap.Round(time.Millisecond), got.Lost)
	s.stays(ctx, "host boots", func() {
		s.must(s.Lab.Boot(ctx, first))
		s.unfenced(ctx)
		s.must(s.Lab.AddWorkload(ctx, lab.Workload{Host: first, Name: serviceName})) // its agent waits for it
		s.must(s.Until(ctx, func() error { return s.silent(ctx, first) }))
	})

	s.cutOff(ctx)
}

// cutOff cuts the datacenter that has the service from the others: these give it to
// another node, while its own side keeps it; after that the old owner is silent.
func (s *service) cutOff(ctx context.Context) {
	inside := lab.Workload{Host: first, Name: "inside", VPC: "vpc1", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.10.11.202/24")}}
	s.must(s.Lab.AddWorkload(ctx, inside))
	leads := s.controller(ctx)
	var outside lab.PingResult
	own := s.pinging(ctx, inside, func() {
		outside = s.pinging(ctx, s.client, func() {
			s.must(s.Lab.Cut(ctx, "hetzner", "skynet"))
			s.must(s.Lab.Cut(ctx, "hetzner", "third"))
			s.at(ctx, third)
			wait(ctx, time.Second)
		})
	})
	s.t.Logf("datacenter cut off, the controller at %s: %s without an answer outside, %s inside", leads, outside.Gap.Round(time.Millisecond), own.Gap.Round(time.Millisecond))
	if own.Lost > 0 {
		s.t.Errorf("%d of %d pings lost on the side that was cut off", own.Lost, own.Sent)
	}
	s.stays(ctx, "healed", func() {
		s.must(s.Lab.Heal(ctx))
		s.unfenced(ctx)
		s.must(s.Until(ctx, func() error { return s.silent(ctx, second) }))
		wait(ctx, time.Second)
	})
}

// silent wants a host to report that it serves nothing.
func (s *service) silent(ctx context.Context, host string) error {
	var shown struct{ Failover struct{ Standby []string } }
	err := s.JSON(ctx, &shown, s.Server, "endpoint", "show", serviceName)
	if err == nil && !slices.Contains(shown.Failover.Standby, host) {
		err = fmt.Errorf("%s is not in standby: %v", host, shown.Failover.Standby)
	}
	return err
}
