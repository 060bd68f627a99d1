package linux

import (
	"slices"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/hosttest"
)

// TestGatedFrames: while the gate is shut nothing gets out of a gated port, nor to it,
// not even from the same bridge; another port goes on. It shuts by itself with no
// driver left, and then nothing passes either.
func TestGatedFrames(t *testing.T) {
	hosts := newUnderlay(t, 1, 1500)
	h := hosts[0]
	v := mesh(hosts, 0, "blue", 10000, false)
	gated, free := hosttest.MakePort(v, 1, h.room("a")), hosttest.MakePort(v, 2, h.room("b"))
	gated.Gated, gated.Trusted, free.Trusted = true, true, true
	v.Ports = []hostops.Port{gated, free}
	slices.SortFunc(v.Ports, func(a, b hostops.Port) int { return slices.Compare([]byte(a.Device), []byte(b.Device)) })
	h.attach(v)
	carries(t, h.ns, gated.Device)
	carries(t, h.ns, free.Device)
	in, other := h.inside(gated.Namespace, gated.Inner), h.inside(free.Namespace, free.Inner)
	out := h.tenant("blue", "t0")
	own := in.listen(gated.Namespace)

	says := func(text string) func() { return func() { in.send(message(in.mac, text)) } }
	asks := func(text string) func() { return func() { out.send(message(out.mac, text)) } }
	ends := func(text string) func() { return func() { other.send(message(other.mac, text)) } }
	shut := func(what string) {
		t.Helper()
		out.drain()
		repeat(says("from it, " + what))
		if got := out.until("end, "+what, ends("end, "+what)); slices.Contains(got, "from it, "+what) {
			t.Errorf("%s: it was heard", what)
		}
	}
	shut("fresh")
	must(t, h.driver.SetGate(uptime()+time.Hour))
	out.until("open", says("open"))
	own.until("to it", asks("to it"))
	must(t, h.driver.SetGate(uptime()))
	shut("shut")
	repeat(asks("to it, shut"))
	must(t, h.driver.SetGate(uptime()+time.Hour))
	if got := own.until("open again", asks("open again")); slices.Contains(got, "to it, shut") {
		t.Error("it was asked while the gate was shut")
	}

	until := uptime() + 300*time.Millisecond
	must(t, h.driver.SetGate(until))
	must(t, h.driver.Close())
	for uptime() < until+hostops.GateDelay {
		says("going on")()
	}
	shut("by itself")
}
