package watcher

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/fake"
)

// rested is an agent of n1 without the loop around it, on a clock of its own: all
// its peers answer every probe after restedRTT, and nothing changes but by put.
type rested struct {
	tb       testing.TB
	agent    *Agent
	kv       *mvcc.Memory
	store    *store.Store
	view     *store.View
	feeds    map[string]*store.Feed
	now      time.Time
	next     time.Time // of Effects
	resync   time.Time
	flying   []restedAnswer
	answered int // probes
}

type restedAnswer struct {
	at    time.Time
	probe Probe
}

const restedRTT = 10 * time.Millisecond

// newRested returns an agent at rest, with so many VPCs, of so many peers each.
func newRested(tb testing.TB, vpcs, peers int) *rested {
	tb.Helper()
	r := &rested{tb: tb, kv: mvcc.NewMemory(mvcc.Config{}), view: store.NewView(), feeds: map[string]*store.Feed{}, now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
	driver, err := fake.NewNetwork().NewHost(hostops.Address{Device: "u0", Prefix: netip.PrefixFrom(underlayOf(1), 64), MTU: 1500, Up: true}).Open()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = driver.Close() })
	r.store = store.New(r.kv, cluster.Identity{Role: cluster.Agent, Name: "n1"})
	r.put(cluster.Operator, cluster.KeyConfig, &cluster.Config{Cluster: "c", ID: "c1", Era: 1, UnderlayPort: 4789, VNIs: cluster.DefaultVNIRange, Encryption: "none"})
	r.put(cluster.Operator, cluster.KeyNode("n1"), &cluster.Node{ID: "id-n1", Datacenter: "dc1", State: cluster.NodeActive, Agent: true})
	for v := range vpcs {
		name := restedVPC(v)
		r.put(cluster.Controller, cluster.KeyVPCNet(name), &cluster.VPCNet{Phase: cluster.PhaseActive, VNI: cluster.VNI(10000 + v), MTU: 1430, PeerNetwork: netip.MustParsePrefix("10.100.0.0/16")})
		for i := range peers + 1 {
			r.put(cluster.Controller, cluster.KeyMember(name, fmt.Sprintf("n%d", i+1)), restedMember(i+1))
		}
		r.put(cluster.Controller, cluster.KeyHostVPC("n1", name), &cluster.HostVPC{State: cluster.AssignedMember})
	}
	r.agent, err = New(Config{
		Node: "n1", NodeID: "id-n1", Driver: driver, Cache: "none", Cached: []byte{}, Version: "test", OS: "fake", Store: r.store,
		Underlay: []UnderlaySpec{{Device: "u0"}}, Now: func() time.Time { return r.now }, Rand: rand.New(rand.NewPCG(1, 1)),
	})
	if err != nil {
		tb.Fatal(err)
	}
	for range 3 { // the prefixes, the VPCs' prefixes, and what was saved
		r.step(true)
	}
	r.run(time.Minute)
	for name, v := range r.agent.memory.VPCs {
		if w := r.agent.reports[name]; !v.kept || w == nil || !w.written.Ready || len(w.written.Links) != peers {
			tb.Fatalf("VPC %s is not at rest: %+v", name, w)
		}
	}
	if n := r.agent.links.count[cluster.LinkUp]; n != vpcs*peers {
		tb.Fatalf("%d links are up; want %d", n, vpcs*peers)
	}
	return r
}

func restedVPC(i int) string { return fmt.Sprintf("vpc%d", i+1) }

func restedMember(i int) *cluster.Member {
	return &cluster.Member{NodeID: fmt.Sprintf("id-n%d", i), Datacenter: "dc1", VTEP: netip.AddrFrom4([4]byte{10, 100, byte(i >> 8), byte(i)}),
		UnderlayIPv6: underlayOf(i), Transport: cluster.Multipoint}
}

func (r *rested) put(role cluster.Role, key string, record cluster.Record) {
	var c store.Change
	store.Set(&c, key, record, nil, 0)
	if _, err := store.New(r.kv, cluster.Identity{Role: role}).Commit(r.tb.Context(), c); err != nil {
		r.tb.Fatal(err)
	}
}

// hear takes what the store has to tell of a prefix into the view.
func (r *rested) hear(prefix string) {
	f := r.feeds[prefix]
	if err := f.Hear(r.view, r.kv.Poll(f.Watch(), 0)); err != nil {
		r.tb.Fatal(err)
	}
}

func (r *rested) step(full bool) {
	in := Input{Now: r.now, View: r.view, Full: full, Still: !full, Saved: true}
	if full {
		r.resync = r.now.Add(time.Minute)
	}
	r.do(r.agent.Step(r.tb.Context(), in))
}

// do carries effects out: what is written is not looked at.
func (r *rested) do(e Effects) {
	for _, prefix := range e.Follow {
		if r.feeds[prefix] == nil {
			r.feeds[prefix] = store.NewFeed(prefix)
			if err := r.feeds[prefix].Begin(r.tb.Context(), r.store, r.view); err != nil {
				r.tb.Fatal(err)
			}
		}
	}
	for _, p := range e.Probes {
		r.flying = append(r.flying, restedAnswer{r.now.Add(restedRTT), p})
	}
	r.next = e.Next
}

// run lets d pass.
func (r *rested) run(d time.Duration) {
	end := r.now.Add(d)
	for {
		at := earliest(r.next, r.resync)
		answer := len(r.flying) > 0 && !r.flying[0].at.After(at)
		if answer {
			at = r.flying[0].at
		}
		if at.After(end) {
			r.now = end
			return
		}
		r.now = at
		switch {
		case answer:
			r.answer()
		case at.Equal(r.resync):
			r.step(true)
		default:
			r.do(r.agent.Prove(r.now))
		}
	}
}

// answer lets the first answer on its way arrive.
func (r *rested) answer() {
	p := r.flying[0].probe
	r.flying = r.flying[1:]
	r.answered++
	r.agent.Answered(r.now, p, restedRTT, nil)
	r.do(r.agent.Prove(r.now))
}

// BenchmarkIdle is a minute in which nothing changes: probes, their answers and
// one full look at the host.
func BenchmarkIdle(b *testing.B) {
	for _, n := range []int{10, 50, 200} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := newRested(b, n, 3)
			before := r.answered
			b.ReportAllocs()
			for b.Loop() {
				r.run(time.Minute)
			}
			b.ReportMetric(float64(r.answered-before)/float64(b.N), "probes/op")
		})
	}
}

// BenchmarkPass is a pass that learns nothing.
func BenchmarkPass(b *testing.B) {
	for _, n := range []struct{ vpcs, peers int }{{1, 100}, {200, 3}, {50, 100}} {
		b.Run(fmt.Sprintf("vpcs=%d/peers=%d", n.vpcs, n.peers), func(b *testing.B) {
			r := newRested(b, n.vpcs, n.peers)
			b.ReportAllocs()
			for b.Loop() {
				r.step(false)
			}
		})
	}
}

// BenchmarkPeer is the pass in which a peer comes to one VPC, or goes.
func BenchmarkPeer(b *testing.B) {
	for _, n := range []struct{ vpcs, peers int }{{1, 100}, {1, 1000}, {200, 3}, {50, 100}} {
		b.Run(fmt.Sprintf("vpcs=%d/peers=%d", n.vpcs, n.peers), func(b *testing.B) {
			r := newRested(b, n.vpcs, n.peers)
			key, member := cluster.KeyMember("vpc1", "ghost"), restedMember(n.peers+2)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				if i%2 == 0 {
					r.put(cluster.Controller, key, member)
				} else {
					var c store.Change
					c.Remove(key, 0)
					if _, err := store.New(r.kv, cluster.Identity{Role: cluster.Controller}).Commit(b.Context(), c); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				r.hear(cluster.PrefixVPC("vpc1"))
				r.step(false)
			}
		})
	}
}

// TestAnswersCostTheSame: what a probe and its answer take of the agent does not
// grow with the VPCs of the host. What is made in memory stands for what is looked
// at: to go through the VPCs in order, or to say something of each, makes copies.
// More links have more probes sent together, in slices that double.
func TestAnswersCostTheSame(t *testing.T) {
	bytesPerProbe := func(vpcs int) int {
		r := newRested(t, vpcs, 3)
		r.resync = r.now.Add(time.Hour) // no look at the host, which costs what is there
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		answered := r.answered
		r.run(5 * time.Minute)
		runtime.ReadMemStats(&after)
		return int(after.TotalAlloc-before.TotalAlloc) / (r.answered - answered)
	}
	few, many := bytesPerProbe(10), bytesPerProbe(200)
	t.Logf("bytes for each probe: %d with 10 VPCs, %d with 200", few, many)
	if many > 3*few {
		t.Errorf("a probe takes %d bytes with 200 VPCs and %d with 10; want no growth", many, few)
	}
}
