package watcher

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
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
	silent := func(local netip.Addr, peers ...hostops.Peer) hostops.Tunnel {
		x := shared(local, peers...)
		x.ReceiveOnly = true
		return x
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
		open   bool // the members list is older than the link
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
		"active, neither is p2p":    {a6: u6, b6: b6, use: cluster.LinkActive, want: []hostops.Tunnel{silent(u6, hears), own(u6, b6, false)}},
		"restoring":                 {a6: u6, b6: b6, use: cluster.LinkRestoring, want: []hostops.Tunnel{silent(u6, hears), own(u6, b6, false)}},
		"retiring":                  {a6: u6, b6: b6, use: cluster.LinkRetiring, want: []hostops.Tunnel{shared(u6, sends), own(u6, b6, true)}},
		"retired, peer still p2p":   {b: cluster.P2P, a6: u6, b6: b6, open: true, want: []hostops.Tunnel{shared(u6, sends)}},
		"active, peer still p2p":    {b: cluster.P2P, a6: u6, b6: b6, use: cluster.LinkActive, open: true, want: []hostops.Tunnel{silent(u6, hears), own(u6, b6, false)}},
		"preparing, peer p2p":       {b: cluster.P2P, a6: u6, b6: b6, use: cluster.LinkPreparing, want: []hostops.Tunnel{shared(u6, sends), own(u6, b6, true)}},
	} {
		t.Run(name, func(t *testing.T) {
			m := &memory{Port: 4789, Underlay: both}
			mine := &cluster.Member{Transport: tt.a, UnderlayIPv4: tt.a4, UnderlayIPv6: tt.a6}
			v := &vpc{MTU: 1430, Members: map[string]*cluster.Member{"a": mine, "b": {Transport: tt.b, UnderlayIPv4: tt.b4, UnderlayIPv6: tt.b6}}}
			if tt.use != "" {
				v.Links = map[string]cluster.HostLink{"b": {VNI: 8, Use: tt.use}}
			}
			if tt.open {
				v.Open = map[string]int64{"b": 1}
			}
			got, reason := m.tunnels(v, mine, "a")
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" || reason != tt.reason {
				t.Errorf("reason %q, want %q; tunnels (-want +got):\n%s", reason, tt.reason, diff)
			}
		})
	}
}

// TestMembersAndLinksAreReadApart lets host a read members and links in whatever
// order. Each step is a write or a read: b becomes multipoint or p2p, or a does
// ("mine:"); the link has a use or is gone; a reads members, or links.
func TestMembersAndLinksAreReadApart(t *testing.T) {
	const (
		alone   = "by its own tunnel"
		hears   = "by its own tunnel, and hears the shared one"
		sends   = "by the shared tunnel"
		waiting = "no path"
	)
	const begin = "p2p active members links " // of most
	// back takes the pair to the shared tunnel, and to its own again.
	const again = "multipoint restoring links retiring links gone links preparing links active links "
	const back = begin + again
	for name, tt := range map[string]struct{ steps, want string }{
		"p2p from its admission on":     {begin, alone},
		"members older than restoring":  {begin + "multipoint restoring links", hears},
		"members older than retiring":   {begin + "multipoint restoring links retiring links", sends},
		"members older than gone":       {begin + "multipoint restoring links retiring links gone links", sends},
		"members older than active":     {back, hears},
		"then they are multipoint":      {back + "members", hears},
		"then they are p2p again":       {back + "p2p members", alone},
		"members twice behind":          {back + "p2p " + again + "members:1 members:1", hears},
		"p2p heard after the link left": {begin + "multipoint members restoring links active links p2p " + again + "members:1", hears},
		"multipoint, p2p in one read":   {begin + "multipoint restoring links active p2p members links", alone},
		"another member of the name":    {begin + "multipoint members restoring links retiring links gone links p2p members", waiting},
		"the store went back in time":   {"p2p active snapshot " + back + "back", alone},
		"links older than members":      {"mine:p2p links active mine:multipoint members", waiting},
		"then both are read":            {"mine:p2p links active mine:multipoint members links", hears},
	} {
		t.Run(name, func(t *testing.T) {
			a := newReader(t)
			a.steps(tt.steps)
			got := waiting
			d, _ := a.memory.desire("a")
			for _, tunnel := range d.VPCs[0].Tunnels {
				switch {
				case tunnel.Pair != 0 && !tunnel.ReceiveOnly && got == waiting:
					got = alone
				case tunnel.Pair == 0 && len(tunnel.Peers) == 0:
				case tunnel.Pair == 0 && !tunnel.Peers[0].ReceiveOnly:
					got = sends
				case tunnel.Pair == 0:
					got = hears
				}
			}
			if got != tt.want {
				t.Errorf("frames of b come and go %s; want %s", got, tt.want)
			}
		})
	}
}

// reader is host a in a VPC with b, with its own way to the store.
type reader struct {
	t        *testing.T
	kv       *mvcc.Memory
	feeds    []*store.Feed // of members, then of all else
	view     *store.View
	gatherer gatherer
	memory   memory
	snapshot *mvcc.State
}

func newReader(t *testing.T) *reader {
	u6 := netip.MustParseAddr("2001:db8:1::10")
	a := &reader{t: t, kv: mvcc.NewMemory(mvcc.Config{Now: time.Now}), gatherer: gatherer{node: "a"}, memory: memory{
		Underlay: cluster.Underlay{IPv6: &cluster.UnderlayAddress{Bind: u6, Advertise: u6, Device: "u0", MTU: 1500}}, VPCs: map[string]*vpc{}}}
	r := whole()
	a.put(cluster.KeyConfig, r.config)
	a.put(cluster.KeyNode("a"), r.node)
	a.put(cluster.KeyHostVPC("a", "vpc1"), r.vpcs["vpc1"].assignment)
	a.put(cluster.KeyVPCNet("vpc1"), r.vpcs["vpc1"].net)
	a.put(cluster.KeyMember("vpc1", "a"), r.vpcs["vpc1"].members["a"])
	a.steps("multipoint")
	a.list()
	return a
}

func (a *reader) put(key string, r cluster.Record) {
	value, err := json.Marshal(r)
	if err == nil {
		_, err = a.kv.Txn(a.t.Context(), mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Put(key, value)}})
	}
	if err != nil {
		a.t.Fatal(err)
	}
}

// list reads all anew.
func (a *reader) list() {
	a.view, a.feeds = store.NewView(), nil
	for _, prefix := range []string{cluster.PrefixVPC("vpc1"), cluster.PrefixHost("a"), cluster.KeyConfig, cluster.KeyNode("a")} {
		f := store.NewFeed(prefix)
		if err := f.Begin(a.t.Context(), store.New(a.kv, cluster.Identity{}), a.view); err != nil {
			a.t.Fatal(err)
		}
		a.feeds = append(a.feeds, f)
	}
}

// read reads on, most revisions at most, and puts in force what was read.
func (a *reader) read(f *store.Feed, most int) {
	if err := f.Hear(a.view, a.kv.Poll(f.Watch(), most)); err != nil {
		a.t.Fatal(err)
	}
	a.absorb()
}

func (a *reader) absorb() {
	a.memory.absorb(a.gatherer.gather(a.view), "id-a", "a")
	a.memory.VPCs["vpc1"].enforce(map[string]bool{"b": true})
}

func (a *reader) steps(all string) {
	for step := range strings.FieldsSeq(all) {
		switch step {
		case "multipoint", "p2p":
			m := *whole().vpcs["vpc1"].members["b"]
			m.Transport = cluster.Transport(step)
			a.put(cluster.KeyMember("vpc1", "b"), &m)
		case "mine:multipoint", "mine:p2p":
			m := *whole().vpcs["vpc1"].members["a"]
			m.Transport = cluster.Transport(strings.TrimPrefix(step, "mine:"))
			a.put(cluster.KeyMember("vpc1", "a"), &m)
			a.put(cluster.KeyHostVPC("a", "vpc1"), &cluster.HostVPC{State: cluster.AssignedMember, P2P: m.Transport == cluster.P2P})
		case "gone":
			if _, err := a.kv.Txn(a.t.Context(), mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Delete(cluster.KeyHostLink("a", "vpc1", "b"))}}); err != nil {
				a.t.Fatal(err)
			}
		case "members":
			a.read(a.feeds[0], 0)
		case "members:1":
			a.read(a.feeds[0], 1)
		case "links":
			a.read(a.feeds[1], 0)
		case "snapshot":
			a.snapshot = a.kv.Snapshot()
		case "back":
			a.kv.Restore(a.snapshot)
			a.list()
			a.absorb()
		default:
			a.put(cluster.KeyHostLink("a", "vpc1", "b"), &cluster.HostLink{VNI: 8, Use: cluster.LinkUse(step)})
		}
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
