package hostops_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/fake"
	"github.com/meshvpc/meshvpc/hostops/hosttest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestPlanText holds plans to the texts in testdata. Each case begins with a
// host that has converged on two VPCs.
func TestPlanText(t *testing.T) {
	two := func() []hostops.VPC { return []hostops.VPC{hosttest.MakeVPC(0), hosttest.MakeVPC(1)} }
	for name, tt := range map[string]struct {
		fresh  bool
		had    []hostops.VPC // beside two
		tamper func(h *fake.Host) error
		want   []hostops.VPC
	}{
		"fresh":             {fresh: true, want: two()[:1]},
		"same":              {want: two()},
		"teardown":          {},
		"one less":          {want: two()[1:]},
		"join":              {want: append(two()[1:], withPeer(two()[0], 7))},
		"repoint":           {want: append(two()[1:], onU1(two()[0]))},
		"other port":        {want: []hostops.VPC{onPort(two()[0], 8472)}},
		"other number":      {want: append(two()[1:], numbered(two()[0], 20000))},
		"wiped filter":      {want: two(), tamper: (*fake.Host).WipeFilter},
		"deleted namespace": {want: two(), tamper: func(h *fake.Host) error { return h.DeleteNamespace("vpc-neta") }},
		"deleted tunnel":    {want: two(), tamper: func(h *fake.Host) error { return h.DeleteDevice("mv6-10001") }},
		"deleted bridge":    {want: two(), tamper: func(h *fake.Host) error { return h.DeleteDevice("neta") }},
		"tunnel taken out":  {want: two(), tamper: func(h *fake.Host) error { return h.SetMaster("mv4-10000", "") }},
		"foreign bridge": {fresh: true, want: two(), tamper: func(h *fake.Host) error {
			return h.AddDevice("neta", hostops.Other{Kind: hostops.KindBridge, MTU: 1500})
		}},
		"foreign VNI": {fresh: true, want: two()[:1], tamper: func(h *fake.Host) error {
			return h.AddDevice("vx", hostops.Other{Kind: hostops.KindTunnel, VNI: 10000, Port: 4789, V6: true})
		}},
		"pairs":             {fresh: true, want: []hostops.VPC{hosttest.MakeMixed(0)}},
		"multicast":         {fresh: true, want: []hostops.VPC{grouped(two()[0])}},
		"to multicast":      {want: append(two()[1:], grouped(two()[0]))},
		"all to pairs":      {want: []hostops.VPC{two()[1], hosttest.MakeMixed(0)}},
		"static":            {fresh: true, want: []hostops.VPC{hosttest.MakeStatic(0)}},
		"workload moves":    {had: []hostops.VPC{hosttest.MakeStatic(0)}, want: append(two()[1:], hosttest.Move(hosttest.MakeStatic(0), 1, hosttest.Peer(0, true)))},
		"workload comes":    {had: []hostops.VPC{hosttest.MakeStatic(0)}, want: append(two()[1:], hosttest.Move(hosttest.MakeStatic(0), 1, netip.Addr{}))},
		"no more static":    {had: []hostops.VPC{hosttest.MakeStatic(0)}, want: two()},
		"same number twice": {fresh: true, want: []hostops.VPC{two()[0], numbered(two()[1], 10000)}},
		"ports":             {want: append(two()[1:], withPorts(two()[0])), tamper: withRooms},
		"ports detached":    {had: []hostops.VPC{withPorts(two()[0])}, want: two()[:1]},
		"ports to standby":  {had: []hostops.VPC{withPorts(two()[0])}, want: []hostops.VPC{inStandby(withPorts(two()[0]))}},
		"port from standby": {had: []hostops.VPC{inStandby(withPorts(two()[0]))}, want: []hostops.VPC{withPorts(two()[0])}},
		"wiped filter with ports": {had: []hostops.VPC{withPorts(two()[0])}, want: []hostops.VPC{withPorts(two()[0])},
			tamper: (*fake.Host).WipeFilter},
		"VIPs":                 {want: []hostops.VPC{withVIPs(two()[0]), two()[1]}},
		"VIP goes":             {had: []hostops.VPC{withVIPs(two()[0])}, want: []hostops.VPC{inStandby(withVIPs(two()[0]))}},
		"VIP comes":            {had: []hostops.VPC{inStandby(withVIPs(two()[0]))}, want: []hostops.VPC{withVIPs(two()[0])}},
		"gateway to active":    {had: []hostops.VPC{withGateway(two()[0])}, want: []hostops.VPC{activeNAT(two()[0])}},
		"active gateway goes":  {had: []hostops.VPC{activeNAT(two()[0])}, want: []hostops.VPC{inStandby(activeNAT(two()[0]))}},
		"active gateway comes": {had: []hostops.VPC{inStandby(activeNAT(two()[0]))}, want: []hostops.VPC{activeNAT(two()[0])}},
		"VPC with ports gone":  {had: []hostops.VPC{withPorts(two()[0])}},
	} {
		t.Run(name, func(t *testing.T) {
			h, d := newHost(t)
			if !tt.fresh {
				applyAll(t, d, two())
			}
			if tt.had != nil {
				if err := withRooms(h); err != nil {
					t.Fatal(err)
				}
				applyAll(t, d, tt.had)
			}
			if tt.tamper != nil {
				if err := tt.tamper(h); err != nil {
					t.Fatal(err)
				}
			}
			ops, problems := plan(t, d, tt.want)
			golden(t, filepath.Join("testdata", strings.ReplaceAll(name, " ", "_")+".txt"), text(ops, problems))
		})
	}
}

func withGateway(v hostops.VPC) hostops.VPC {
	v.Gateway = hosttest.MakeGateway(v)
	return v
}

func activeNAT(v hostops.VPC) hostops.VPC {
	v = hosttest.MakeActive(v)
	v.Gateway.NAT = true
	return v
}

func withPeer(v hostops.VPC, n int) hostops.VPC {
	for i, t := range v.Tunnels {
		v.Tunnels[i].Peers = append(t.Peers, hosttest.MakePeer(n, t.Local.Is6()))
	}
	return v
}

// withRooms gives a host what withPorts attaches to.
func withRooms(h *fake.Host) error {
	_, err := h.NewRoom("a")
	return errors.Join(err, h.AddDevice("ext0", hostops.Other{MTU: 1500}))
}

// withPorts is v with a port of each kind.
func withPorts(v hostops.VPC) hostops.VPC {
	tap := hosttest.MakeTap(v, 3)
	tap.Trusted = true
	v.Ports = []hostops.Port{hosttest.MakeLent(v, 2, "ext0"), hosttest.MakePort(v, 1, "/run/rooms/a"), tap}
	return v
}

// withVIPs is v with a VIP that it serves and one that another host does.
func withVIPs(v hostops.VPC) hostops.VPC {
	v.Ports = []hostops.Port{hosttest.MakeVIP(v, 1), hosttest.MakeVIP(v, 2)}
	v.Ports[1].Standby = true
	return v
}

func inStandby(v hostops.VPC) hostops.VPC {
	for i := range v.Ports {
		v.Ports[i].Standby = true
	}
	return v
}

func onU1(v hostops.VPC) hostops.VPC {
	v.Tunnels[0].Local, v.Tunnels[0].Device = netip.MustParseAddr("198.51.100.1"), "u1"
	return v
}

func onPort(v hostops.VPC, port uint16) hostops.VPC {
	for i := range v.Tunnels {
		v.Tunnels[i].Port = port
	}
	return v
}

func grouped(v hostops.VPC) hostops.VPC {
	v.Tunnels[1].Group, v.Tunnels[1].ToGroup = hosttest.Groups()[1], true
	return v
}

func numbered(v hostops.VPC, vni cluster.VNI) hostops.VPC {
	v.VNI = vni
	return v
}

func newHost(t testing.TB) (*fake.Host, *fake.Driver) {
	t.Helper()
	h := fake.NewNetwork().NewHost(hosttest.Underlays()...)
	d, err := h.Open()
	if err != nil {
		t.Fatal(err)
	}
	return h, d
}

func plan(t rapid.TB, d hostops.Driver, vpcs []hostops.VPC) ([]hostops.Op, []hostops.Problem) {
	t.Helper()
	s, err := d.Observe(context.Background(), true)
	if err != nil {
		t.Fatal(err)
	}
	return hostops.Plan(hostops.Desired{VPCs: vpcs}, s)
}

// applyAll applies one plan.
func applyAll(t rapid.TB, d hostops.Driver, vpcs []hostops.VPC) {
	t.Helper()
	ops, _ := plan(t, d, vpcs)
	refused := map[hostops.Target]bool{}
	for _, op := range ops {
		if refused[op.On()] {
			continue
		}
		if err := d.Apply(context.Background(), op); err != nil {
			if !ofPort(hostops.Desired{VPCs: vpcs}, op) {
				t.Fatalf("%v\nplan:\n%s", err, text(ops, nil))
			}
			refused[op.On()] = true
		}
	}
}

func text(ops []hostops.Op, problems []hostops.Problem) string {
	var b strings.Builder
	for _, op := range ops {
		fmt.Fprintln(&b, op)
	}
	for _, p := range problems {
		fmt.Fprintf(&b, "problem of %q: %s\n", p.VPC, p.Reason)
	}
	return b.String()
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
}

// TestPlanConverges: from whatever a host carries one plan leads to what is
// desired, the next is empty, nothing foreign is touched, no tunnel is ever up
// without isolation, a tunnel is never there unguarded, and no bridge is in use unsealed.
func TestPlanConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := fake.NewNetwork().NewHost(hosttest.Underlays()...)
		d, err := h.Open()
		if err != nil {
			t.Fatal(err)
		}
		for _, room := range []string{"a", "b"} {
			if _, err := h.NewRoom(room); err != nil {
				t.Fatal(err)
			}
		}
		for range rapid.IntRange(0, 3).Draw(t, "rounds") {
			if rapid.Bool().Draw(t, "converge") {
				applyAll(t, d, drawVPCs(t))
			}
			for range rapid.IntRange(0, 30).Draw(t, "mess") {
				mess(t, h, d)
			}
		}
		loops := h.Loops()
		want := hostops.Desired{VPCs: drawVPCs(t), Hold: rapid.Bool().Draw(t, "hold")}
		look := func() hostops.State {
			s := h.State()
			s.Spaces = d.Spaces(context.Background(), []string{"/run/rooms/a", "/run/rooms/b", "/run/rooms/c"})
			return s
		}
		foreign := look()
		if rapid.Bool().Draw(t, "not full") {
			foreign.Spaces = nil
		}
		ops, _ := hostops.Plan(want, foreign)
		refused := map[hostops.Target]bool{} // ports that their workloads' namespaces do not let be
		for _, op := range batched(t, ops) {
			if refused[op.On()] {
				continue
			}
			if err := d.Apply(context.Background(), op); err != nil {
				if !ofPort(want, op) || !errors.Is(err, hostops.ErrGone) && !errors.Is(err, hostops.ErrForeign) {
					t.Fatalf("%v\nplan:\n%s", err, text(ops, nil))
				}
				refused[op.On()] = true
			}
			if up, ok := op.(hostops.SetUp); ok {
				unbound(t, want, h.State(), up)
			}
			if c, ok := op.(hostops.CreateTunnel); ok {
				if _, guarded := h.State().Filter.VNIs[c.VNI]; !guarded {
					t.Fatalf("%s: it is not guarded yet", op)
				}
			}
			bridge := op.On().Object
			if m, ok := op.(hostops.SetMaster); ok {
				bridge = m.Bridge
			}
			_, up := op.(hostops.SetUp)
			_, sealed := h.State().Filter.Seals[bridge]
			if h.State().Devices[bridge].Kind == hostops.KindBridge && (up || bridge != op.On().Object) && !sealed {
				t.Fatalf("%s: the bridge is not sealed yet", op)
			}
		}
		last := look()
		last.Spaces = foreign.Spaces
		if len(refused) == 0 {
			last = look()
		}
		after, problems := hostops.Plan(want, last)
		if len(slices.DeleteFunc(slices.Clone(after), func(op hostops.Op) bool { return followed(op, problems) || refused[op.On()] })) > 0 && foreign.Spaces != nil {
			t.Fatalf("second plan:\n%sfirst plan:\n%s", text(after, problems), text(ops, nil))
		}
		if n := h.Loops(); n != loops {
			t.Fatalf("a tunnel was up without isolation in plan:\n%s", text(ops, nil))
		}
		now := h.State()
		if diff := cmp.Diff(others(foreign), others(now)); diff != "" {
			t.Fatalf("foreign things changed (-before +after):\n%s", diff)
		}
	})
}

// ofPort reports whether an operation is on a workload's port.
func ofPort(desired hostops.Desired, op hostops.Op) bool {
	return slices.ContainsFunc(desired.VPCs, func(v hostops.VPC) bool {
		return v.Name == op.On().VPC && slices.ContainsFunc(v.Ports, func(p hostops.Port) bool { return p.Device == op.On().Object })
	})
}

// unbound fails if a port that is not trusted has come up and may send anything.
func unbound(t *rapid.T, desired hostops.Desired, s hostops.State, up hostops.SetUp) {
	for _, v := range desired.VPCs {
		for i, p := range v.Ports {
			b, bound := s.Filter.Bindings[p.Device]
			if slices.ContainsFunc(v.Ports[:i], func(o hostops.Port) bool { return o.Device == p.Device }) {
				continue // the first has it
			}
			if v.Name == up.VPC && p.Device == up.Object && !p.Trusted && (!bound || b.MAC != p.MAC || len(b.Addresses) != len(p.Addresses)) {
				t.Fatalf("%s: it is bound to %v", up, b)
			}
		}
	}
}

// batched is a plan in the order of its batches, in which nothing is missing and
// no object has two steps at once.
func batched(t *rapid.T, ops []hostops.Op) (out []hostops.Op) {
	steps := map[hostops.Target][]hostops.Op{}
	for _, op := range ops {
		steps[op.On()] = append(steps[op.On()], op)
	}
	for batch := range hostops.Batches(ops, func(hostops.Op) bool { return false }) {
		begun := map[hostops.Target]bool{}
		for _, op := range batch {
			on := op.On()
			if begun[on] && slices.ContainsFunc(batch, func(op hostops.Op) bool { return !hostops.IsEntry(op) }) {
				t.Fatalf("two steps of %s at once:\n%s", on.Object, text(batch, nil))
			}
			begun[on] = true
			if first := steps[on][0]; !reflect.DeepEqual(first, op) {
				t.Fatalf("%q before %q", op, first)
			}
			steps[on] = steps[on][1:]
		}
		out = append(out, batch...)
	}
	if len(out) != len(ops) {
		t.Fatalf("batches hold %d of %d operations", len(out), len(ops))
	}
	return out
}

// TestOnePlanIsEnough: what TestPlanConverges has found, one by one.
func TestOnePlanIsEnough(t *testing.T) {
	lower := func(v hostops.VPC) hostops.VPC { v.MTU = 1280; return v }
	bare := func(v hostops.VPC) hostops.VPC { v.Tunnels = nil; return v }
	moved := func(v hostops.VPC) hostops.VPC {
		v.Tunnels[1].Local, v.Tunnels[1].Device = netip.MustParseAddr("2001:db8:1::1"), "u1"
		return v
	}
	// What an agent that died halfway left: nobody set this bridge's MTU.
	half := hostops.CreateBridge{Target: hostops.Target{VPC: "neta", Object: "neta"}, Owner: 10000}
	onHalf := func(port string) hostops.Op {
		return hostops.SetMaster{Target: hostops.Target{VPC: "neta", Object: port}, Bridge: "neta"}
	}
	for name, tt := range map[string]struct {
		had  []hostops.VPC
		mess []hostops.Op
		want hostops.Desired
	}{
		"namespace's port on a bridge that follows it": {
			had:  []hostops.VPC{hosttest.MakeVPC(1)},
			mess: []hostops.Op{half, onHalf("mn-10001")},
			want: hostops.Desired{VPCs: []hostops.VPC{hosttest.MakeVPC(0), lower(hosttest.MakeVPC(1))}},
		},
		"multicast tunnel on a bridge that follows it": {
			had:  []hostops.VPC{hosttest.MakeVPC(1)},
			mess: []hostops.Op{half, onHalf("mv6-10001")},
			want: hostops.Desired{VPCs: []hostops.VPC{hosttest.MakeVPC(0), lower(grouped(hosttest.MakeVPC(1)))}},
		},
		"tunnel that moves with its group": {
			had:  []hostops.VPC{grouped(hosttest.MakeVPC(0))},
			want: hostops.Desired{VPCs: []hostops.VPC{moved(grouped(hosttest.MakeVPC(0)))}},
		},
		"tunnel that moves and leaves its group": {
			had:  []hostops.VPC{grouped(hosttest.MakeVPC(0))},
			want: hostops.Desired{VPCs: []hostops.VPC{moved(hosttest.MakeVPC(0))}},
		},
		"held tunnels for another port than a renumbered VPC had": {
			had: []hostops.VPC{hosttest.MakeVPC(0)},
			mess: []hostops.Op{hostops.CreateTunnel{
				Target: hostops.Target{VPC: "netc", Object: "mv4-10002"}, Owner: 10002, VNI: 10002,
				Local: hosttest.Underlays()[0].Prefix.Addr(), Underlay: "u0", Port: 8472, MTU: 1280,
			}},
			want: hostops.Desired{VPCs: []hostops.VPC{numbered(bare(hosttest.MakeVPC(0)), 20000)}, Hold: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, d := newHost(t)
			applyAll(t, d, tt.had)
			do := func(ops []hostops.Op) {
				for _, op := range ops {
					if err := d.Apply(t.Context(), op); err != nil {
						t.Fatal(err)
					}
				}
			}
			do(tt.mess)
			first, _ := hostops.Plan(tt.want, h.State())
			do(first)
			if ops, problems := hostops.Plan(tt.want, h.State()); len(ops)+len(problems) > 0 {
				t.Errorf("second plan:\n%sfirst plan:\n%s", text(ops, problems), text(first, nil))
			}
		})
	}
}

// followed reports whether op is what one plan cannot foresee: a bridge had the
// MTU that it should have, but not because anybody had set it; the ports that it
// followed are gone, and a problem keeps that of its namespace from being there.
func followed(op hostops.Op, problems []hostops.Problem) bool {
	set, ok := op.(hostops.SetMTU)
	return ok && set.Object == set.VPC && slices.ContainsFunc(problems, func(p hostops.Problem) bool { return p.VPC == set.VPC })
}

// others are the things that are not ours.
func others(s hostops.State) []string {
	var out []string
	for name := range s.Others {
		out = append(out, name)
	}
	for name, d := range s.Devices {
		if d.Use == hostops.UseLent {
			out = append(out, name)
		}
	}
	for name, n := range s.Namespaces {
		if n.Owner == 0 {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func drawVPCs(t *rapid.T) []hostops.VPC {
	var out []hostops.VPC
	for i := range 3 {
		if !rapid.Bool().Draw(t, "wanted") {
			continue
		}
		v := hosttest.MakeVPC(i)
		v.VNI = cluster.VNI(10000 + (i+rapid.IntRange(0, 2).Draw(t, "vni"))%4)
		v.MTU = rapid.SampledFrom([]int{1280, 1400, 1430}).Draw(t, "mtu")
		v.Tunnels = v.Tunnels[:rapid.IntRange(0, 2).Draw(t, "tunnels")]
		for j, tun := range v.Tunnels {
			v.Tunnels[j].Peers = tun.Peers[:rapid.IntRange(0, 2).Draw(t, "peers")]
			for k := range v.Tunnels[j].Peers {
				v.Tunnels[j].Peers[k].ReceiveOnly = rapid.Bool().Draw(t, "receive only")
			}
			if rapid.IntRange(0, 2).Draw(t, "multicast") == 0 {
				v.Tunnels[j].Group, v.Tunnels[j].ToGroup = hosttest.Groups()[j], rapid.Bool().Draw(t, "to group")
			}
		}
		if rapid.IntRange(0, 4).Draw(t, "repoint") == 0 && len(v.Tunnels) > 0 {
			v = onU1(v)
		}
		for range rapid.IntRange(0, 3).Draw(t, "pairs") {
			p := hosttest.PairOf(v, rapid.IntRange(0, 3).Draw(t, "peer"))
			p.Pair = drawPair(t)
			p.ReceiveOnly = rapid.Bool().Draw(t, "receive only")
			for j, other := range v.Tunnels { // one tunnel sends to a peer
				for k, q := range other.Peers {
					switch {
					case q.Node != p.Peers[0].Node || p.ReceiveOnly:
					case other.Pair != 0:
						p.ReceiveOnly = p.ReceiveOnly || !other.ReceiveOnly
					default:
						v.Tunnels[j].Peers[k].ReceiveOnly = true
					}
				}
			}
			v.Tunnels = append(v.Tunnels, p)
		}
		if rapid.IntRange(0, 2).Draw(t, "static") == 0 {
			v = drawPlaces(t, v)
		}
		if rapid.Bool().Draw(t, "gateway") {
			v.Gateway = hosttest.MakeGateway(v)
			v.Gateway.Anycast = rapid.Bool().Draw(t, "anycast")
			v.Gateway.NAT = rapid.Bool().Draw(t, "nat")
			v.Gateway.Addresses = v.Gateway.Addresses[rapid.IntRange(0, 1).Draw(t, "families"):]
		}
		if rapid.IntRange(0, 2).Draw(t, "active") == 0 {
			v = hosttest.MakeActive(v)
			v.Gateway.NAT, v.Ports[0].Standby = rapid.Bool().Draw(t, "nat"), rapid.Bool().Draw(t, "elsewhere")
		}
		for range rapid.IntRange(0, 3).Draw(t, "ports") {
			p := drawPort(t, v)
			if !slices.ContainsFunc(v.Ports, func(o hostops.Port) bool { return o.Endpoint == p.Endpoint }) {
				v.Ports = append(v.Ports, p)
			}
		}
		v.KeepPorts = rapid.IntRange(0, 4).Draw(t, "keep ports") == 0
		out = append(out, v)
	}
	if rapid.IntRange(0, 9).Draw(t, "port") == 0 {
		for i := range out {
			out[i] = onPort(out[i], 8472)
		}
	}
	return out
}

func drawPort(t *rapid.T, v hostops.VPC) hostops.Port {
	n := rapid.IntRange(0, 2).Draw(t, "endpoint")
	p := hosttest.MakePort(v, n, rapid.SampledFrom([]string{"/run/rooms/a", "/run/rooms/b"}).Draw(t, "room"))
	p.Inner = fmt.Sprint("eth", n, v.Name)
	switch rapid.IntRange(0, 4).Draw(t, "kind") {
	case 0:
		p = hosttest.MakeTap(v, n)
		p.Owner = rapid.IntRange(-1, 1).Draw(t, "user")
	case 1:
		p = hosttest.MakeLent(v, n, "ext0")
	case 2:
		p.Kind, p.Namespace, p.Inner, p.Gateways = hostops.PortVIP, "", "", nil
	}
	p.MAC[5] = byte(rapid.IntRange(1, 3).Draw(t, "mac"))
	p.Addresses = p.Addresses[:rapid.IntRange(0, 2).Draw(t, "addresses")]
	p.Trusted, p.Standby = rapid.Bool().Draw(t, "trusted"), rapid.Bool().Draw(t, "standby")
	return p
}

func drawPair(t *rapid.T) cluster.VNI {
	return rapid.SampledFrom([]cluster.VNI{10001, 10003, 20000, 20001, 20002}).Draw(t, "pair")
}

// mess does one thing to a host that an administrator, another program or an
// agent that died halfway could have done. It may fail.
// drawPlaces makes v static, with some workloads here and at peers, which need not be
// v's, that may have each other's addresses.
func drawPlaces(t *rapid.T, v hostops.VPC) hostops.VPC {
	v.Static = true
	for i := range 4 {
		at := rapid.IntRange(-2, 3).Draw(t, "at")
		if at < -1 {
			continue
		}
		p := hosttest.Workload(i, netip.Addr{})
		p.Addresses = p.Addresses[:rapid.IntRange(0, 2).Draw(t, "addresses")]
		if at >= 0 {
			p.At = hosttest.Peer(at, rapid.Bool().Draw(t, "at v6"))
		}
		v.Places = append(v.Places, p)
	}
	return v
}

func mess(t *rapid.T, h *fake.Host, d hostops.Driver) {
	vni := cluster.VNI(10000 + rapid.IntRange(0, 3).Draw(t, "vni"))
	vpc := rapid.SampledFrom([]string{"neta", "netb", "netc", "netd"}).Draw(t, "vpc")
	v6 := rapid.Bool().Draw(t, "v6")
	local, device := hosttest.Underlays()[0].Prefix.Addr(), "u0"
	if v6 {
		local = hosttest.Underlays()[1].Prefix.Addr()
	}
	pair := drawPair(t)
	name := rapid.SampledFrom([]string{vpc, hostops.TunnelOf(vni, local), hostops.PortOf(vni), hostops.PairTunnelOf(pair)}).Draw(t, "name")
	group := rapid.SampledFrom([]netip.Addr{{}, hosttest.Groups()[0], hosttest.Groups()[1]}).Draw(t, "group")
	yes := rapid.Bool().Draw(t, "yes")
	ns := hostops.NamespaceOf(vpc)
	on := func(object string) hostops.Target { return hostops.Target{VPC: vpc, Object: object} }
	peer := hosttest.Peer(rapid.IntRange(0, 3).Draw(t, "peer"), v6)
	vtep := hosttest.MakePeer(rapid.IntRange(0, 3).Draw(t, "vtep"), rapid.Bool().Draw(t, "of v6")).VTEP
	address := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100, 0, byte(rapid.IntRange(1, 3).Draw(t, "address"))}), 16)
	mtu := rapid.SampledFrom([]int{1280, 1400, 1430, 1500}).Draw(t, "mtu")
	port := rapid.SampledFrom([]uint16{4789, 8472}).Draw(t, "port")
	some, other := hosttest.Workload(rapid.IntRange(0, 3).Draw(t, "some"), peer), hosttest.Workload(rapid.IntRange(0, 3).Draw(t, "other"), peer)
	work := rapid.SampledFrom([]string{hostops.EndpointPortOf(vpc, "w0"), hostops.EndpointPortOf(vpc, "w1"), "tap1", "ext0"}).Draw(t, "workload")
	vmac := cluster.MAC{2, 0, 0, 0, 1, 2}
	ops := []hostops.Op{
		hostops.CreateBridge{Target: on(vpc), Owner: vni},
		hostops.CreateTunnel{Target: on(hostops.TunnelOf(vni, local)), Owner: vni, VNI: vni, Local: local, Underlay: device, Port: port, MTU: mtu, Learning: yes, Group: group},
		hostops.CreateTunnel{Target: on(hostops.PairTunnelOf(pair)), Owner: vni, VNI: pair, Local: local, Underlay: device, Port: port, MTU: mtu, Learning: yes},
		hostops.SetLearning{Target: on(name), Enabled: yes},
		hostops.SetGroup{Target: on(name), Group: group},
		hostops.SetSending{Target: on(name), Enabled: yes},
		hostops.AddPeer{Target: on(hostops.PairTunnelOf(pair)), Peer: peer},
		hostops.Allow{VNI: pair, Sources: []netip.Addr{peer}},
		hostops.Guard{VNI: pair},
		hostops.SetMTU{Target: on(name), MTU: mtu},
		hostops.SetAlias{Target: on(name), Alias: "x"},
		hostops.SetMaster{Target: on(name), Bridge: vpc},
		hostops.SetIsolated{Target: on(name)},
		hostops.SetUp{Target: on(name)},
		hostops.SetDown{Target: on(name)},
		hostops.DeleteDevice{Target: on(name)},
		hostops.AddPeer{Target: on(hostops.TunnelOf(vni, local)), Peer: peer},
		hostops.RemovePeer{Target: on(hostops.TunnelOf(vni, local)), Peer: peer},
		hostops.SetFDB{Target: on(hostops.TunnelOf(vni, local)), MAC: hostops.VTEPMAC(vtep), Peer: peer},
		hostops.RemoveFDB{Target: on(hostops.TunnelOf(vni, local)), MAC: hostops.VTEPMAC(vtep)},
		hostops.SetNeighbour{Target: on(ns), Address: vtep, MAC: hostops.VTEPMAC(address.Addr())},
		hostops.RemoveNeighbour{Target: on(ns), Address: vtep},
		hostops.CreateNamespace{Target: on(ns), Owner: vni},
		hostops.SetNamespace{Target: on(ns)},
		hostops.DeleteNamespace{Target: on(ns)},
		hostops.CreatePort{Target: on(hostops.PortOf(vni)), Namespace: ns, Owner: vni, MAC: hostops.VTEPMAC(address.Addr())},
		hostops.SetPort{Target: on(ns), MTU: mtu},
		hostops.AddAddress{Target: on(ns), Address: address},
		hostops.RemoveAddress{Target: on(ns), Address: address},
		hostops.CreateFilter{Port: port},
		hostops.DeleteFilter{},
		hostops.Allow{VNI: vni, Sources: []netip.Addr{peer}},
		hostops.Deny{VNI: vni, Sources: []netip.Addr{peer}},
		hostops.Guard{VNI: vni},
		hostops.Fence{Sources: []netip.Addr{peer}},
		hostops.Unfence{Sources: []netip.Addr{peer}},
		hostops.Unguard{VNI: vni},
		hostops.Shield{VNI: vni, Network: address.Masked()},
		hostops.Unshield{VNI: vni},
		hostops.Seal{Target: on(vpc)},
		hostops.Unseal{Target: on(vpc)},
		hostops.SetStatic{Target: on(name)},
		hostops.SetAnswer{Target: on(vpc), Address: some.Addresses[0], MAC: other.MAC},
		hostops.RemoveAnswer{Target: on(vpc), Address: some.Addresses[1]},
		hostops.SetFDB{Target: on(hostops.TunnelOf(vni, local)), MAC: some.MAC, Peer: peer},
		hostops.AllowPlaces{VNI: vni, Places: []hostops.Placed{{MAC: some.MAC, From: peer}, {MAC: hostops.VTEPMAC(vtep), From: peer}}},
		hostops.AllowPlaces{VNI: pair, Places: []hostops.Placed{{MAC: other.MAC, From: peer}}},
		hostops.DenyPlaces{VNI: vni, Places: []hostops.Placed{{MAC: some.MAC, From: peer}}},
		hostops.GuardPlaces{VNI: vni},
		hostops.GuardPlaces{VNI: pair},
		hostops.UnguardPlaces{VNI: vni},
		hostops.CreatePair{Target: on(work), Owner: vni, MAC: vmac, MTU: mtu, Namespace: "/run/rooms/a", Inner: "eth0" + vpc},
		hostops.SetInner{Target: on(work), MAC: vmac, MTU: mtu, Namespace: "/run/rooms/a", Inner: "eth1" + vpc},
		hostops.CreatePort{Target: on(hostops.EndpointPortOf(vpc, "w1")), Namespace: ns, Owner: vni, MAC: vmac, Inner: hostops.VIPOf(vpc, "w1"), Use: hostops.UseMade},
		hostops.SetVIP{Target: on(hostops.EndpointPortOf(vpc, "w1")), Namespace: ns, Inner: hostops.VIPOf(vpc, "w1"), MTU: mtu, Addresses: []netip.Prefix{address}},
		hostops.CreateTap{Target: on("tap1"), Owner: vni, User: 7},
		hostops.SetTap{Target: on("tap1"), User: 8},
		hostops.Lend{Target: on("ext0"), Owner: vni},
		hostops.GiveBack{Target: on("ext0")},
		hostops.Bind{Target: on(work), Binding: hostops.Binding{MAC: vmac}},
		hostops.Bind{Target: on("gone"), Binding: hostops.Binding{MAC: vmac}},
		hostops.Unbind{Devices: []string{work, "tap1"}},
		hostops.PinMAC{Target: on(work), MAC: vmac},
		hostops.UnpinMAC{Target: on(work), MAC: vmac},
		hostops.SetMaster{Target: on(work), Bridge: vpc},
		hostops.SetOwner{Target: on(work), Owner: vni},
		hostops.SetUp{Target: on(work)},
		hostops.SetDown{Target: on(work)},
		hostops.SetMTU{Target: on(work), MTU: mtu},
		hostops.DeleteDevice{Target: on(work)},
	}
	n := rapid.IntRange(0, len(ops)+16).Draw(t, "what")
	var err error
	switch n - len(ops) {
	case 0:
		err = h.AddDevice(vpc, hostops.Other{Kind: hostops.KindBridge, MTU: mtu})
	case 1:
		err = h.AddDevice("vx"+vpc, hostops.Other{Kind: hostops.KindTunnel, VNI: vni, Port: port, V6: v6})
	case 2:
		err = h.AddNamespace(ns)
	case 3:
		err = h.AddDevice("tenant", hostops.Other{MTU: mtu})
	case 4:
		if slices.Contains(h.Devices(), "tenant") {
			err = h.SetMaster("tenant", vpc)
		}
	case 5:
		err = h.WipeFilter()
	case 6:
		err = h.SetIsolated(name, false)
	case 7:
		err = h.SetMaster(name, "")
	case 8:
		err = h.SetFlag(name, "hairpin", true)
	case 9:
		err = h.AddAddress(name, address)
	case 10:
		err = h.SetFlag(name, "flood", yes)
	case 11:
		err = h.AddDevice("vx"+vpc, hostops.Other{Kind: hostops.KindTunnel, VNI: pair, Port: port, V6: v6})
	case 12:
		_, err = h.NewRoom(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "room"))
	case 13:
		err = h.EndRoom("/run/rooms/" + rapid.SampledFrom([]string{"a", "b"}).Draw(t, "room"))
	case 14:
		err = h.AddDevice("ext0", hostops.Other{MTU: mtu})
	case 15:
		err = h.AddInRoom("/run/rooms/a", "eth1neta")
	case 16:
		err = h.AddAddress("ext0", address)
	default:
		err = d.Apply(context.Background(), ops[n])
	}
	if err != nil {
		t.Logf("mess: %v", err)
	}
}

// TestPlanHolds: with Hold, only what is named goes.
func TestPlanHolds(t *testing.T) {
	h, d := newHost(t)
	three := []hostops.VPC{hosttest.MakeVPC(0), hosttest.MakeVPC(1), hosttest.MakeVPC(2)}
	applyAll(t, d, three)
	before := h.State()
	for name, tt := range map[string]struct {
		desired hostops.Desired
		want    string
	}{
		"hold all":    {hostops.Desired{Hold: true}, ""},
		"hold others": {hostops.Desired{VPCs: three[:1], Hold: true}, ""},
		"remove one": {hostops.Desired{VPCs: three[:1], Hold: true, Remove: []cluster.VNI{10001}}, `delete devices of VNI 10001
delete namespace vpc-netb
stop guarding VNI 10001
stop allowing VNI 10001 from 203.0.113.10, 203.0.113.11, 2001:db8:2::10, 2001:db8:2::11
stop shielding VNI 10001
unseal bridge netb
`},
		"remove all": {hostops.Desired{Hold: true, Remove: []cluster.VNI{10000, 10001, 10002}}, `delete devices of VNI 10000
delete devices of VNI 10001
delete devices of VNI 10002
delete namespace vpc-neta
delete namespace vpc-netb
delete namespace vpc-netc
delete filter
`},
	} {
		t.Run(name, func(t *testing.T) {
			ops, problems := hostops.Plan(tt.desired, before.Clone())
			if diff := cmp.Diff(tt.want, text(ops, problems)); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPlanProtectsWhatIsHeld: a host without memory makes a wiped filter anew
// from what its tunnels say.
func TestPlanProtectsWhatIsHeld(t *testing.T) {
	h, d := newHost(t)
	applyAll(t, d, []hostops.VPC{hosttest.MakeVPC(0), hosttest.MakeVPC(1)})
	before := h.State()
	if err := h.WipeFilter(); err != nil {
		t.Fatal(err)
	}
	hold := hostops.Desired{Hold: true}
	ops, problems := hostops.Plan(hold, h.State())
	if len(ops) == 0 || len(problems) > 0 {
		t.Fatalf("plan after a wiped filter:\n%s", text(ops, problems))
	}
	for _, op := range ops {
		if err := d.Apply(t.Context(), op); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, h.State(), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
		t.Errorf("host (-before +after):\n%s", diff)
	}
	if ops, problems := hostops.Plan(hold, h.State()); len(ops)+len(problems) > 0 {
		t.Errorf("second plan:\n%s", text(ops, problems))
	}
}

// TestPlanWantedOverHeld: where a wanted VPC has the VNI of a held tunnel, the
// wanted one says who may send, also in a filter that is made anew.
func TestPlanWantedOverHeld(t *testing.T) {
	wanted, bare := hosttest.MakeVPC(1), hosttest.MakeVPC(1)
	wanted.Tunnels, bare.Tunnels = wanted.Tunnels[:1], nil
	for name, v := range map[string]hostops.VPC{"with a tunnel": wanted, "without tunnels": bare} {
		t.Run(name, func(t *testing.T) {
			h, d := newHost(t)
			held := hosttest.MakeVPC(0)
			own := hosttest.PairOf(held, 0)
			own.Pair = v.VNI
			held.Tunnels = []hostops.Tunnel{own}
			applyAll(t, d, []hostops.VPC{held})
			if err := h.WipeFilter(); err != nil {
				t.Fatal(err)
			}
			desired := hostops.Desired{VPCs: []hostops.VPC{v}, Hold: true}
			ops, _ := hostops.Plan(desired, h.State())
			for _, op := range ops {
				if err := d.Apply(t.Context(), op); err != nil {
					t.Fatal(err)
				}
			}
			if again, problems := hostops.Plan(desired, h.State()); len(again)+len(problems) > 0 {
				t.Errorf("second plan:\n%sfirst plan:\n%s", text(again, problems), text(ops, nil))
			}
			filter := h.State().Filter
			_, guarded := filter.VNIs[v.VNI]
			passes := filter.Sources[v.VNI].Has(own.Peers[0].Underlay)
			if !guarded || passes {
				t.Errorf("VNI %d is guarded: %v, passes from the held tunnel's peer: %v; want true, false", v.VNI, guarded, passes)
			}
		})
	}
}

func TestCleanAlias(t *testing.T) {
	for name, tt := range map[string]struct{ in, want string }{
		"plain":     {"vpc-blue", "vpc-blue"},
		"control":   {"a\x1b[2Jb\nc\x7f", "a?[2Jb?c?"},
		"not ASCII": {"ü\u202e", "??"},
		"no UTF-8":  {"a\xff", "a?"},
		"overlong":  {strings.Repeat("x", 300), strings.Repeat("x", 250)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := hostops.CleanAlias(tt.in); got != tt.want {
				t.Errorf("CleanAlias(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}
