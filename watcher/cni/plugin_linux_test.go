package cni

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// TestContainerComesAndGoes: a container's way, in every version that the reference
// library knows. What a runtime's user says (CNI_ARGS) chooses nothing.
func TestContainerComesAndGoes(t *testing.T) {
	for _, version := range []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			f := newFake(t)
			e := newEngine(t, f.socket, version, `"vpc": "red"`)
			rt := of("c1", mustContainer(t))
			r := e.mustAdd(rt)
			if len(r.IPs) != 2 || r.IPs[0].Address.String() != "10.0.0.2/24" || r.IPs[0].Gateway.String() != "10.0.0.1" || len(r.Routes) != 2 {
				t.Errorf("ADD returned %+v", r)
			}
			if want := []string{endpointOf("a", attachment{"net1", "c1", "eth0"})}; !cmp.Equal(f.names(), want) {
				t.Errorf("there are the endpoints %q; want %q", f.names(), want)
			}
			if version >= "0.4.0" {
				if err := e.check(rt); err != nil {
					t.Errorf("CHECK after ADD: %v", err)
				}
			}
			for range 2 {
				if err := e.del(rt); err != nil {
					t.Errorf("DEL: %v", err)
				}
			}
			if len(f.names()) > 0 {
				t.Errorf("after DEL there are the endpoints %q", f.names())
			}
			if _, err := lookAt(rt.NetNS, "eth0"); err == nil {
				t.Error("after DEL the device is in the container")
			}
		})
	}
}

// TestResult holds all that a runtime is told, and that dns is passed on.
func TestResult(t *testing.T) {
	f := newFake(t)
	e := newEngine(t, f.socket, "1.1.0", `"vpc": "red", "dns": {"nameservers": ["192.0.2.53"], "search": ["example.org"]}`)
	rt := of("c1", mustContainer(t))
	got := e.mustAdd(rt)
	ip := func(s string) net.IPNet {
		a, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		return net.IPNet{IP: a, Mask: n.Mask}
	}
	want := &types100.Result{CNIVersion: "1.1.0",
		Interfaces: []*types100.Interface{{Name: "host2", Mtu: 1400}, {Name: "eth0", Mac: "0a:00:00:00:00:02", Mtu: 1400, Sandbox: rt.NetNS}},
		IPs: []*types100.IPConfig{{Interface: types100.Int(1), Address: ip("10.0.0.2/24"), Gateway: net.ParseIP("10.0.0.1")},
			{Interface: types100.Int(1), Address: ip("fd00::2/64"), Gateway: net.ParseIP("fd00::1")}},
		Routes: []*types.Route{{Dst: ip("0.0.0.0/0"), GW: net.ParseIP("10.0.0.1")}, {Dst: ip("::/0"), GW: net.ParseIP("fd00::1")}},
		DNS:    types.DNS{Nameservers: []string{"192.0.2.53"}, Search: []string{"example.org"}}}
	if d := cmp.Diff(want.Interfaces, got.Interfaces) + cmp.Diff(text(want), text(got)); d != "" {
		t.Error(d)
	}
}

// text is a result without how its addresses are held.
func text(r *types100.Result) (lines []string) {
	for _, ip := range r.IPs {
		lines = append(lines, ip.Address.String()+" by "+ip.Gateway.String(), string(rune('0'+*ip.Interface)))
	}
	for _, r := range r.Routes {
		lines = append(lines, r.Dst.String()+" by "+r.GW.String())
	}
	return append(append(lines, r.DNS.Nameservers...), r.DNS.Search...)
}

// TestSecondADD: a device's name that is taken is refused, and what has it stays.
func TestSecondADD(t *testing.T) {
	f := newFake(t)
	e := newEngine(t, f.socket, "1.1.0", `"vpc": "red"`)
	rt := of("c1", mustContainer(t))
	e.mustAdd(rt)
	_, err := e.add(rt)
	wantCode(t, err, codeTaken)
	if err := e.check(rt); err != nil {
		t.Errorf("after a second ADD: %v", err)
	}
}

// TestFixedEndpoint: it is one container's at a time; who could not have it takes
// nothing away; it outlives them.
func TestFixedEndpoint(t *testing.T) {
	f := newFake(t)
	e := newEngine(t, f.socket, "1.1.0", `"vpc": "red", "endpoint": "web1"`)
	first, second := of("c1", mustContainer(t)), of("c2", mustContainer(t))
	_, err := e.add(first)
	wantCode(t, err, types.ErrInvalidNetworkConfig) // nobody made it
	f.make("web1")
	e.mustAdd(first)
	_, err = e.add(second)
	wantCode(t, err, codeTaken)
	if err := e.del(second); err != nil {
		t.Errorf("DEL of who never had it: %v", err)
	}
	if err := e.check(first); err != nil {
		t.Errorf("after another's DEL: %v", err)
	}
	if err := e.del(first); err != nil {
		t.Error(err)
	}
	e.mustAdd(second)
	if err := e.del(first); err != nil {
		t.Errorf("a late DEL: %v", err)
	}
	if ports := f.ports(); len(ports) != 1 || ports[0].Netns != second.NetNS {
		t.Errorf("after a late DEL of its former container the endpoint's ports are %+v", ports)
	}
}

// TestDELWithoutNamespace: what is left goes by the container's name alone.
func TestDELWithoutNamespace(t *testing.T) {
	f := newFake(t)
	e := newEngine(t, f.socket, "1.1.0", `"vpc": "red"`)
	rt := of("c1", mustContainer(t))
	e.mustAdd(rt)
	if err := unix.Unmount(rt.NetNS, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := e.del(rt); err != nil {
		t.Errorf("DEL with a namespace that is gone: %v", err)
	}
	if len(f.names()) > 0 {
		t.Errorf("there are the endpoints %q", f.names())
	}
	rt = of("c2", mustContainer(t))
	e.mustAdd(rt)
	rt.NetNS = ""
	if err := e.del(rt); err != nil {
		t.Errorf("DEL without a namespace: %v", err)
	}
	if len(f.names()) > 0 {
		t.Errorf("there are the endpoints %q", f.names())
	}
}

// TestUnheardAnswer: an agent that dies between deed and answer is asked again, and
// the container has one port.
func TestUnheardAnswer(t *testing.T) {
	f := newFake(t)
	e := newEngine(t, f.socket, "1.1.0", `"vpc": "red"`)
	f.unheard = 2
	rt := of("c1", mustContainer(t))
	e.mustAdd(rt)
	if err := e.check(rt); err != nil {
		t.Error(err)
	}
	if n := len(f.ports()); n != 1 || f.unheard != 0 {
		t.Errorf("there are %d ports, and %d answers to come", n, f.unheard)
	}
}

// TestNoAgent: what each operation says on a host whose agent does not run.
func TestNoAgent(t *testing.T) {
	e := newEngine(t, t.TempDir()+"/agent.sock", "1.1.0", `"vpc": "red"`)
	rt := of("c1", mustContainer(t))
	_, err := e.add(rt)
	wantCode(t, err, types.ErrTryAgainLater)
	wantCode(t, e.del(rt), types.ErrTryAgainLater) // the agent would attach it again
	wantCode(t, e.gc(), types.ErrTryAgainLater)
	wantCode(t, e.status(), types.ErrPluginNotAvailable)
	gone := of("c1", "")
	if err := e.del(gone); err != nil {
		t.Errorf("DEL of a container that is gone: %v", err)
	}
	gone.NetNS = "/no/such/namespace"
	if err := e.del(gone); err != nil {
		t.Errorf("DEL of a container that is gone: %v", err)
	}
	t.Setenv(nodeWord, "")
	if err := e.del(rt); err != nil {
		t.Errorf("DEL on a host that is no node: %v", err)
	}
}

// TestCHECK: whatever is not as ADD said is found.
func TestCHECK(t *testing.T) {
	type broken func(t *testing.T, f *fake, h *netlink.Handle, eth0 netlink.Link) error
	port := func(f *fake) *local.Attached { return f.endpoints[endpointOf("a", attachment{"net1", "c1", "eth0"})] }
	for name, tt := range map[string]struct {
		do   broken
		says string
	}{
		"address gone": {func(t *testing.T, _ *fake, h *netlink.Handle, eth0 netlink.Link) error {
			list, err := h.AddrList(eth0, netlink.FAMILY_V4)
			if err != nil {
				return err
			}
			return h.AddrDel(eth0, &list[0])
		}, "has not the address 10.0.0.2/24"},
		"other MAC": {func(t *testing.T, _ *fake, h *netlink.Handle, eth0 netlink.Link) error {
			return h.LinkSetHardwareAddr(eth0, net.HardwareAddr{2, 0, 0, 0, 0, 9})
		}, "has MAC 02:00:00:00:00:09"},
		"down":        {func(t *testing.T, _ *fake, h *netlink.Handle, eth0 netlink.Link) error { return h.LinkSetDown(eth0) }, "is down"},
		"device gone": {func(t *testing.T, _ *fake, h *netlink.Handle, eth0 netlink.Link) error { return h.LinkDel(eth0) }, "no such device"},
		"default route gone": {func(t *testing.T, _ *fake, h *netlink.Handle, eth0 netlink.Link) error {
			return h.RouteDel(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.IP{10, 0, 0, 1}})
		}, "no default route by 10.0.0.1"},
		"another address by the records": {func(t *testing.T, f *fake, _ *netlink.Handle, _ netlink.Link) error {
			port(f).Addresses = port(f).Addresses[:1]
			return nil
		}, "which the endpoint does not have"},
		"another MAC by the records": {func(t *testing.T, f *fake, _ *netlink.Handle, _ netlink.Link) error {
			port(f).MAC[5]++
			return nil
		}, "the result says MAC"},
		"standby": {func(t *testing.T, f *fake, _ *netlink.Handle, _ netlink.Link) error {
			port(f).State = cluster.PortStandby
			return nil
		}, "is standby"},
		"not attached": {func(t *testing.T, f *fake, _ *netlink.Handle, _ netlink.Link) error {
			port(f).For = "cni/net1/c2/eth0"
			return nil
		}, "is not attached"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			e := newEngine(t, f.socket, "1.1.0", `"vpc": "red"`)
			rt := of("c1", mustContainer(t))
			e.mustAdd(rt)
			h, eth0 := mustEnter(t, rt.NetNS)
			f.mu.Lock()
			err := tt.do(t, f, h, eth0)
			f.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			err = e.check(rt)
			wantCode(t, err, codeNotSo)
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("CHECK says %v; want %q", err, tt.says)
			}
		})
	}
}

// TestTrustedCHECK: a trusted container may have another MAC, as a plugin after this
// one may give it.
func TestTrustedCHECK(t *testing.T) {
	f := newFake(t)
	e := newEngine(t, f.socket, "1.1.0", `"vpc": "red", "trust": true`)
	rt := of("c1", mustContainer(t))
	e.mustAdd(rt)
	h, eth0 := mustEnter(t, rt.NetNS)
	if err := h.LinkSetHardwareAddr(eth0, net.HardwareAddr{2, 0, 0, 0, 0, 9}); err != nil {
		t.Fatal(err)
	}
	if err := e.check(rt); err != nil {
		t.Error(err)
	}
}

// TestGC: what the runtime does not know goes, of this network alone, and one that
// cannot go stops no other.
func TestGC(t *testing.T) {
	f := newFake(t)
	e := newEngine(t, f.socket, "1.1.0", `"vpc": "red"`)
	other := newEngine(t, f.socket, "1.1.0", `"vpc": "red"`)
	other.list.Name = "net12"
	for _, id := range []string{"c1", "c2", "c3"} {
		e.mustAdd(of(id, mustContainer(t)))
	}
	other.mustAdd(of("c1", mustContainer(t)))
	stays := endpointOf("a", attachment{"net1", "c1", "eth0"})
	stuck := endpointOf("a", attachment{"net1", "c2", "eth0"})
	f.refuse[stuck] = &local.Refusal{Code: local.CodeUnavailable, Text: "not now"}
	e.cni = newEngine(t, f.socket, "1.1.0", `"vpc": "red"`).cni // which remembers no ADD, so that the library sends no DEL by itself
	valid := types.GCAttachment{ContainerID: "c1", IfName: "eth0"}
	if err := e.gc(valid); err == nil {
		t.Error("GC says nothing of an endpoint that cannot go")
	}
	others := endpointOf("a", attachment{"net12", "c1", "eth0"})
	if got, want := f.names(), slices.Sorted(slices.Values([]string{stays, stuck, others})); !slices.Equal(got, want) {
		t.Errorf("after a GC that could not do all there are the endpoints %q; want %q", got, want)
	}
	delete(f.refuse, stuck)
	if err := e.gc(valid); err != nil {
		t.Error(err)
	}
	if got, want := f.names(), slices.Sorted(slices.Values([]string{stays, others})); !slices.Equal(got, want) || len(f.ports()) != 2 {
		t.Errorf("after GC there are the endpoints %q; want %q", got, want)
	}
}

// TestSTATUS over the socket; what is judged how is TestJudge.
func TestSTATUS(t *testing.T) {
	f := newFake(t)
	if err := newEngine(t, f.socket, "1.1.0", `"vpc": "red"`).status(); err != nil {
		t.Error(err)
	}
	wantCode(t, newEngine(t, f.socket, "1.1.0", `"vpc": "blue"`).status(), types.ErrPluginNotAvailable)
}
