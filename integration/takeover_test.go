package integration

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/lab"
)

var takeovers = flag.Int("takeovers", 0, "how many losses and moves of each kind to measure, beside keepalived where it is installed; 0: none")

// figures skips a test that only measures, unless it is asked for: it wants a machine
// of its own.
func figures(t *testing.T) {
	t.Helper()
	if *takeovers == 0 {
		t.Skip("it only measures: go test ./integration -run TestTakeover -takeovers 10 -timeout 1h")
	}
}

// TestTakeoverTimes measures how long a service is away when its host or its datacenter
// is lost, and how many pings a planned move costs, with each profile.
func TestTakeoverTimes(t *testing.T) {
	figures(t)
	ctx := t.Context()
	s := newService(ctx, t, "takeovers")
	for _, profile := range []string{"default", "fast"} {
		_, err := s.Meshvpc(ctx, s.Server, "failover", "profile", profile)
		s.must(err)
		s.gaps(ctx, profile+": host powered off", first, second)
		s.gaps(ctx, profile+": datacenter powered off", "hetzner", third)
		s.moves(ctx, profile)
	}
}

// TestTakeoverTimesFar is that with round trips between datacenters as they are over
// continents. The fast profile is not for them.
func TestTakeoverTimesFar(t *testing.T) {
	figures(t)
	ctx := t.Context()
	s := newService(ctx, t, "far")
	_, err := s.Meshvpc(ctx, s.Server, "failover", "profile", "default")
	s.must(err)
	for _, rtt := range []time.Duration{50 * time.Millisecond, 150 * time.Millisecond, 300 * time.Millisecond} {
		s.must(s.Lab.Heal(ctx))
		for _, pair := range [][2]string{{"hetzner", "skynet"}, {"hetzner", "third"}, {"skynet", "third"}} {
			s.must(s.Lab.Impair(ctx, lab.Impairment{A: pair[0], B: pair[1], Delay: rtt / 2}))
		}
		wait(ctx, time.Minute) // the stores may begin anew with other timings
		s.at(ctx, first)
		s.gaps(ctx, fmt.Sprintf("default, %s: host powered off", rtt), first, second)
		s.gaps(ctx, fmt.Sprintf("default, %s: datacenter powered off", rtt), "hetzner", third)
		s.moves(ctx, fmt.Sprintf("default, %s", rtt))
	}
}

// gaps takes the power of a side that has the service, which goes to a node, and gives
// it back, again and again.
func (s *service) gaps(ctx context.Context, what, side, to string) {
	s.t.Helper()
	var list []time.Duration
	for range *takeovers {
		got := s.pinging(ctx, s.client, func() {
			s.must(s.Lab.PowerOff(ctx, side))
			s.at(ctx, to)
		})
		list = append(list, got.Gap)
		s.must(s.Lab.Boot(ctx, side))
		s.must(s.AwaitNodes(ctx, 3))
		s.must(s.AwaitVoters(ctx, third, 3))
		s.unfenced(ctx)
		for _, host := range []string{first, second} {
			if side == "hetzner" || host == side {
				s.must(s.Lab.AddWorkload(ctx, lab.Workload{Host: host, Name: serviceName})) // its agent waits for it
			}
			if host != to {
				s.must(s.Until(ctx, func() error { return s.silent(ctx, host) }))
			}
		}
		_, err := s.Meshvpc(ctx, s.Server, "endpoint", "move", serviceName, "--node", first)
		s.must(err)
		s.at(ctx, first)
		wait(ctx, 10*time.Second) // whoever leads may be new, and has to see for itself
	}
	report(s.t, what, list)
}

// moves has an operator move the service to and fro.
func (s *service) moves(ctx context.Context, what string) {
	s.t.Helper()
	var lost []int
	for i := range 5 * *takeovers {
		to := []string{third, first}[i%2]
		got := s.pinging(ctx, s.client, func() {
			_, err := s.Meshvpc(ctx, s.Server, "endpoint", "move", serviceName, "--node", to)
			s.must(err)
			s.at(ctx, to)
			wait(ctx, time.Second)
		})
		lost = append(lost, got.Lost)
	}
	slices.Sort(lost)
	s.t.Logf("%s: planned moves at 10 ms pings: %d of %d lost none, most %d", what, len(lost)-len(slices.DeleteFunc(slices.Clone(lost), func(n int) bool { return n == 0 })), len(lost), lost[len(lost)-1])
}

func report(t *testing.T, what string, list []time.Duration) {
	t.Helper()
	slices.Sort(list)
	for i := range list {
		list[i] = list[i].Round(10 * time.Millisecond)
	}
	t.Logf("%s, %d times: median %s, longest %s (%v)", what, len(list), list[len(list)/2], list[len(list)-1], list)
}

const virtualAddr = "10.10.11.99"

// TestTakeoverBesideKeepalived takes the power of the host that has both the service and
// keepalived's address, with its defaults, in workloads on the same two hosts; and then
// cuts the way between the two: by keepalived both serve, of ours each side that can
// reach the store sees one owner.
func TestTakeoverBesideKeepalived(t *testing.T) {
	figures(t)
	if _, err := exec.LookPath("keepalived"); err != nil {
		t.Skip("keepalived is not installed")
	}
	ctx := t.Context()
	s := newService(ctx, t, "keepalived")
	k := &vrrp{service: s}
	defer k.end()
	for i, host := range []string{first, second} {
		k.start(ctx, host, 200-50*i)
	}
	for _, profile := range []string{"default", "fast"} {
		_, err := s.Meshvpc(ctx, s.Server, "failover", "profile", profile)
		s.must(err)
		k.lose(ctx, profile)
	}
	s.must(s.Lab.Cut(ctx, first, second))
	wait(ctx, 10*time.Second)
	t.Logf("keepalived, hosts cut from each other: serves at %v", s.answered(ctx, virtualAddr))
	t.Logf("meshvpc, the same: serves at %v", s.answered(ctx, serviceAddr))
}

// lose takes the power of the host that has both, and gives it back.
func (k *vrrp) lose(ctx context.Context, profile string) {
	k.t.Helper()
	var ours, theirs []time.Duration
	for range *takeovers {
		k.answers(ctx)
		wait(ctx, 10*time.Second)
		run, err := k.Lab.StartPing(ctx, lab.Ping{Host: k.client.Host, Workload: k.client.Name, To: netip.MustParseAddr(virtualAddr), Interval: 10 * time.Millisecond})
		k.must(err)
		got := k.pinging(ctx, k.client, func() {
			k.must(k.Lab.PowerOff(ctx, first))
			k.answers(ctx)
			k.elsewhere(ctx, first)
			k.answers(ctx)
		})
		ours = append(ours, got.Gap)
		other, err := run.Stop(ctx)
		k.must(err)
		theirs = append(theirs, other.Gap)
		k.must(k.Lab.Boot(ctx, first))
		k.unfenced(ctx)
		k.must(k.Lab.AddWorkload(ctx, lab.Workload{Host: first, Name: serviceName}))
		k.must(k.Until(ctx, func() error { return k.silent(ctx, first) }))
		k.start(ctx, first, 200)
		_, err = k.Meshvpc(ctx, k.Server, "endpoint", "move", serviceName, "--node", first)
		k.must(err)
		k.at(ctx, first)
	}
	report(k.t, "keepalived: host powered off", theirs)
	report(k.t, "meshvpc, "+profile+": the same", ours)
}

// answered are the hosts, of the two, on which an address answers to a workload beside
// it.
func (s *service) answered(ctx context.Context, address string) (hosts []string) {
	s.t.Helper()
	for i, host := range []string{first, second} {
		inside := lab.Workload{Host: host, Name: "beside" + address[len(address)-1:], VPC: "vpc1", Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 10, 11, byte(210 + 2*i + len(address)%2)}), 24)}}
		s.must(s.Lab.AddWorkload(ctx, inside))
		r, err := s.Lab.Ping(ctx, lab.Ping{Host: host, Workload: inside.Name, To: netip.MustParseAddr(address), Count: 5, Interval: 50 * time.Millisecond})
		s.must(err)
		if r.Received > 0 {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// vrrp is keepalived on some hosts, for virtualAddr.
type vrrp struct {
	*service
	running sync.WaitGroup
	stops   []context.CancelFunc
}

func (k *vrrp) start(ctx context.Context, host string, priority int) {
	k.t.Helper()
	w := lab.Workload{Host: host, Name: "vrrp", VPC: "vpc1", Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 10, 11, byte(priority)}), 24)}}
	k.must(k.Until(ctx, func() error { return k.Lab.AddWorkload(ctx, w) })) // the VPC may not be there yet
	dir := k.t.TempDir()
	config := filepath.Join(dir, "keepalived.conf")
	k.must(os.WriteFile(config, fmt.Appendf(nil, "vrrp_instance V {\n state BACKUP\n interface eth0\n virtual_router_id 51\n priority %d\n virtual_ipaddress {\n  %s/24\n }\n}\n", priority, virtualAddr), 0o644))
	ctx, stop := context.WithCancel(ctx)
	k.stops = append(k.stops, stop)
	k.running.Go(func() {
		var out bytes.Buffer
		_, err := k.Lab.Exec(ctx, lab.Command{Host: host, Workload: w.Name, Stdout: &out, Stderr: &out,
			Argv: []string{"keepalived", "--dont-fork", "--vrrp", "--use-file", config, "--pid", dir + "/pid", "--vrrp_pid", dir + "/vrrp"}})
		if err != nil && ctx.Err() == nil && !strings.Contains(err.Error(), "off") {
			k.t.Logf("keepalived on %s: %v: %s", host, err, out.String()) // its host may have lost its power
		}
	})
}

func (k *vrrp) end() {
	for _, stop := range k.stops {
		stop()
	}
	k.running.Wait()
}

// answers waits until the address answers.
func (k *vrrp) answers(ctx context.Context) {
	k.t.Helper()
	k.must(k.Until(ctx, func() error {
		r, err := k.Lab.Ping(ctx, lab.Ping{Host: k.client.Host, Workload: k.client.Name, To: netip.MustParseAddr(virtualAddr), Count: 1, Timeout: 200 * time.Millisecond})
		if err == nil && r.Lost > 0 {
			err = errors.New("no answer")
		}
		return err
	}))
}
