package integration

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/integration/lab"
)

// published is a MAC's record.
type published struct {
	Node, Port string
	Sequence   uint64
	Duplicate  *struct{ Node, Port string }
}

// TestPublishedMACs has workloads that nobody attached be known to all hosts, move, be
// in two places, and be too many.
func TestPublishedMACs(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	m := newNodes(t, lab.Dual)
	m.create(ctx, "vpc1", "--learning", "publish")
	for i := range m.hosts {
		m.workloads = append(m.workloads, m.workload(ctx, i, "bare", "vpc1"))
	}
	m.awaitPings(ctx)
	m.floodsNothing(ctx)
	m.publishes(ctx)
	m.twice(ctx)
	m.tooMany(ctx)
	_, err := m.Meshvpc(ctx, m.Server, "vpc", "delete", "vpc1", "--yes", "--force")
	m.must(err)
	m.must(m.Until(ctx, func() error {
		left, err := m.Meshvpc(ctx, m.Server, "get", "--prefix", "status/")
		if err == nil && strings.Contains(left, "/macs/") {
			err = fmt.Errorf("left: %s", left)
		}
		return err
	}))
}

// macIn is the MAC of a workload.
func (m *mesh) macIn(ctx context.Context, w lab.Workload) (mac cluster.MAC) {
	m.t.Helper()
	mac, err := cluster.ParseMAC(m.output(ctx, w.Host, "ip netns exec "+w.Name+" cat /sys/class/net/eth0/address"))
	m.must(err)
	return mac
}

// floodsNothing pings between two workloads that nobody attached, and listens at a
// third: it hears none of it.
func (m *mesh) floodsNothing(ctx context.Context) {
	m.t.Helper()
	from, to, third := m.workloads[0], m.workloads[1], m.workloads[2]
	mac := m.macIn(ctx, from)
	ear, err := m.Lab.StartSniff(ctx, lab.Sniff{Host: third.Host, Workload: third.Name, Match: lab.Match{EtherType: 0x0800, Source: mac[:]}})
	m.must(err)
	r, err := m.Lab.Ping(ctx, lab.Ping{Host: from.Host, Workload: from.Name, To: to.Prefixes[0].Addr(), Count: 100})
	m.must(err)
	heard, err := ear.Stop(ctx)
	m.must(err)
	if r.Lost > 0 || heard.Count > 0 || heard.Dropped > 0 {
		m.t.Errorf("%d of 100 pings lost, a third host heard %d of them (%d not seen)", r.Lost, heard.Count, heard.Dropped)
	}
}

// entry is one entry that a host's kernel told of, by `bridge -timestamp monitor fdb`.
var entry = regexp.MustCompile(`(?m)^Timestamp: (.+) (\d+) usec\n([0-9a-f:]{17}) dev (\S+) (.*)$`)

// entriesOf follows the forwarding tables of all hosts until the function is called,
// which tells when each was first told of a MAC, in a line that is right.
func (m *mesh) entriesOf(ctx context.Context, mac cluster.MAC, right func(host, device, rest string) bool) (at func() map[string]time.Time) {
	m.t.Helper()
	ctx, end := context.WithCancel(ctx)
	var wg sync.WaitGroup
	outs := make([]bytes.Buffer, len(m.hosts))
	for i, h := range m.hosts {
		wg.Go(func() {
			code, err := m.Lab.Exec(ctx, lab.Command{Host: h, Argv: []string{"bridge", "-timestamp", "monitor", "fdb"}, Stdout: &outs[i]})
			if ctx.Err() == nil {
				m.t.Errorf("bridge monitor on %s: exit %d, %v", h, code, err)
			}
		})
	}
	for _, h := range m.hosts { // each has begun
		m.must(m.Until(ctx, func() error {
			if !strings.Contains(m.output(ctx, h, "cat /proc/net/netlink | wc -l; pgrep -f 'bridge -timestamp monitor' || true"), "\n") {
				return fmt.Errorf("%s has no monitor", h)
			}
			return nil
		}))
	}
	return func() map[string]time.Time {
		end()
		wg.Wait()
		first := map[string]time.Time{}
		for i, h := range m.hosts {
			for _, e := range entry.FindAllStringSubmatch(outs[i].String(), -1) {
				when, err := time.Parse(time.ANSIC, e[1])
				m.must(err)
				usec, err := time.ParseDuration(e[2] + "us")
				m.must(err)
				if _, had := first[h]; !had && e[3] == mac.String() && right(h, e[4], e[5]) {
					first[h] = when.Add(usec)
				}
			}
		}
		return first
	}
}

// publishes moves a workload from one host to another, where it has the next sequence,
// and tells how long after its first frame the last host had it.
func (m *mesh) publishes(ctx context.Context) {
	m.t.Helper()
	old, third := m.workloads[0], m.workloads[2]
	mac := m.macIn(ctx, old)
	var before published
	_, err := m.record(ctx, "vpcs/vpc1/macs/"+mac.String(), &before)
	m.must(err)
	if before.Node != old.Host || before.Port == "" || before.Duplicate != nil {
		m.t.Fatalf("published %+v, want it on %s", before, old.Host)
	}
	now := m.quiet(ctx, 1, "moved", old.Prefixes[0], mac)
	m.shell(ctx, old.Host, "ip netns exec "+old.Name+" ip link set eth0 down")
	at := m.entriesOf(ctx, mac, func(host, device, rest string) bool {
		if host == now.Host {
			return !strings.HasPrefix(device, "mv")
		}
		return strings.HasPrefix(device, "mv") && strings.Contains(rest, "self") && strings.Contains(rest, "dst")
	})
	frame := arpFrame(mac, old.Prefixes[0].Addr(), old.Prefixes[0].Addr())
	m.must(m.Lab.SendFrames(ctx, lab.Frames{Host: now.Host, Workload: now.Name, Frame: frame}))
	var after published
	m.must(m.Until(ctx, func() error {
		if _, err := m.record(ctx, "vpcs/vpc1/macs/"+mac.String(), &after); err != nil {
			return err
		}
		if after.Node != now.Host {
			return fmt.Errorf("it is still on %s", after.Node)
		}
		return nil
	}))
	if after.Sequence != before.Sequence+1 {
		m.t.Errorf("sequence %d after %d, want the next", after.Sequence, before.Sequence)
	}
	m.must(m.Until(ctx, func() error {
		r, err := m.Lab.Ping(ctx, lab.Ping{Host: third.Host, Workload: third.Name, To: old.Prefixes[0].Addr()})
		if err == nil && r.Lost > 0 {
			err = fmt.Errorf("%d pings were lost", r.Lost)
		}
		return err
	}))
	m.must(m.Lab.RemoveWorkload(ctx, old.Host, old.Name))
	times := at()
	spoke, told := times[now.Host], time.Duration(0)
	for _, h := range m.hosts {
		if times[h].IsZero() {
			m.t.Errorf("%s was never told: %v", h, times)
		}
		told = max(told, times[h].Sub(spoke))
	}
	m.t.Logf("%v after its first frame all hosts send to where it is now (load %s)", told, m.output(ctx, m.Server, "cut -d' ' -f1-2 /proc/loadavg"))
	var got learned
	m.must(m.JSON(ctx, &got, m.Server, "endpoint", "where", mac.String()))
	if got.Node != now.Host || got.State != "published" {
		m.t.Errorf("where: %+v, want it published at %s", got, now.Host)
	}
	m.workloads[0] = now
}

// quiet puts a workload with an address and a MAC on host i that says nothing by itself.
func (m *mesh) quiet(ctx context.Context, i int, name string, p netip.Prefix, mac cluster.MAC) lab.Workload {
	m.t.Helper()
	w := lab.Workload{Host: m.hosts[i], Name: name, VPC: "vpc1", Prefixes: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr("10.10.11.99"), 24)}}
	m.must(m.Lab.AddWorkload(ctx, w))
	in := "ip netns exec " + name + " "
	m.shell(ctx, w.Host, in+"sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1 && "+
		in+"ip link set eth0 address "+mac.String()+" && "+in+"ip address flush dev eth0 && "+in+"ip address add "+p.String()+" dev eth0")
	w.Prefixes = []netip.Prefix{p}
	return w
}

// twice has a second workload claim a MAC that is in use, again and again: it is found
// out, both ports are named, and the first keeps it.
func (m *mesh) twice(ctx context.Context) {
	m.t.Helper()
	first := m.workloads[0]
	mac := m.macIn(ctx, first)
	liar := m.quiet(ctx, 2, "liar", first.Prefixes[0], mac)
	key := "vpcs/vpc1/macs/" + mac.String()
	frame := arpFrame(mac, first.Prefixes[0].Addr(), first.Prefixes[0].Addr())
	var is published
	m.must(m.Until(ctx, func() error {
		for _, w := range []lab.Workload{first, liar} {
			if err := m.Lab.SendFrames(ctx, lab.Frames{Host: w.Host, Workload: w.Name, Frame: frame}); err != nil {
				return err
			}
		}
		is = published{}
		if _, err := m.record(ctx, key, &is); err != nil {
			return err
		}
		if is.Duplicate == nil {
			return fmt.Errorf("it is found nowhere twice: %+v", is)
		}
		return nil
	}))
	places := []string{is.Node + " " + is.Port, is.Duplicate.Node + " " + is.Duplicate.Port}
	for _, w := range []lab.Workload{first, liar} {
		if !slices.ContainsFunc(places, func(p string) bool {
			port, on := strings.CutPrefix(p, w.Host+" ")
			return on && slices.Contains(strings.Fields(m.output(ctx, w.Host, "ls /sys/class/net/vpc1/brif")), port)
		}) {
			m.t.Errorf("found at %v, want a port of %s", places, w.Host)
		}
	}
	out, err := m.Meshvpc(ctx, m.Server, "vpc", "status", "vpc1")
	if want := mac.String() + " is on two machines"; !strings.Contains(out, want) {
		m.t.Errorf("vpc status says (%v):\n%s\nwant %q", err, out, want)
	}
	_, revision, _ := m.frozen(ctx, key, liar, first, frame)
	m.t.Logf("it stays at %s, at revision %d", is.Node, revision)
	m.must(m.Lab.RemoveWorkload(ctx, liar.Host, liar.Name))
}

// frozen has both speak on, and wants the record to stay as it is.
func (m *mesh) frozen(ctx context.Context, key string, a, b lab.Workload, frame []byte) (is published, mod int64, err error) {
	m.t.Helper()
	mod, err = m.record(ctx, key, &is)
	m.must(err)
	for range 5 {
		for _, w := range []lab.Workload{a, b} {
			m.must(m.Lab.SendFrames(ctx, lab.Frames{Host: w.Host, Workload: w.Name, Frame: frame, Count: 20, Interval: 5 * time.Millisecond}))
		}
	}
	again, err := m.record(ctx, key, &is)
	m.must(err)
	if again != mod {
		m.t.Errorf("the record of a MAC that stays was written at revision %d, after %d", again, mod)
	}
	return is, mod, nil
}

// tooMany has a workload send from 20,000 random MACs: a bounded number is published,
// the host says so, and what others have to say goes on.
func (m *mesh) tooMany(ctx context.Context) {
	m.t.Helper()
	from := m.workloads[2]
	frame := arpFrame(cluster.MAC{2, 0, 0, 0, 0x55, 1}, netip.MustParseAddr("10.10.11.77"), netip.MustParseAddr("10.10.11.77"))
	m.must(m.Lab.SendFrames(ctx, lab.Frames{Host: from.Host, Workload: from.Name, Frame: frame, Count: 20000, Interval: 50 * time.Microsecond, RandomSource: true}))
	m.must(m.Until(ctx, func() error {
		out, err := m.Meshvpc(ctx, m.Server, "vpc", "status", "vpc1")
		if err == nil && !strings.Contains(out, "MACs are not published") {
			err = fmt.Errorf("%s does not say that it was too much:\n%s", from.Host, out)
		}
		return err
	}))
	out, err := m.Meshvpc(ctx, m.Server, "get", "--prefix", "vpcs/vpc1/macs/", "-o", "json")
	m.must(err)
	n := strings.Count(out, "/macs/")
	m.t.Logf("%d MACs are published", n)
	if n > cluster.MaxPublishedNode+10 || n < 100 {
		m.t.Errorf("%d MACs are published, want some hundred and %d at most for %s", n, cluster.MaxPublishedNode, from.Host)
	}
	m.must(m.Until(ctx, func() error {
		r, err := m.Lab.Ping(ctx, lab.Ping{Host: m.hosts[1], Workload: m.workloads[1].Name, To: from.Prefixes[0].Addr()})
		if err == nil && r.Lost > 0 {
			err = fmt.Errorf("%d pings were lost", r.Lost)
		}
		return err
	}))
}
