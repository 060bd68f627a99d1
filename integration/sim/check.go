package sim

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
)

// ordered yields a map by its keys: the same seed tells the same story.
func ordered[K cmp.Ordered, V any](m map[K]V) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

// claims are what must be held once, by all that is in the store now: a VNI in
// force by one VPC or pair, a VTEP address by one member.
type claims map[string]map[string]string // what, and of those who hold it, by key

// claim is what a record holds; "": nothing of the kind.
func claim(kv mvcc.KeyValue) (what, holder string) {
	k, err := cluster.ParseKey(kv.Key)
	if err != nil || !slices.Contains([]cluster.Kind{cluster.KindVPCNet, cluster.KindHostLink, cluster.KindMember}, k.Kind) {
		return "", ""
	}
	r, err := cluster.Decode(kv.Key, kv.Value)
	if err != nil {
		return "", ""
	}
	vni := cluster.VNI(0)
	switch r := r.(type) {
	case *cluster.VPCNet:
		vni, holder = r.VNI, k.VPC
	case *cluster.HostLink:
		vni, holder = r.VNI, cluster.PairOf(k.VPC, k.Node, k.Name).String()
	case *cluster.Member:
		return "VTEP address " + r.VTEP.String() + " of " + k.VPC, k.Node
	}
	if vni == 0 {
		return "", ""
	}
	return fmt.Sprintf("VNI %d", vni), holder
}

// neverTwice holds every revision to what must be true of each: nothing has two
// holders.
func (w *World) neverTwice(events []mvcc.Event) {
	if w.claims == nil {
		all, err := w.kv.Range(w.ctx, mvcc.Prefix(cluster.Root))
		if err != nil {
			return // the store is down
		}
		w.claims, w.claimed = claims{}, map[string]string{}
		events = nil
		for _, kv := range all.Keys {
			events = append(events, mvcc.Event{KV: kv})
		}
	}
	changed := map[string]bool{}
	for _, e := range events {
		if what, ok := w.claimed[e.KV.Key]; ok {
			delete(w.claims[what], e.KV.Key)
			delete(w.claimed, e.KV.Key)
		}
		if e.Deleted {
			continue
		}
		w.neverElsewhere(e.KV)
		what, holder := claim(e.KV)
		if what == "" {
			continue
		}
		if w.claims[what] == nil {
			w.claims[what] = map[string]string{}
		}
		w.claims[what][e.KV.Key], w.claimed[e.KV.Key] = holder, what
		changed[what] = true
	}
	for what := range ordered(changed) {
		if holders := slices.Compact(slices.Sorted(maps.Values(w.claims[what]))); len(holders) > 1 {
			w.fail("%s is of %s", what, strings.Join(holders, " and of "))
		}
	}
}

// neverElsewhere holds a member's record to where its node is or was, whatever
// the node said.
func (w *World) neverElsewhere(kv mvcc.KeyValue) {
	k, err := cluster.ParseKey(kv.Key)
	if err != nil || k.Kind != cluster.KindMember {
		return
	}
	r, err := cluster.Decode(kv.Key, kv.Value)
	if err != nil {
		return
	}
	if a := r.(*cluster.Member).Underlay(); w.had[a] != k.Node {
		w.fail("in %s, %s is to be reached at %s, where it never was", k.VPC, k.Node, a)
	}
}

// records is the store at rest, sorted.
type records struct {
	nets    map[string]*cluster.VPCNet
	members map[string]map[string]*cluster.Member
	links   map[string]map[string]map[string]*cluster.HostLink // by VPC, node and peer
	allocs  map[string]*cluster.Allocation
	status  map[string]map[string]*cluster.VPCStatus // by VPC and node
	others  []string                                 // keys that should not be there at rest
	spoiled []store.Problem
}

func (w *World) records() *records {
	r := &records{nets: map[string]*cluster.VPCNet{}, members: map[string]map[string]*cluster.Member{},
		links:  map[string]map[string]map[string]*cluster.HostLink{},
		allocs: map[string]*cluster.Allocation{}, status: map[string]map[string]*cluster.VPCStatus{}}
	v := store.NewView()
	if err := store.NewFeed(cluster.Root).Begin(w.ctx, store.New(w.kv, cluster.Identity{}), v); err != nil {
		w.fail("read all: %v", err)
	}
	r.spoiled = v.Problems()
	for it := range store.Below[cluster.Record](v, cluster.Root) {
		k, err := cluster.ParseKey(it.Key)
		if err != nil {
			w.fail("key %s: %v", it.Key, err)
			continue
		}
		switch x := it.Value.(type) {
		case *cluster.VPCNet:
			r.nets[k.VPC] = x
		case *cluster.Member:
			put(r.members, k.VPC, k.Node, x)
		case *cluster.VPCStatus:
			put(r.status, k.VPC, k.Node, x)
		case *cluster.HostLink:
			if r.links[k.VPC] == nil {
				r.links[k.VPC] = map[string]map[string]*cluster.HostLink{}
			}
			put(r.links[k.VPC], k.Node, k.Name, x)
		case *cluster.Allocation:
			r.allocs[it.Key] = x
		case *cluster.HostVPC:
			if x.State != cluster.AssignedMember {
				r.others = append(r.others, it.Key)
			}
		}
	}
	return r
}

func put[T any](m map[string]map[string]T, vpc, node string, v T) {
	if m[vpc] == nil {
		m[vpc] = map[string]T{}
	}
	m[vpc][node] = v
}

// someHas reports whether a host says that it has something of a VPC.
func (w *World) someHas(vpc string) bool {
	for _, s := range w.records().status[vpc] {
		if s.State != cluster.HostLeft {
			return true
		}
	}
	return false
}

// check holds a world at rest to what must be true.
func (w *World) check() {
	revision, writes := w.kv.Revision(), w.kernelWrites()
	w.run(w.now + 2*time.Minute)
	if n := w.kv.Revision() - revision; n != 0 {
		w.fail("%d revisions were made at rest: %s", n, w.latest(revision))
	}
	if n := w.kernelWrites() - writes; n != 0 {
		w.fail("%d writes to kernels were made at rest", n)
	}
	r := w.records()
	for _, p := range r.spoiled {
		w.fail("%s cannot be read: %v", p.Key, p.Err)
	}
	for _, key := range r.others {
		w.fail("%s is there still", key)
	}
	w.checkVPCs(r)
	w.checkAllocations(r)
	for _, n := range w.nodes {
		w.checkHost(r, n)
	}
	for _, vpc := range slices.Sorted(maps.Keys(r.nets)) {
		w.checkFlood(r, vpc)
	}
}

func (w *World) kernelWrites() (n int) {
	for _, x := range w.nodes {
		n += x.host.Writes()
	}
	return n
}

// latest names the keys that were written since.
func (w *World) latest(revision int64) string {
	resp := w.kv.Poll(mvcc.WatchRequest{Key: "\x00", End: "\x00", From: revision + 1}, 5)
	var keys []string
	for _, e := range resp.Events {
		keys = append(keys, fmt.Sprintf("%s=%s", e.KV.Key, e.KV.Value))
	}
	return strings.Join(keys, " ")
}

// checkVPCs holds members to what the operator wants.
func (w *World) checkVPCs(r *records) {
	wanted := w.operator.vpcs()
	for _, vpc := range slices.Sorted(maps.Keys(r.nets)) {
		if !slices.Contains(wanted, vpc) {
			w.fail("VPC %s is not wanted and is there: %+v", vpc, *r.nets[vpc])
		}
	}
	for _, vpc := range wanted {
		spec := w.operator.wishes[cluster.KeyVPCSpec(vpc)].(*cluster.VPCSpec)
		net := r.nets[vpc]
		if net == nil || net.Phase != cluster.PhaseActive {
			if net == nil || net.Reason == "" {
				w.fail("VPC %s is not active and no reason is given: %+v", vpc, net)
			}
			continue
		}
		for _, n := range w.nodes {
			node := w.operator.wishes[cluster.KeyNode(n.name)].(*cluster.Node)
			want := spec.Members.Selects(n.name, node)
			_, is := r.members[vpc][n.name]
			if want != is && !(want && net.Refused[n.name] != "") {
				w.fail("node %s is a member of %s: %v; want %v (%v)", n.name, vpc, is, want, net.Refused)
			}
		}
	}
	w.checkLinks(r)
}

// speaks is the transport of a member, as the operator wants it and its host
// can.
func (w *World) speaks(vpc string, n *node) cluster.Transport {
	spec := w.operator.wishes[cluster.KeyVPCSpec(vpc)].(*cluster.VPCSpec)
	if spec.Transport == cluster.P2P || n.can != nil {
		return cluster.P2P
	}
	return cluster.Multipoint
}

// checkLinks holds transports, and the records of pairs, to what the operator
// wants: those of which an end is p2p have a tunnel of their own, in use, the same
// at both ends; no other record is there.
func (w *World) checkLinks(r *records) {
	for vpc, members := range ordered(r.members) {
		for _, a := range w.nodes {
			m := members[a.name]
			if m == nil {
				continue
			}
			if want := w.speaks(vpc, a); m.Transport != want {
				w.fail("%s is %s in %s; want %s", a.name, m.Transport, vpc, want)
			}
			for _, b := range w.nodes {
				if a == b || members[b.name] == nil || w.speaks(vpc, a) != cluster.P2P && w.speaks(vpc, b) != cluster.P2P {
					continue
				}
				l, back := r.links[vpc][a.name][b.name], r.links[vpc][b.name][a.name]
				if l == nil || back == nil || *l != *back || l.Use != cluster.LinkActive {
					w.fail("link %s – %s of %s is %+v and %+v; want it active", a.name, b.name, vpc, l, back)
				}
			}
		}
	}
	for vpc, links := range ordered(r.links) {
		for a, peers := range ordered(links) {
			for b, l := range ordered(peers) {
				x, y := w.node(a), w.node(b)
				if x == nil || y == nil || r.members[vpc][a] == nil || r.members[vpc][b] == nil ||
					w.speaks(vpc, x) != cluster.P2P && w.speaks(vpc, y) != cluster.P2P {
					w.fail("link %s – %s of %s is there still: %+v", a, b, vpc, *l)
				}
			}
		}
	}
}

// node finds a node by its name; nil: there never was one.
func (w *World) node(name string) *node {
	for _, n := range w.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// checkAllocations holds reverse keys to what needs them.
func (w *World) checkAllocations(r *records) {
	want := map[string]string{}
	for vpc, net := range r.nets {
		if net.VNI != 0 {
			want[cluster.KeyAllocVNI(net.VNI)] = vpc
		}
		for node, m := range r.members[vpc] {
			want[cluster.KeyAllocVTEP(vpc, m.VTEP)] = node
		}
		for node, links := range r.links[vpc] {
			for peer, l := range links {
				want[cluster.KeyAllocVNI(l.VNI)] = cluster.PairOf(vpc, node, peer).String()
			}
		}
	}
	for key, a := range ordered(r.allocs) {
		switch {
		case want[key] == "":
			w.fail("%s leaks: held by %s, released %v", key, a.Holder, a.Released)
		case a.Holder != want[key] || a.Released:
			w.fail("%s is held by %s, released %v; want %s", key, a.Holder, a.Released, want[key])
		}
		delete(want, key)
	}
	for key, holder := range ordered(want) {
		w.fail("%s, which %s needs, is not there", key, holder)
	}
}

// checkHost holds a kernel to the records. What is expected is worked out here,
// apart from the agent's own way to it.
func (w *World) checkHost(r *records, n *node) {
	s := n.host.State()
	owned, tunnels := map[cluster.VNI]string{}, map[string]bool{}
	for vpc, members := range ordered(r.members) {
		mine := members[n.name]
		if mine == nil {
			continue
		}
		net := r.nets[vpc]
		if net == nil {
			w.fail("%s is a member of %s, which has no net record", n.name, vpc)
			continue
		}
		owned[net.VNI] = vpc
		for _, l := range r.links[vpc][n.name] {
			owned[l.VNI] = vpc
		}
		for name := range w.checkVPC(n, s, vpc, net, members, r.links[vpc][n.name]) {
			tunnels[name] = true
		}
		status := r.status[vpc][n.name]
		if status == nil || !status.Ready || status.State != cluster.HostMember {
			w.fail("%s says of %s: %+v", n.name, vpc, status)
		}
	}
	for name, d := range ordered(s.Devices) {
		if owned[d.Owner] == "" || d.Kind == hostops.KindTunnel && !tunnels[name] {
			w.fail("%s has device %s of VNI %d, of which there is no record", n.name, name, d.Owner)
		}
	}
	for name, ns := range ordered(s.Namespaces) {
		if owned[ns.Owner] == "" {
			w.fail("%s has namespace %s of VNI %d, of which there is no record", n.name, name, ns.Owner)
		}
	}
	for v := range ordered(s.Filter.VNIs) {
		if owned[v] == "" {
			w.fail("%s guards VNI %d, of which there is no record", n.name, v)
		}
	}
	if n.host.Loops() > 0 {
		w.fail("%s could have forwarded from tunnel to tunnel %d times", n.name, n.host.Loops())
	}
}

// checkVPC returns the tunnels that should be there.
func (w *World) checkVPC(n *node, s hostops.State, vpc string, net *cluster.VPCNet, members map[string]*cluster.Member, links map[string]*cluster.HostLink) map[string]bool {
	mine := members[n.name]
	if got := mine.UnderlayIPv6; got != n.underlay() {
		w.fail("%s is known as %s in %s; it is %s", n.name, got, vpc, n.underlay())
	}
	for kind, name := range ordered(map[string]string{"bridge": vpc, "port": hostops.PortOf(net.VNI)}) {
		if d := s.Devices[name]; d.Owner != net.VNI || d.MTU != net.MTU || !d.Up {
			w.fail("%s: %s of %s is %+v; want it up, MTU %d, VNI %d", n.name, kind, vpc, d, net.MTU, net.VNI)
		}
	}
	tunnels, shared := map[string]bool{}, hostops.Addrs()
	for name, m := range ordered(members) {
		switch l := links[name]; {
		case name == n.name:
		case l != nil:
			device := hostops.PairTunnelOf(l.VNI)
			tunnels[device] = true
			w.checkTunnel(n, s, vpc, net, device, l.VNI, hostops.Addrs(m.UnderlayIPv6))
		default:
			shared.Set(m.UnderlayIPv6, struct{}{})
		}
	}
	if mine.Transport != cluster.P2P || shared.Len() > 0 {
		device := hostops.TunnelOf(net.VNI, n.underlay())
		tunnels[device] = true
		w.checkTunnel(n, s, vpc, net, device, net.VNI, shared)
	}
	ns := s.Namespaces[hostops.NamespaceOf(vpc)]
	address := netip.PrefixFrom(mine.VTEP, net.PeerNetwork.Bits())
	if ns.Owner != net.VNI || ns.Port == nil || !slices.Equal(ns.Port.Addresses, []netip.Prefix{address}) {
		w.fail("%s: namespace of %s is %+v; want %s", n.name, vpc, ns, address)
	}
	return tunnels
}

// checkTunnel holds a tunnel and its filter to the peers that it is for.
func (w *World) checkTunnel(n *node, s hostops.State, vpc string, net *cluster.VPCNet, device string, vni cluster.VNI, peers hostops.AddrSet) {
	d := s.Devices[device]
	if d.Owner != net.VNI || d.VNI != vni || d.MTU != net.MTU || !d.Up || d.Local != n.underlay() || d.Master != vpc || !d.Isolated || !d.Sends || d.Odd {
		w.fail("%s: tunnel %s of %s is %+v; want it up, isolated, sending, MTU %d, VNI %d of %d", n.name, device, vpc, d, net.MTU, vni, net.VNI)
	}
	if !d.Flood.Equal(peers) {
		w.fail("%s: flood list of %s of %s is %v; want %v", n.name, device, vpc, slices.Collect(d.Flood.Keys()), slices.Collect(peers.Keys()))
	}
	if got := s.Filter.Sources[vni]; !got.Equal(peers) {
		w.fail("%s: allowed sources of %s of %s are %v; want %v", n.name, device, vpc, slices.Collect(got.Keys()), slices.Collect(peers.Keys()))
	}
	if _, guarded := s.Filter.VNIs[vni]; !guarded {
		w.fail("%s: VNI %d of %s is not guarded", n.name, vni, vpc)
	}
}

// checkFlood lets a local port of each member send a broadcast, and follows it
// through bridges and tunnels.
func (w *World) checkFlood(r *records, vpc string) {
	hosts := map[netip.Addr]*node{}
	for _, n := range w.nodes {
		hosts[n.underlay()] = n
	}
	for from := range ordered(r.members[vpc]) {
		got := w.flood(vpc, from, hosts)
		for name := range ordered(r.members[vpc]) {
			want := 1
			if name == from {
				want = 0
			}
			if got[name] != want {
				w.fail("a broadcast in %s from %s reaches %s %d times; want %d", vpc, from, name, got[name], want)
			}
			delete(got, name)
		}
		for name, n := range ordered(got) {
			w.fail("a broadcast in %s from %s reaches %s, which is no member, %d times", vpc, from, name, n)
		}
	}
}

// frame is a broadcast on its way into a bridge by a port; "" is a local one.
type frame struct {
	node *node
	port string
}

// flood counts the arrivals of one broadcast at each host. A loop ends it.
func (w *World) flood(vpc, from string, hosts map[netip.Addr]*node) map[string]int {
	const most = 1000
	got := map[string]int{}
	i := slices.IndexFunc(w.nodes, func(n *node) bool { return n.name == from })
	queue := []frame{{w.nodes[i], ""}}
	for n := 0; len(queue) > 0; n++ {
		if n > most {
			w.fail("a broadcast in %s from %s never ends", vpc, from)
			return got
		}
		f := queue[0]
		queue = queue[1:]
		s := f.node.host.State()
		for name, d := range ordered(s.Devices) {
			in := s.Devices[f.port]
			if name == f.port || d.Kind != hostops.KindTunnel || d.Master != vpc || !d.Up || d.Silent || in.Isolated && d.Isolated {
				continue
			}
			for _, remote := range slices.SortedFunc(d.Flood.Keys(), netip.Addr.Compare) {
				if h := hosts[remote]; h != nil && h.accepts(d) {
					got[h.name]++
					queue = append(queue, frame{h, h.deviceOf(d.VNI)})
				}
			}
		}
	}
	return got
}

// accepts reports whether a frame from another host's tunnel comes in here.
func (n *node) accepts(from hostops.Device) bool {
	s := n.host.State()
	d, ok := s.Devices[n.deviceOf(from.VNI)]
	allowed := s.Filter.Sources[from.VNI].Has(from.Local)
	return ok && d.Up && d.Master != "" && allowed
}

// deviceOf is the tunnel here that receives frames of a VNI.
func (n *node) deviceOf(v cluster.VNI) string {
	for name, d := range n.host.State().Devices {
		if d.Kind == hostops.KindTunnel && d.VNI == v {
			return name
		}
	}
	return ""
}
