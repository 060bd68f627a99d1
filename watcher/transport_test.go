package watcher

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// TestTunnels: what members' transports, families and links' records make of
// host a's tunnels to b.
func TestTunnels(t *testing.T) {
	u4, u6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:1::10")
	b4, b6 := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8:2::10")
	both := cluster.Underlay{
		IPv4: &cluster.UnderlayAddress{Bind: u4, Advertise: u4, Device: "u0", MTU: 1500},
		IPv6: &cluster.UnderlayAddress{Bind: u6, Advertise: u6, Device: "u0", MTU: 1500},
	}
	shared := func(local netip.Addr, peers ...hostops.Peer) hostops.Tunnel {
		return hostops.Tunnel{Local: local, Device: "u0", Port: 4789, Peers: peers}
	}
	own := func(local netip.Addr, peer netip.Addr, receiveOnly bool) hostops.Tunnel {
		x := shared(local, hostops.Peer{Node: "b", Underlay: peer})
		x.Pair, x.ReceiveOnly = 8, receiveOnly
		return x
	}
	sends, hears := hostops.Peer{Node: "b", Underlay: b6}, hostops.Peer{Node: "b", Underlay: b6, ReceiveOnly: true}
	for name, tt := range map[string]struct {
		a, b   cluster.Transport
		a4, a6 netip.Addr
		b4, b6 netip.Addr
		use    cluster.LinkUse
		gone   bool // the link has retired
		want   []hostops.Tunnel
		reason string
	}{
		"shared":                    {a6: u6, b6: b6, want: []hostops.Tunnel{shared(u6, sends)}},
		"both families":             {a4: u4, a6: u6, b4: b4, b6: b6, want: []hostops.Tunnel{shared(u6, sends)}},
		"peer has IPv4 only":        {a4: u4, a6: u6, b4: b4, want: []hostops.Tunnel{shared(u4, hostops.Peer{Node: "b", Underlay: b4}), shared(u6)}},
		"no common family":          {a6: u6, b4: b4, want: []hostops.Tunnel{shared(u6)}, reason: "no common address family with b"},
		"no common family, p2p":     {a: cluster.P2P, b: cluster.P2P, a6: u6, b4: b4, use: cluster.LinkActive, reason: "no common address family with b"},
		"p2p without a record":      {a: cluster.P2P, b: cluster.P2P, a6: u6, b6: b6, reason: "waiting for the controller to allocate a tunnel to b"},
		"peer p2p without a record": {b: cluster.P2P, a6: u6, b6: b6, want: []hostops.Tunnel{shared(u6)}, reason: "waiting for the controller to allocate a tunnel to b"},
		"p2p":                       {a: cluster.P2P, b: cluster.P2P, a6: u6, b6: b6, use: cluster.LinkActive, want: []hostops.Tunnel{own(u6, b6, false)}},
		"p2p over IPv4":             {a: cluster.P2P, b: cluster.P2P, a4: u4, b4: b4, use: cluster.LinkActive, want: []hostops.Tunnel{own(u4, b4, false)}},
		"peer p2p":                  {b: cluster.P2P, a6: u6, b6: b6, use: cluster.LinkActive, want: []hostops.Tunnel{shared(u6), own(u6, b6, false)}},
		"preparing":                 {a6: u6, b6: b6, use: cluster.LinkPreparing, want: []hostops.Tunnel{shared(u6, sends), own(u6, b6, true)}},
		"active, neither is p2p":    {a6: u6, b6: b6, use: cluster.LinkActive, want: []hostops.Tunnel{shared(u6, hears), own(u6, b6, false)}},
		"restoring":                 {a6: u6, b6: b6, use: cluster.LinkRestoring, want: []hostops.Tunnel{shared(u6, hears), own(u6, b6, false)}},
		"retiring":                  {a6: u6, b6: b6, use: cluster.LinkRetiring, want: []hostops.Tunnel{shared(u6, sends), own(u6, b6, true)}},
		"retired, peer still p2p":   {b: cluster.P2P, a6: u6, b6: b6, gone: true, want: []hostops.Tunnel{shared(u6, sends)}},
		"preparing, peer p2p":       {b: cluster.P2P, a6: u6, b6: b6, use: cluster.LinkPreparing, want: []hostops.Tunnel{shared(u6, sends), own(u6, b6, true)}},
	} {
		t.Run(name, func(t *testing.T) {
			m := &memory{Port: 4789, Underlay: both}
			mine := &cluster.Member{Transport: tt.a, UnderlayIPv4: tt.a4, UnderlayIPv6: tt.a6}
			v := &vpc{MTU: 1430, Members: map[string]*cluster.Member{"a": mine, "b": {Transport: tt.b, UnderlayIPv4: tt.b4, UnderlayIPv6: tt.b6}}}
			if tt.use != "" {
				v.Links = map[string]cluster.HostLink{"b": {VNI: 8, Use: tt.use}}
			}
			v.Retired = map[string]bool{"b": tt.gone}
			got, reason := m.tunnels(v, mine, "a")
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" || reason != tt.reason {
				t.Errorf("reason %q, want %q; tunnels (-want +got):\n%s", reason, tt.reason, diff)
			}
		})
	}
}

func TestAbsorbLinks(t *testing.T) {
	link := func(vni cluster.VNI, use cluster.LinkUse) map[string]cluster.HostLink {
		return map[string]cluster.HostLink{"b": {VNI: vni, Use: use}}
	}
	members := map[string]*cluster.Member{"a": {}, "b": {}}
	for name, tt := range map[string]struct {
		had, inForce, records map[string]cluster.HostLink
		alone                 bool
		want                  map[string]cluster.HostLink
	}{
		"new":                                 {records: link(8, cluster.LinkActive), want: link(8, cluster.LinkActive)},
		"new of a node that is no member":     {records: link(8, cluster.LinkActive), alone: true},
		"next use":                            {had: link(8, cluster.LinkPreparing), records: link(8, cluster.LinkActive), want: link(8, cluster.LinkActive)},
		"another VNI":                         {had: link(8, cluster.LinkActive), records: link(9, cluster.LinkActive), want: link(9, cluster.LinkActive)},
		"vanished while active":               {had: link(8, cluster.LinkActive), inForce: link(8, cluster.LinkActive), want: link(8, cluster.LinkActive)},
		"vanished while preparing":            {had: link(8, cluster.LinkPreparing), inForce: link(8, cluster.LinkPreparing), want: link(8, cluster.LinkPreparing)},
		"vanished after retiring":             {had: link(8, cluster.LinkRetiring), inForce: link(8, cluster.LinkRetiring)},
		"vanished before it has retired":      {had: link(8, cluster.LinkRetiring), inForce: link(8, cluster.LinkRestoring), want: link(8, cluster.LinkRetiring)},
		"peer is no member any more":          {had: link(8, cluster.LinkActive), inForce: link(8, cluster.LinkActive), records: link(8, cluster.LinkActive), alone: true},
		"vanished with its peer's membership": {had: link(8, cluster.LinkActive), alone: true},
	} {
		t.Run(name, func(t *testing.T) {
			v := &vpc{Members: members, Links: tt.had, inForce: tt.inForce}
			if tt.alone {
				v.Members = map[string]*cluster.Member{"a": {}}
			}
			before := len(tt.had)
			changed := v.absorbLinks(tt.records)
			if diff := cmp.Diff(tt.want, v.Links, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("links (-want +got):\n%s", diff)
			}
			if before != len(tt.want) && !changed {
				t.Error("the change is not reported")
			}
			if v.absorbLinks(tt.records) {
				t.Error("the same records again are a change")
			}
		})
	}
}

// TestLinkUses takes a pair from the shared tunnel to its own and back, the way
// of cluster.LinkUse, through mistakes and restarts.
func TestLinkUses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		for i := range 2 {
			w.start(w.node(i + 1))
		}
		w.vpc(2)
		w.settle(5 * time.Second)
		pair := cluster.PairOf("vpc1", "n1", "n2")
		put := func(use cluster.LinkUse) {
			for _, key := range pair.Keys() {
				w.put(cluster.Controller, key, &cluster.HostLink{VNI: 20000, Use: use})
			}
		}
		check := func(when string, use cluster.LinkUse, there bool) {
			t.Helper()
			for i, name := range []string{"n1", "n2"} {
				it, err := w.get(name)
				if err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				want := cluster.Link{Peer: []string{"n2", "n1"}[i], State: cluster.LinkUp, RTT: 1, Use: use}
				if use != "" {
					want.VNI = 20000
				}
				if diff := cmp.Diff([]cluster.Link{want}, it.Value.Links); diff != "" || !it.Value.Ready || it.Value.Repairs != 0 {
					t.Errorf("%s: %s reports ready %v (%s), %d repairs, links (-want +got):\n%s", when, name, it.Value.Ready, it.Value.Reason, it.Value.Repairs, diff)
				}
				if got := w.hosts[name].State().Devices["mp-20000"].Up; got != there {
					t.Errorf("%s: the tunnel is up on %s: %v, want %v", when, name, got, there)
				}
				if n := w.net.Copies(w.hosts[name], w.hosts[want.Peer], "vpc1"); n != 1 {
					t.Errorf("%s: a broadcast from %s arrives %d times", when, name, n)
				}
			}
		}
		check("at first", "", false)
		put(cluster.LinkPreparing)
		w.settle(0)
		check("preparing", cluster.LinkPreparing, true)
		put(cluster.LinkActive)
		w.settle(0)
		check("active", cluster.LinkActive, true)
		for _, key := range pair.Keys() {
			w.raw(key, "")
		}
		w.settle(time.Minute)
		check("records vanished", cluster.LinkActive, true)
		w.stop["n1"]()
		w.start("n1")
		w.settle(2 * time.Second)
		check("restarted", cluster.LinkActive, true)
		put(cluster.LinkRestoring)
		w.settle(0)
		check("restoring", cluster.LinkRestoring, true)
		put(cluster.LinkRetiring)
		w.settle(0)
		check("retiring", cluster.LinkRetiring, true)
		for _, key := range pair.Keys() {
			w.raw(key, "")
		}
		w.settle(0)
		check("gone", "", false)
	})
}
