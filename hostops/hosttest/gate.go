package hosttest

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/hostops"
)

// gatedPorts follows which ports are gated: before they are up, and as long as they
// are there; tampering is repaired, and another driver finds all as it is.
func gatedPorts(t *testing.T, b *bench) {
	v := MakeVPC(0)
	one, two := MakePort(v, 1, b.room("a")), MakeTap(v, 2)
	one.Gated = true
	v = with(v, one, two)
	on := func(what string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(b.state().Filter.Gated)), values()); diff != "" {
			t.Errorf("%s: gated on the host (-want +got):\n%s", what, diff)
		}
	}
	r := b.pass(false, v)
	gate, up := -1, -1
	for i, op := range r.Applied {
		switch op.(type) {
		case hostops.Gate:
			gate = i
		case hostops.SetUp:
			if op.On().Object == one.Device {
				up = i
			}
		}
	}
	s := b.state()
	if gate < 0 || up < gate || !r.Attached[v.Name][one.Endpoint] || !s.OnlyGated(one.Device) || s.OnlyGated(two.Device) || !slices.Equal(s.OpenGated(), []string{one.Device}) {
		t.Errorf("gated by operation %d, up by %d; attached %v, problems %v, open %v", gate, up, r.Attached, r.Problems, s.OpenGated())
	}
	on("first", one.Device)
	b.silent(true, v)
	two.Gated = true
	b.converge(with(v, one, two))
	on("another", one.Device, two.Device)

	must(t, b.driver.Apply(t.Context(), hostops.Ungate{Devices: []string{two.Device}}))
	if n := b.converge(with(v, one, two)); n != 1 {
		t.Errorf("%d repairs of a port that somebody let go; want 1", n)
	}
	b.settle()
	must(t, b.kernel.WipeFilter())
	b.changed("wiped filter")
	if n := b.converge(with(v, one, two)); n < 2 {
		t.Errorf("%d repairs of a wiped filter", n)
	}
	on("wiped", one.Device, two.Device)
	must(t, b.driver.Close())
	b.open()
	b.silent(false, with(v, one, two))

	one.Gated = false
	b.converge(with(v, one, two))
	on("not any more", two.Device)
	b.converge(with(v, one))
	on("detached")
}

// gateShuts: the gate is shut unless it is set, shuts by itself, is moved either way,
// outlives the driver, and is as it was after somebody wiped it.
func gateShuts(t *testing.T, b *bench) {
	v := MakeVPC(0)
	p := MakePort(v, 1, b.room("a"))
	p.Gated = true
	v = with(v, p)
	b.converge(v)
	g := func() hostops.Gater { return b.driver.(hostops.Gater) }
	const slack = 2 * hostops.GateDelay
	is := func(what string, want time.Duration) {
		t.Helper()
		until, err := g().GateUntil()
		if now := g().Uptime(); err != nil || want <= now && until > now || want > now && (until < want-slack || until > want+slack) {
			t.Errorf("%s: the gate is open until %s: %v; want %s; it is %s", what, until, err, want, now)
		}
	}
	is("fresh", 0)
	later := g().Uptime() + time.Hour
	must(t, g().SetGate(later))
	is("set", later)
	must(t, b.driver.Close())
	b.open()
	b.silent(false, v)
	is("another driver", later)
	sooner := g().Uptime() + time.Minute
	must(t, g().SetGate(sooner))
	is("sooner", sooner)
	must(t, b.kernel.WipeFilter())
	b.converge(v)
	is("wiped", sooner)
	must(t, g().SetGate(g().Uptime()))
	is("shut", 0)
	must(t, g().SetGate(g().Uptime()-time.Hour))
	is("shut again", 0)

	soon := g().Uptime() + 200*time.Millisecond
	must(t, g().SetGate(soon))
	for deadline := time.Now().Add(10 * time.Second); ; {
		until, err := g().GateUntil()
		now := g().Uptime()
		if err == nil && until <= now {
			if now < soon-slack {
				t.Errorf("it shut %s too early", soon-now)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it did not shut by itself: until %s, %v, and it is %s", until, err, now)
		}
	}
	b.converge()
	must(t, g().SetGate(g().Uptime()+time.Hour)) // without gated ports there is none to set
}
