package sim

import (
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// large makes a quiet world of n nodes at rest.
func large(n int) *World {
	w := New(Config{Seed: 1, Nodes: n, Quiet: true})
	w.run(w.now + 20*time.Second)
	return w
}

// mesh wants vpc1 over all nodes.
func (w *World) mesh() {
	w.operator.put(cluster.KeyVPCSpec("vpc1"), &cluster.VPCSpec{State: cluster.VPCActive, Members: cluster.SelectAll,
		PeerNetwork: netip.MustParsePrefix("10.100.0.0/16")})
}

// converge lets time pass until every kernel sends to all others, and returns
// how long that took by the world's clock; it fails after a minute.
func (w *World) converge(tb testing.TB) time.Duration {
	tb.Helper()
	for start := w.now; w.now < start+time.Minute; w.run(w.now + 10*time.Millisecond) {
		if !slices.ContainsFunc(w.nodes, func(n *node) bool {
			return n.host.Flood(hostops.TunnelOf(100, netip.IPv6Unspecified())) != len(w.nodes)-1
		}) {
			return w.now - start
		}
	}
	tb.Fatal("the mesh is not whole after a minute")
	return 0
}

// TestJoinIsConstantWork: what one more node costs the store and every other
// host does not depend on how many there are.
func TestJoinIsConstantWork(t *testing.T) {
	type work struct {
		Revisions int64 // of the store, in all
		Writes    int   // to the kernel of each other host
		Passes    int   // of each other host's agent, at most
	}
	join := func(n int) work {
		w := large(n)
		w.mesh()
		w.converge(t)
		w.run(w.now + 90*time.Second) // at rest
		revision := w.kv.Revision()
		others := slices.Clone(w.nodes)
		writes, passes := map[*node]int{}, map[*node]int{}
		for _, x := range others {
			writes[x], passes[x] = x.host.Writes(), x.passes
		}
		w.operator.addNode()
		w.converge(t)
		w.run(w.now + 5*time.Second)
		got := work{Revisions: w.kv.Revision() - revision, Writes: others[0].host.Writes() - writes[others[0]]}
		for _, x := range others {
			if d := x.host.Writes() - writes[x]; d != got.Writes {
				t.Errorf("%d nodes: %s wrote %d times to its kernel, %s %d times", n, x.name, d, others[0].name, got.Writes)
			}
			got.Passes = max(got.Passes, x.passes-passes[x])
		}
		return got
	}
	few, many := join(10), join(150)
	t.Logf("a join costs %+v", many)
	if few.Revisions != many.Revisions || few.Writes != many.Writes {
		t.Errorf("a join into 10 costs %+v, into 150 %+v; want the same", few, many)
	}
	if many.Revisions > 6 || many.Writes > 4 || many.Passes > 4 {
		t.Errorf("a join costs %+v; want at most 6 revisions, 4 writes and 4 passes", many)
	}
}

// BenchmarkMesh: a VPC over n nodes, from its spec to whole kernels, and then
// one more node. It counts the processor time of both, which other work on the
// machine does not lengthen.
func BenchmarkMesh(b *testing.B) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(8 << 30)) // rather than collect garbage the more often the less there is
	defer debug.SetGCPercent(debug.SetGCPercent(300))
	for _, n := range []int{100, 300, 1000, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				w := large(n)
				b.StartTimer()
				mesh := cpuTime(b)
				w.mesh()
				took := w.converge(b)
				join := cpuTime(b)
				w.operator.addNode()
				w.converge(b)
				b.ReportMetric((join - mesh).Seconds(), "mesh-cpu-s")
				b.ReportMetric((cpuTime(b) - join).Seconds(), "join-cpu-s")
				b.ReportMetric(float64(took.Milliseconds()), "mesh-world-ms")
			}
			b.ReportMetric(float64(usage(b).Maxrss)/1024, "peak-MB")
		})
	}
}

// cpuTime is what this process has used so far.
func cpuTime(tb testing.TB) time.Duration {
	u := usage(tb)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func usage(tb testing.TB) (u syscall.Rusage) {
	tb.Helper()
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return u
}
