package hosttest

import (
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// yields is v with its places yielding, but of what was heard up to unheard.
func yields(v hostops.VPC, unheard uint64) hostops.VPC {
	v.Places = append([]hostops.Place{}, v.Places...)
	for i := range v.Places {
		v.Places[i].Yields, v.Places[i].Unheard, v.Places[i].Addresses = true, unheard, nil
	}
	return v
}

// hears waits until a bridge has heard exactly that of workloads, but for counts, and
// returns those.
func (b *bench) hears(step, bridge string, want map[cluster.MAC]string) map[cluster.MAC]uint64 {
	b.t.Helper()
	l := b.driver.(hostops.Listener)
	for deadline := time.After(10 * time.Second); ; {
		got, counts := map[cluster.MAC]string{}, map[cluster.MAC]uint64{}
		for mac, h := range l.Heard(bridge).All() {
			if [5]byte(mac[:5]) == [5]byte{2, 0, 0, 0, 1} { // the ports themselves speak, too
				got[mac], counts[mac] = h.Port, h.Count
			}
		}
		if maps.Equal(got, want) {
			return counts
		}
		select {
		case <-l.Hears():
		case <-deadline:
			b.t.Fatalf("%s: heard %v, want %v", step, got, want)
		}
	}
}

// leads compares where a bridge's tunnel sends for workload 1, and whether for good.
func (b *bench) leads(step string, to netip.Addr, yields bool) {
	b.t.Helper()
	s, err := b.driver.Observe(b.t.Context(), false)
	must(b.t, err)
	d, mac := s.Devices["mv6-10000"], Workload(1, to).MAC
	at, _ := d.FDB.Get(mac)
	if at != to || d.Yielding.Has(mac) != yields {
		b.t.Errorf("%s: sends to %v, yields %v; want %v, %v", step, at, d.Yielding.Has(mac), to, yields)
	}
}

// yielding has a workload that others told of speak at a port of the host's own: the
// bridge believes its ears, the driver says so, and nobody overrules it who does not
// know it; who does can.
func yielding(t *testing.T, b *bench) {
	l, can := b.driver.(hostops.Listener)
	if !can {
		t.Skip("this driver cannot listen")
	}
	must(t, l.Listen(t.Context(), []string{"neta"}))
	v := yields(MakeStatic(0), 0)
	mac, peer := v.Places[1].MAC, v.Places[1].At
	b.converge(v)
	b.holds("told", v)
	b.leads("told", peer, true)
	for _, port := range []string{"ext0", "ext1"} {
		must(t, b.kernel.AddDevice(port, hostops.Other{MTU: 1430}))
		must(t, b.kernel.SetMaster(port, "neta"))
		must(t, b.kernel.SetUp(port, true))
	}
	b.converge(v)
	b.hears("nobody spoke", "neta", map[cluster.MAC]string{})

	must(t, b.kernel.Speak("ext0", mac))
	first := b.hears("spoke here", "neta", map[cluster.MAC]string{mac: "ext0"})[mac]
	b.leads("spoke here", netip.Addr{}, false)
	if r := b.pass(false, v); len(r.Applied) > 0 || first == 0 {
		t.Errorf("it was heard (count %d), and the host was told %v", first, r.Applied)
	}
	must(t, b.kernel.Speak("ext1", mac))
	second := b.hears("spoke at another port", "neta", map[cluster.MAC]string{mac: "ext1"})[mac]
	if second <= first {
		t.Errorf("heard at another port with count %d, after %d", second, first)
	}
	b.leads("spoke at another port", netip.Addr{}, false)

	here := Move(v, 1, netip.Addr{})
	b.converge(here)
	b.holds("it is here", here)
	again := yields(v, second)
	b.converge(again)
	b.leads("it went away", peer, true)
	b.hears("it went away", "neta", map[cluster.MAC]string{})
	must(t, b.kernel.Speak("ext0", mac))
	if third := b.hears("it came back", "neta", map[cluster.MAC]string{mac: "ext0"})[mac]; third <= second {
		t.Errorf("heard again with count %d, after %d", third, second)
	}

	firm := MakeStatic(0)
	b.converge(firm)
	b.holds("an endpoint has it", firm)
	b.hears("an endpoint has it", "neta", map[cluster.MAC]string{})
	must(t, b.kernel.Speak("ext0", mac))
	must(t, b.kernel.Speak("ext1", Workload(9, peer).MAC)) // and that is heard after it
	b.hears("an endpoint has it", "neta", map[cluster.MAC]string{Workload(9, peer).MAC: "ext1"})
	b.leads("an endpoint has it", peer, false)
	b.converge(v)
	b.leads("no endpoint has it any more", peer, true)
	must(t, b.kernel.Speak("ext0", mac))
	b.hears("no endpoint has it any more", "neta", map[cluster.MAC]string{mac: "ext0", Workload(9, peer).MAC: "ext1"})

	must(t, b.kernel.SetMaster("ext0", ""))
	b.hears("its port left", "neta", map[cluster.MAC]string{Workload(9, peer).MAC: "ext1"})
	b.adoptsHeard(v)
}

// adoptsHeard has another driver take over: it knows what was heard before, and that it
// was.
func (b *bench) adoptsHeard(v hostops.VPC) {
	b.t.Helper()
	must(b.t, b.driver.Close())
	b.open()
	must(b.t, b.driver.(hostops.Listener).Listen(b.t.Context(), []string{"neta"}))
	b.converge(v)
	counts := b.hears("taken over", "neta", map[cluster.MAC]string{Workload(9, netip.Addr{}).MAC: "ext1"})
	if diff := cmp.Diff(map[cluster.MAC]uint64{Workload(9, netip.Addr{}).MAC: 0}, counts); diff != "" {
		b.t.Errorf("taken over: counts (-want +got):\n%s", diff)
	}
	must(b.t, b.driver.(hostops.Listener).Listen(b.t.Context(), nil))
	if n := b.driver.(hostops.Listener).Heard("neta").Len(); n != 0 {
		b.t.Errorf("not listening, %d heard", n)
	}
	b.converge()
}
