package hosttest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// MakePort is port number n of a VPC into the namespace at path.
func MakePort(v hostops.VPC, n int, path string) hostops.Port {
	e := fmt.Sprint("w", n)
	return hostops.Port{
		Endpoint: e, Kind: hostops.PortNetns, Device: hostops.EndpointPortOf(v.Name, e), MAC: cluster.MAC{2, 0, 0, 0, 1, byte(n)},
		Addresses: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(10 + n)}), 24),
			netip.MustParsePrefix(fmt.Sprintf("fd00::%x/64", 10+n)),
		},
		Namespace: path, Inner: "eth0",
		Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")},
	}
}

// MakeTap is port number n of a VPC for a virtual machine.
func MakeTap(v hostops.VPC, n int) hostops.Port {
	p := MakePort(v, n, "")
	p.Kind, p.Device, p.Inner, p.Gateways, p.Owner = hostops.PortTap, fmt.Sprint("tap", n), "", nil, 0
	return p
}

// MakeLent is port number n of a VPC by a device that somebody else has made.
func MakeLent(v hostops.VPC, n int, device string) hostops.Port {
	p := MakeTap(v, n)
	p.Kind, p.Device = hostops.PortDevice, device
	return p
}

// room makes a namespace for a workload.
func (b *bench) room(name string) string {
	b.t.Helper()
	path, err := b.kernel.NewRoom(name)
	must(b.t, err)
	return path
}

// with is v with ports.
func with(v hostops.VPC, ports ...hostops.Port) hostops.VPC {
	v.Ports = slices.Clone(ports)
	return v
}

// reports fits what a full pass tells of the ports: a problem's text by endpoint,
// "gone: " before it if it says so, or "" for one that is in place.
func (b *bench) reports(want map[string]string, vpcs ...hostops.VPC) hostops.Report {
	b.t.Helper()
	r := b.pass(true, vpcs...)
	got := map[string]string{}
	for _, v := range vpcs {
		if !r.Ready[v.Name] {
			b.t.Errorf("%s is not ready: %v", v.Name, r.Problems)
		}
		for endpoint, in := range r.Attached[v.Name] {
			got[endpoint] = "not attached"
			if in {
				got[endpoint] = ""
			}
		}
	}
	for _, p := range r.Problems {
		got[p.Endpoint] = p.Reason
		if p.Gone {
			got[p.Endpoint] = "gone: " + p.Reason
		}
	}
	for endpoint, text := range want {
		if !strings.HasPrefix(got[endpoint], text) || text == "" && got[endpoint] != "" {
			b.t.Errorf("port of %q is reported as %q, want %q", endpoint, got[endpoint], text)
		}
	}
	if len(got) != len(want) {
		b.t.Errorf("reported: %q, want %q", got, want)
	}
	return r
}

// inner holds a port's other end to what it should be.
func (b *bench) inner(v hostops.VPC, p hostops.Port) {
	b.t.Helper()
	got, err := b.kernel.InRoom(p.Namespace, p.Inner)
	must(b.t, err)
	want := Inner{MAC: p.MAC, MTU: v.MTU, Up: true, Addresses: p.Addresses, Routes: cluster.RoutesBy(p.Gateways, p.Routes)}
	if diff := cmp.Diff(want, got, values()); diff != "" {
		b.t.Errorf("%s in %s (-want +got):\n%s", p.Inner, p.Namespace, diff)
	}
}

func workloads(t *testing.T, b *bench) {
	v := MakeVPC(0)
	standby := MakePort(v, 2, b.room("c"))
	standby.Standby = true
	trusted := MakeTap(v, 3)
	trusted.Trusted = true
	free := MakeTap(v, 4)
	free.Addresses = nil
	v = with(v, MakePort(v, 1, b.room("a")), standby, trusted, free)
	r := b.pass(false, v)
	for _, p := range v.Ports {
		if !r.Attached[v.Name][p.Endpoint] {
			t.Errorf("%s is not attached: %v", p.Endpoint, r.Problems)
		}
	}
	if r.Repairs != 0 || !r.Ready[v.Name] {
		t.Errorf("first pass: %d repairs, ready %v", r.Repairs, r.Ready)
	}
	select {
	case <-b.driver.Changed():
		t.Error("the driver signals its own writes")
	default:
	}
	b.silent(false, v)
	r = b.reports(map[string]string{"w1": "", "w2": "", "w3": "", "w4": ""}, v)
	if len(r.Applied) > 0 {
		t.Errorf("full pass applied %v", r.Applied)
	}
	if want := []string{v.Ports[0].Device, standby.Device, "tap3", "tap4"}; !sameSet(want, r.Ports[v.Name]) {
		t.Errorf("the bridge is used by %v, want %v", r.Ports[v.Name], want)
	}
	s := b.state()
	for _, p := range v.Ports {
		d := s.Devices[p.Device]
		if d.Use != hostops.UseMade || d.Owner != v.VNI || d.Master != v.Name || d.MTU != v.MTU || d.Up == p.Standby || d.Isolated || !d.Quiet {
			t.Errorf("%s: %+v", p.Endpoint, d)
		}
		if pinned := d.Pinned == p.MAC; pinned == p.Standby {
			t.Errorf("%s: pinned to %s, standby %v", p.Endpoint, d.Pinned, p.Standby)
		}
		binding, bound := s.Filter.Bindings[p.Device]
		if bound == p.Trusted || bound && (binding.MAC != p.MAC || len(binding.Addresses) != len(p.Addresses)) {
			t.Errorf("%s: bound %v, %v", p.Endpoint, bound, binding)
		}
		if p.Kind == hostops.PortNetns {
			b.inner(v, p)
		}
	}
	if got := s.OwnersOf(v.Name); !slices.Equal(got, []cluster.VNI{v.VNI}) {
		t.Errorf("owners of %s are %v", v.Name, got)
	}
	must(t, b.driver.Close())
	b.open()
	b.silent(true, v)
}

func sameSet(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

// workloadsChange: each change of a port converges by itself, and is no repair.
func workloadsChange(t *testing.T, b *bench) {
	v := MakeVPC(0)
	v = with(v, MakePort(v, 1, b.room("a")), MakeTap(v, 3))
	b.converge(v)
	for _, step := range []struct {
		name   string
		change func(*hostops.VPC)
		says   string // one of the operations
	}{
		{"MTU", func(v *hostops.VPC) { v.MTU = 1280 }, "set MTU of tap3: 1280"},
		{"MAC", func(v *hostops.VPC) { v.Ports[0].MAC[5] = 9 }, "announce MAC 02:00:00:00:01:09 with 10.0.0.11, fd00::b on bridge neta"},
		{"address", func(v *hostops.VPC) { v.Ports[0].Addresses[0] = netip.MustParsePrefix("10.0.0.99/24") },
			"announce MAC 02:00:00:00:01:09 with 10.0.0.99, fd00::b on bridge neta"},
		{"address of a tap", func(v *hostops.VPC) { v.Ports[1].Addresses = v.Ports[1].Addresses[:1] },
			"announce MAC 02:00:00:00:01:03 with 10.0.0.13 on bridge neta"},
		{"routes", func(v *hostops.VPC) {
			v.Ports[0].Routes = []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("fd00:9::/48")}
		}, "set eth0 of port"},
		{"other routes", func(v *hostops.VPC) {
			v.Ports[0].Routes = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("192.168.0.0/17")}
		}, "set eth0 of port"},
		{"the default route again", func(v *hostops.VPC) { v.Ports[0].Routes = nil }, "set eth0 of port"},
		{"gateway", func(v *hostops.VPC) { v.Ports[0].Gateways = v.Ports[0].Gateways[1:] }, "set eth0 of port"},
		{"one address less", func(v *hostops.VPC) { v.Ports[0].Addresses = v.Ports[0].Addresses[1:] }, "set eth0 of port"},
		{"name", func(v *hostops.VPC) { v.Ports[0].Inner = "net1" }, "set net1 of port"},
		{"trusted", func(v *hostops.VPC) { v.Ports[0].Trusted = true }, "stop binding ports " + v.Ports[0].Device},
		{"not trusted", func(v *hostops.VPC) { v.Ports[0].Trusted = false }, "bind port " + v.Ports[0].Device},
		{"standby", func(v *hostops.VPC) { v.Ports[0].Standby = true }, "unpin MAC 02:00:00:00:01:09 from " + v.Ports[0].Device},
		{"active", func(v *hostops.VPC) { v.Ports[0].Standby = false }, "announce MAC 02:00:00:00:01:09 with fd00::b on bridge neta"},
		{"another user", func(v *hostops.VPC) { v.Ports[1].Owner = 0 }, ""},
		{"another endpoint on a tap", func(v *hostops.VPC) { v.Ports[1].Endpoint, v.Ports[1].MAC[5] = "x", 7 }, "announce MAC 02:00:00:00:01:07"},
	} {
		v.Ports = slices.Clone(v.Ports)
		for i := range v.Ports {
			v.Ports[i].Addresses = slices.Clone(v.Ports[i].Addresses)
		}
		step.change(&v)
		r := b.pass(false, v)
		if r.Repairs != 0 || len(r.Problems) > 0 {
			t.Errorf("%s: %d repairs, problems %v", step.name, r.Repairs, r.Problems)
		}
		if step.says != "" && !slices.ContainsFunc(texts(r.Applied), func(s string) bool { return strings.HasPrefix(s, step.says) }) {
			t.Errorf("%s: applied %q, want %q among them", step.name, texts(r.Applied), step.says)
		}
		b.silent(true, v)
		for _, p := range v.Ports {
			if !b.pass(false, v).Attached[v.Name][p.Endpoint] {
				t.Errorf("%s: %s is not attached", step.name, p.Endpoint)
			}
			if p.Kind == hostops.PortNetns {
				b.inner(v, p)
			}
			if up := b.state().Devices[p.Device].Up; up == p.Standby {
				t.Errorf("%s: %s is up: %v", step.name, p.Device, up)
			}
		}
	}
}

// workloadsEnd: a port goes with its binding and leaves its VPC; a VPC takes its
// ports along.
func workloadsEnd(t *testing.T, b *bench) {
	before := b.kernel.Devices()
	v, w := MakeVPC(0), MakeVPC(1)
	v = with(v, MakePort(v, 1, b.room("a")), MakeTap(v, 3))
	w = with(w, MakePort(w, 1, b.room("b")))
	b.converge(v, w)
	b.converge(with(v, v.Ports[1]), w)
	s := b.state()
	if _, bound := s.Filter.Bindings[v.Ports[0].Device]; bound || slices.Contains(b.kernel.Devices(), v.Ports[0].Device) {
		t.Errorf("%s is left, bound %v", v.Ports[0].Device, bound)
	}
	if _, err := b.kernel.InRoom(v.Ports[0].Namespace, "eth0"); err == nil {
		t.Error("the other end is left")
	}
	b.inner(w, w.Ports[0])
	kept := with(v)
	kept.KeepPorts = true
	b.converge(kept, w)
	if s := b.state(); s.Devices["tap3"].Use != hostops.UseMade || len(s.Filter.Bindings) != 2 {
		t.Errorf("ports were not kept: %v, bindings %v", s.Devices["tap3"], s.Filter.Bindings)
	}
	b.converge()
	if got := b.kernel.Devices(); !slices.Equal(got, before) || b.kernel.HasFilter() {
		t.Errorf("devices left: %v, want %v; filter %v", got, before, b.kernel.HasFilter())
	}
}

func namespaceEnds(t *testing.T, b *bench) {
	v := MakeVPC(0)
	v = with(v, MakePort(v, 1, b.room("a")), MakePort(v, 2, b.room("b")))
	b.converge(v)
	must(t, b.kernel.EndRoom(v.Ports[0].Namespace))
	b.changed("namespace ended")
	for { // it ends some time after its last user
		r := b.pass(false, v)
		if len(r.Problems) > 0 {
			if p := r.Problems[0]; !p.Gone || p.Endpoint != "w1" || r.Attached[v.Name]["w1"] || !r.Attached[v.Name]["w2"] || !r.Ready[v.Name] {
				t.Errorf("problem %+v, attached %v, ready %v", p, r.Attached, r.Ready)
			}
			break
		}
		b.changed("pair gone")
	}
	b.reports(map[string]string{"w1": "gone: network namespace", "w2": ""}, v)
	b.room("a")
	if r := b.pass(false, v); !r.Attached[v.Name]["w1"] {
		t.Errorf("a namespace that is there again is not seen: %v", r.Problems)
	}
	b.reports(map[string]string{"w1": "", "w2": ""}, v)
	b.inner(v, v.Ports[0])
	v.Ports[0].Inode = 1
	b.reports(map[string]string{"w1": "gone: network namespace", "w2": ""}, v)
}

// namespaceRemade: the port moves to the new namespace although the old one, with
// its device, goes on.
func namespaceRemade(t *testing.T, b *bench) {
	v := MakeVPC(0)
	v = with(v, MakePort(v, 1, b.room("a")))
	b.converge(v)
	b.room("a")
	b.reports(map[string]string{"w1": ""}, v)
	b.inner(v, v.Ports[0])
	b.silent(false, v)
	b.silent(true, v)
}

func workloadsClash(t *testing.T, b *bench) {
	v, w := MakeVPC(0), MakeVPC(1)
	k := b.kernel
	inner := MakePort(v, 1, b.room("a"))
	must(t, k.AddInRoom(inner.Namespace, "eth0"))
	none := MakePort(v, 2, "/run/nosuch")
	other := MakePort(v, 3, b.room("b"))
	must(t, k.AddDevice(other.Device, hostops.Other{Kind: hostops.KindBridge, MTU: 1500})) // a pair of that name has a name too long
	must(t, k.AddDevice("tap4", hostops.Other{MTU: 1500}))
	own := MakeTap(v, 5)
	own.Device = "mn-10001"
	group := MakeTap(v, 6)
	group.MAC = cluster.MAC{1, 0, 0, 0, 0, 1}
	v = with(v, inner, none, other, MakeTap(v, 4), own, group, MakeTap(v, 7))
	x := MakeTap(w, 8)
	x.Device = "tap7"
	w = with(w, x)
	want := map[string]string{
		"w1": "create port", "w2": "gone: ", "w3": "device " + other.Device + " is there and is not meshvpc's",
		"w4": "device tap4 is there and is not meshvpc's", "w5": "device mn-10001 is meshvpc's own",
		"w6": "a workload cannot have the MAC 01:", "w7": "", "w8": "device tap7 is attached for endpoint w7 of VPC neta already",
	}
	b.reports(want, v, w)
}
