package integration

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/integration/lab"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// arpFrame asks, or says, who has to.
func arpFrame(from cluster.MAC, sender, to netip.Addr) []byte {
	f := slices.Repeat([]byte{0xff}, 6)
	f = append(append(f, from[:]...), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	f = append(append(f, from[:]...), sender.AsSlice()...)
	f = append(append(f, make([]byte, 6)...), to.AsSlice()...)
	return append(f, make([]byte, 18)...)
}

// TestStaticLearning has hosts know from records alone where workloads are.
func TestStaticLearning(t *testing.T) {
	ctx := within(t)
	m := newNodes(t, lab.Dual)
	m.create(ctx, "vpc1", "--network", tenants, "--learning", "static")
	var at []local.Attached
	for i, h := range m.hosts {
		at = append(at, m.inside(ctx, h, []string{"web1", "web2", "web3"}[i]))
	}
	pings := func() {
		for i, h := range m.hosts {
			for j, to := range at {
				if i != j {
					m.reached(ctx, h, at[i].Endpoint, to.Addresses...)
				}
			}
		}
	}
	pings()
	m.asksNobody(ctx, at)
	m.recordWins(ctx, at)
	m.moves(ctx, 4)

	_, err := m.Meshvpc(ctx, m.Server, "vpc", "set", "vpc1", "--learning", "dynamic")
	m.must(err)
	pings()
	_, err = m.Meshvpc(ctx, m.Server, "vpc", "set", "vpc1", "--learning", "static")
	m.must(err)
	pings()
	for _, h := range m.hosts {
		m.must(m.Until(ctx, func() error { return m.nothingToDo(ctx, h) }))
	}
}

// asksNobody has a workload ask 1,000 times who has an address, and listens at a third:
// all questions are answered, and none is heard there. One for an address that
// nobody has is.
func (m *mesh) asksNobody(ctx context.Context, at []local.Attached) {
	m.t.Helper()
	const questions = 1000
	from, to := at[0], at[1].Addresses[0].Addr()
	listen := func(h int, match lab.Match) *lab.SniffRun {
		s, err := m.Lab.StartSniff(ctx, lab.Sniff{Host: m.hosts[h], Workload: at[h].Endpoint, Match: match})
		m.must(err)
		return s
	}
	third := listen(2, lab.Match{EtherType: 0x0806, Source: from.MAC[:]})
	answers := listen(0, lab.Match{EtherType: 0x0806, Source: at[1].MAC[:]})
	ask := func(to netip.Addr, n int) {
		m.must(m.Lab.SendFrames(ctx, lab.Frames{Host: m.hosts[0], Workload: from.Endpoint, Frame: arpFrame(from.MAC, from.Addresses[0].Addr(), to), Count: n}))
	}
	ask(to, questions)
	ask(netip.MustParseAddr("10.10.11.200"), 1) // comes last, and is heard: so no other was
	m.must(m.Until(ctx, func() error {
		r, err := m.Lab.Ping(ctx, lab.Ping{Host: m.hosts[0], Workload: from.Endpoint, To: at[2].Addresses[0].Addr()})
		if err == nil && r.Lost > 0 {
			err = context.DeadlineExceeded
		}
		return err
	}))
	heard, err := third.Stop(ctx)
	m.must(err)
	said, err := answers.Stop(ctx)
	m.must(err)
	m.t.Logf("%d questions: %d answers, %d frames at a third host", questions, said.Count, heard.Count)
	if heard.Count > 2 || heard.Count < 1 || said.Count < questions { // its own question for the third may be another
		m.t.Errorf("heard %d, want the one for an address that nobody has; %d answers, want %d", heard.Count, said.Count, questions)
	}
}

// recordWins has somebody on another host claim a workload's MAC and address, by the
// bridge's name: nobody believes it.
func (m *mesh) recordWins(ctx context.Context, at []local.Attached) {
	m.t.Helper()
	w := lab.Workload{Host: m.hosts[2], Name: "liar", VPC: "vpc1", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.10.11.99/24")}}
	m.must(m.Lab.AddWorkload(ctx, w))
	ping, err := m.Lab.StartPing(ctx, lab.Ping{Host: m.hosts[0], Workload: "web1", To: at[1].Addresses[0].Addr(), Interval: 10 * time.Millisecond})
	m.must(err)
	ear, err := m.Lab.StartSniff(ctx, lab.Sniff{Host: m.hosts[0], Workload: "web1", Match: lab.Match{Contains: []byte("i am web2")}})
	m.must(err)
	victim := at[1]
	claim := arpFrame(victim.MAC, victim.Addresses[0].Addr(), victim.Addresses[0].Addr())
	lie := slices.Concat(at[0].MAC[:], victim.MAC[:], []byte{0x08, 0x00}, []byte("i am web2"), make([]byte, 40))
	for _, f := range [][]byte{claim, lie} {
		m.must(m.Lab.SendFrames(ctx, lab.Frames{Host: w.Host, Workload: w.Name, Frame: f, Count: 100, Interval: time.Millisecond}))
	}
	got, err := ping.Stop(ctx)
	m.must(err)
	heard, err := ear.Stop(ctx)
	m.must(err)
	if got.Lost > 0 || got.Received == 0 || heard.Count > 0 {
		m.t.Errorf("somebody claims a workload's MAC elsewhere: %d of %d pings lost, %d of its frames heard", got.Lost, got.Sent, heard.Count)
	}
	m.must(m.Lab.RemoveWorkload(ctx, w.Host, w.Name))
}
