package hosttest

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// deviceLent: a device that somebody else made is a port as any other, and is left
// as it was but down when it is given back.
func deviceLent(t *testing.T, b *bench) {
	must(t, b.kernel.AddDevice("ext0", hostops.Other{MTU: 1500}))
	must(t, b.kernel.SetUp("ext0", true))
	v := MakeVPC(0)
	plain := v
	v = with(v, MakeLent(v, 1, "ext0"))
	b.converge(plain)
	b.reports(map[string]string{"w1": ""}, v)
	b.silent(true, v)
	s := b.state()
	d := s.Devices["ext0"]
	if d.Use != hostops.UseLent || d.Owner != v.VNI || d.Master != v.Name || !d.Up || d.MTU != v.MTU || d.Pinned != v.Ports[0].MAC || !d.Quiet {
		t.Errorf("ext0 is %+v", d)
	}
	for name, gives := range map[string][]hostops.VPC{"detached": {plain}, "VPC gone": nil} {
		b.converge(v)
		b.converge(gives...)
		o, there := b.state().Others["ext0"]
		if !there || o.Group != 0 || o.Master != "" || o.Up || slices.Contains(b.state().Devices["neta"].Ports, "ext0") {
			t.Errorf("%s: ext0 is %+v, there %v; want it without group and master, down", name, o, there)
		}
	}
	w := MakeVPC(1)
	w = with(w, MakeLent(w, 1, "ext0"))
	b.converge(v)
	b.converge(plain, w) // from one VPC to another at once
	if d := b.state().Devices["ext0"]; d.Owner != w.VNI || d.Master != w.Name {
		t.Errorf("ext0 is %+v, want it a port of %s", d, w.Name)
	}
	b.converge(w)
	must(t, b.kernel.DeleteDevice("ext0"))
	b.changed("deleted")
	b.reports(map[string]string{"w1": "device ext0 is not there"}, w)
}

func deviceInUse(t *testing.T, b *bench) {
	k, v := b.kernel, MakeVPC(0)
	must(t, k.AddDevice("br9", hostops.Other{Kind: hostops.KindBridge, MTU: 1500}))
	must(t, k.AddDevice("vx9", hostops.Other{Kind: hostops.KindTunnel, MTU: 1500, VNI: 9, Port: Port}))
	for _, name := range []string{"a0", "a1", "a2"} {
		must(t, k.AddDevice(name, hostops.Other{MTU: 1500}))
		must(t, k.SetUp(name, true))
	}
	must(t, k.AddAddress("a0", netip.MustParsePrefix("10.9.9.9/24")))
	must(t, k.AddRoute("a1", netip.MustParsePrefix("10.8.8.0/24")))
	must(t, k.SetMaster("a2", "br9"))
	b.converge(v)
	before := b.state().Others
	v = with(v, MakeLent(v, 0, "br9"), MakeLent(v, 1, "vx9"), MakeLent(v, 2, "u0"), MakeLent(v, 3, "a0"), MakeLent(v, 4, "a1"),
		MakeLent(v, 5, "a2"), MakeLent(v, 6, "mn-10000"), MakeLent(v, 7, "lo"), MakeLent(v, 8, "neta"))
	b.reports(map[string]string{
		"w0": "device br9 cannot be a port (bridge)", "w1": "device vx9 cannot be a port (vxlan)", "w2": "device u0 has the address",
		"w3": "device a0 has the address 10.9.9.9/24: it is this host's", "w4": "borrow device a1: mark of VNI 10000, no own addresses: it has the route 10.8.8.0/24",
		"w5": "device a2 is a port of br9", "w6": "device mn-10000 is meshvpc's own", "w7": "device lo ", "w8": "device neta is meshvpc's own",
	}, v)
	if diff := cmp.Diff(before, b.state().Others, values()); diff != "" {
		t.Errorf("what is not ours was changed (-want +got):\n%s", diff)
	}
}

func tamperingPorts(t *testing.T, b *bench) {
	k, v := b.kernel, MakeVPC(0)
	must(t, k.AddDevice("ext0", hostops.Other{MTU: 1500}))
	a := MakePort(v, 1, b.room("a"))
	standby := MakePort(v, 2, b.room("b"))
	standby.Standby = true
	v = with(v, MakeLent(v, 3, "ext0"), a, standby, MakeTap(v, 4))
	b.repairs(t, v, []tamper{
		{"deleted", func() error { return k.DeleteDevice(a.Device) }},
		{"tap deleted", func() error { return k.DeleteDevice("tap4") }},
		{"down", func() error { return k.SetUp(a.Device, false) }},
		{"tap down", func() error { return k.SetUp("tap4", false) }},
		{"lent one down", func() error { return k.SetUp("ext0", false) }},
		{"standby up", func() error { return k.SetUp(standby.Device, true) }},
		{"out of its bridge", func() error { return k.SetMaster(a.Device, "") }},
		{"lent one out of its bridge", func() error { return k.SetMaster("ext0", "") }},
		{"MTU", func() error { return k.SetMTU(a.Device, 1280) }},
		{"MTU of lent one", func() error { return k.SetMTU("ext0", 1280) }},
		{"address", func() error { return k.AddAddress(a.Device, netip.MustParsePrefix("10.10.11.9/24")) }},
		{"address of lent one", func() error { return k.AddAddress("ext0", netip.MustParsePrefix("10.10.11.9/24")) }},
		{"isolated", func() error { return k.SetFlag(a.Device, "isolated", true) }},
		{"hairpin of tap", func() error { return k.SetFlag("tap4", "hairpin", true) }},
		{"bridge deleted", func() error { return k.DeleteDevice(v.Name) }},
		{"filter wiped", k.WipeFilter},
	})
	r := b.pass(true, v)
	for endpoint, in := range r.Attached[v.Name] {
		if !in {
			t.Errorf("%s is not attached", endpoint)
		}
	}
}

// portsHeld: an agent without memory leaves ports alone, and makes a wiped filter
// anew for those that were made.
func portsHeld(t *testing.T, b *bench) {
	v := MakeVPC(0)
	v = with(v, MakePort(v, 1, b.room("a")), MakeTap(v, 4))
	b.converge(v)
	before := b.state()
	must(t, b.kernel.WipeFilter())
	b.changed("wiped filter")
	hold := hostops.Desired{Hold: true}
	for range 2 {
		if r := b.host.Reconcile(t.Context(), hold, true); len(r.Problems) > 0 {
			t.Fatal(r.Problems)
		}
	}
	if d := diff(before, b.state()); d != "" {
		t.Errorf("host is not as it was (-before +after):\n%s", d)
	}
	hold.Remove = []cluster.VNI{v.VNI}
	b.host.Reconcile(t.Context(), hold, true)
	if s := b.state(); len(s.Devices) > 0 || s.Filter.Exists {
		t.Errorf("left: %v, filter %+v", s.Devices, s.Filter)
	}
}
