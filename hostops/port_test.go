package hostops_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/hosttest"
)

// TestPortFailsAlone: what one port cannot have is its own problem; its VPC is
// ready and the others are attached. A port that cannot be bound is not brought up.
func TestPortFailsAlone(t *testing.T) {
	h, d := newHost(t)
	if err := withRooms(h); err != nil {
		t.Fatal(err)
	}
	v := withPorts(hosttest.MakeVPC(0))
	device := v.Ports[1].Device
	for _, tt := range []struct {
		refuse string
		never  string
	}{
		{"bind port " + device, "bring up " + device},
		{"create port " + device, "set eth0 of port " + device},
		{"set eth0 of port " + device, "bring up " + device},
		{"add port " + device, "bring up " + device},
	} {
		t.Run(tt.refuse, func(t *testing.T) {
			f := &failing{Driver: d, refuse: []string{tt.refuse}}
			host := mustHost(t, f)
			r := host.Reconcile(t.Context(), hostops.Desired{VPCs: []hostops.VPC{v}}, true)
			want := map[string]map[string]bool{"neta": {"w1": false, "w2": true, "w3": true}}
			if diff := cmp.Diff(want, r.Attached); diff != "" || !r.Ready["neta"] {
				t.Errorf("ready %v, attached (-want +got):\n%s", r.Ready, diff)
			}
			for _, p := range r.Problems {
				if p.Endpoint != "w1" || p.VPC != "neta" || p.Gone || !strings.Contains(p.Reason, errRefused.Error()) {
					t.Errorf("problem %+v", p)
				}
			}
			if len(r.Problems) == 0 {
				t.Error("no problem")
			}
			for _, op := range f.tried {
				if strings.HasPrefix(op, tt.never) {
					t.Errorf("tried %q", op)
				}
			}
			f.refuse = nil
			r = host.Reconcile(t.Context(), hostops.Desired{VPCs: []hostops.VPC{v}}, false)
			if len(r.Problems) > 0 || !r.Attached["neta"]["w1"] || r.Repairs != 0 {
				t.Errorf("after the cause is gone: %+v", r)
			}
			host.Reconcile(t.Context(), hostops.Desired{VPCs: []hostops.VPC{hosttest.MakeVPC(0)}}, false)
		})
	}
}

// TestPortOfUnreadyVPC: a port is attached although its VPC has no tunnel, and is not
// without a bridge.
func TestPortOfUnreadyVPC(t *testing.T) {
	h, d := newHost(t)
	if err := withRooms(h); err != nil {
		t.Fatal(err)
	}
	v := withPorts(hosttest.MakeVPC(0))
	v.Tunnels[0].Device = "nosuch"
	if r := mustHost(t, d).Reconcile(t.Context(), hostops.Desired{VPCs: []hostops.VPC{v}}, true); r.Ready["neta"] || !r.Attached["neta"]["w1"] {
		t.Errorf("without a tunnel: ready %v, attached %v", r.Ready, r.Attached)
	}
	w := withPorts(hosttest.MakeVPC(1))
	if err := h.AddDevice("netb", hostops.Other{Kind: hostops.KindBridge, MTU: 1500}); err != nil {
		t.Fatal(err)
	}
	if r := mustHost(t, d).Reconcile(t.Context(), hostops.Desired{VPCs: []hostops.VPC{w}}, true); r.Attached["netb"]["w1"] {
		t.Errorf("without a bridge: attached %v", r.Attached)
	}
}

// TestAnnouncedOnce: each time that a port goes up, and not again.
func TestAnnouncedOnce(t *testing.T) {
	fh, d := newHost(t)
	if err := withRooms(fh); err != nil {
		t.Fatal(err)
	}
	h := mustHost(t, d)
	v := withPorts(hosttest.MakeVPC(0))
	pass := func(v hostops.VPC, want int) {
		t.Helper()
		for _, full := range []bool{false, true, false} {
			h.Reconcile(t.Context(), hostops.Desired{VPCs: []hostops.VPC{v}}, full)
		}
		for _, p := range v.Ports {
			if got := fh.Announced(p.Device); got != want {
				t.Errorf("%s was announced %d times, want %d", p.Device, got, want)
			}
		}
	}
	pass(v, 1)
	standby := inStandby(withPorts(hosttest.MakeVPC(0)))
	pass(standby, 1)
	pass(v, 2)
}

// TestNoBridgeFilter: without the bridge family a port is attached only if it is
// trusted.
func TestNoBridgeFilter(t *testing.T) {
	h, d := newHost(t)
	if err := withRooms(h); err != nil {
		t.Fatal(err)
	}
	applyAll(t, d, []hostops.VPC{hosttest.MakeVPC(0)})
	s := h.State()
	s.Filter.NoShields = true
	ops, problems := hostops.Plan(hostops.Desired{VPCs: []hostops.VPC{withPorts(hosttest.MakeVPC(0))}}, s)
	if len(problems) != 2 || problems[0].Endpoint != "w2" || problems[1].Endpoint != "w1" || !strings.Contains(problems[0].Reason, "--trust") {
		t.Errorf("problems: %+v", problems)
	}
	for _, op := range ops {
		if op.On().Object != "tap3" {
			t.Errorf("planned %q", op)
		}
	}
}

// TestStandbyGoesDown: a port that was up, and cannot be as desired, passes nothing any
// more if it is to be a standby's, and is left as it is if not.
func TestStandbyGoesDown(t *testing.T) {
	h, d := newHost(t)
	if err := withRooms(h); err != nil {
		t.Fatal(err)
	}
	v := withPorts(hosttest.MakeVPC(0))
	applyAll(t, d, []hostops.VPC{v})
	h.CannotShut()
	for name, tt := range map[string]struct {
		standby bool
		want    []hostops.Op
	}{
		"its owner":   {false, nil},
		"its standby": {true, []hostops.Op{hostops.SetDown{Target: hostops.Target{VPC: v.Name, Object: v.Ports[0].Device}}}},
	} {
		t.Run(name, func(t *testing.T) {
			one := v
			one.Ports = slices.Clone(v.Ports[:1])
			one.Ports[0].Gated, one.Ports[0].Trusted, one.Ports[0].Standby = true, true, tt.standby
			ops, problems := hostops.Plan(hostops.Desired{VPCs: []hostops.VPC{one}}, h.State())
			ops = slices.DeleteFunc(ops, func(op hostops.Op) bool { return op.On().Object != one.Ports[0].Device })
			if diff := cmp.Diff(tt.want, ops, cmpopts.EquateEmpty()); diff != "" || len(problems) != 1 {
				t.Errorf("problems %+v; operations (-want +got)\n%s", problems, diff)
			}
		})
	}
}

func TestEndpointPortOf(t *testing.T) {
	names := map[string]string{}
	for _, vpc := range []string{"a", "ab", "a-b", "vpc1"} {
		for _, e := range []string{"w", "b-w", "w1", strings.Repeat("x", 63), "bw"} {
			name := hostops.EndpointPortOf(vpc, e)
			if len(name) != 15 || names[name] != "" {
				t.Errorf("EndpointPortOf(%q, %q) = %q, as of %q", vpc, e, name, names[name])
			}
			names[name] = vpc + "/" + e
		}
	}
}

// TestMarks: each use has its group, which says whose the device is.
func TestMarks(t *testing.T) {
	for _, tt := range []struct {
		use   hostops.Use
		name  string
		kind  hostops.Kind
		group uint32
		ours  bool
	}{
		{hostops.UseMade, "me-0123456789ab", hostops.KindPort, 0x6e000007, true},
		{hostops.UseMade, "veth0", hostops.KindPort, 0x6e000007, false},
		{hostops.UseMade, "tap0", hostops.KindTap, 0x6e000007, true},
		{hostops.UseMade, "br0", hostops.KindBridge, 0x6e000007, false},
		{hostops.UseLent, "eth1", "", 0x6f000007, true},
		{hostops.UseLent, "vx", hostops.KindTunnel, 0x6f000007, false},
		{hostops.UseVPC, "mn-7", hostops.KindPort, 0x6d000007, true},
	} {
		v, ours := hostops.OwnDevice(tt.name, tt.kind, tt.group)
		if ours != tt.ours || ours && v != 7 || hostops.GroupFor(tt.use, cluster.VNI(7)) != tt.group || hostops.UseOf(tt.group) != tt.use {
			t.Errorf("%s (%s, %x): ours %v for %d, use %q", tt.name, tt.kind, tt.group, ours, v, hostops.UseOf(tt.group))
		}
	}
	if got := hostops.VNIOf(0x6e000007); got != 0 {
		t.Errorf("a workload's port is taken for the VPC's own: VNI %d", got)
	}
}
