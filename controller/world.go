package controller

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/controller/failover"
)

// Short names of what a pass reads.
type (
	specItem   = store.Item[*cluster.VPCSpec]
	netItem    = store.Item[*cluster.VPCNet]
	memberItem = store.Item[*cluster.Member]
	hostItem   = store.Item[*cluster.HostVPC]
	statusItem = store.Item[*cluster.VPCStatus]
	allocItem  = store.Item[*cluster.Allocation]
	reportItem = store.Item[*cluster.NodeStatus]
	linkItem   = store.Item[*cluster.HostLink]
	holdItem   = store.Item[*cluster.Hold]
	portItem   = store.Item[*cluster.EndpointStatus]
)

// world is a view, sorted for deciding. Records of which a newer version is in
// the store are never written over: their VPC or node is blocked.
type world struct {
	view   *store.View
	config *cluster.Config // nil: none yet

	names    []string // of nodes, sorted
	nodes    map[string]*cluster.Node
	reports  map[string]reportItem // of the machine whose id the node record has
	impostor map[string]bool       // another machine reports under this name
	fenced   map[string]bool       // nothing is taken from it
	alive    map[string]bool       // its agent runs
	owners   map[netip.Addr]string // who may use an underlay address

	confirm *confirmations
	open    []*confirmation                // of addresses that are reported, and not confirmed
	known   map[string]map[netip.Addr]bool // see knownAddresses; nil: not looked at yet

	vpcs    map[string]*vpc
	newer   map[string]bool        // keys that must not be written
	ofVPC   map[cluster.VNI]string // as hosts report it
	asked   []*request             // what nodes ask for
	own     *ownTunnels
	tunnels map[cluster.VNI]cluster.Pair // see tunnelVNIs; nil: not looked at yet
	used    map[cluster.VNI]cluster.Pair // see usedByOther; nil: not looked at yet
	chooser *failover.Chooser            // see choosing; nil: not looked at yet
	now     time.Time
	again   time.Time // when to look again for what is published; zero: never
}

// vpc is all records of one VPC, by node where they are a node's.
type vpc struct {
	name      string
	spec      specItem // Value nil: none
	net       netItem
	members   map[string]memberItem
	assigns   map[string]hostItem
	status    map[string]statusItem
	vteps     map[string]allocItem // by reverse key
	vnis      []allocItem          // of the VPC itself
	links     map[[2]string]*link  // by the pair's nodes, in order
	endpoints map[string]*endpoint
	most      map[netip.Prefix]string // see mostAt
	macs      map[cluster.MAC]*learned
	blocked   bool
	handled   map[string]bool // nodes whose status record this pass deletes
}

func newWorld(v *store.View) *world {
	w := &world{
		view:     v,
		nodes:    map[string]*cluster.Node{},
		reports:  map[string]reportItem{},
		impostor: map[string]bool{},
		fenced:   map[string]bool{},
		alive:    map[string]bool{},
		vpcs:     map[string]*vpc{},
		newer:    map[string]bool{},
		ofVPC:    map[cluster.VNI]string{},
		own:      &ownTunnels{},
	}
	if it, ok := store.At[*cluster.Config](v, cluster.KeyConfig); ok {
		w.config = it.Value
	}
	w.readNodes()
	for it := range store.Below[*cluster.Fence](v, cluster.PrefixFences) {
		w.fenced[strings.TrimPrefix(it.Key, cluster.PrefixFences)] = true
	}
	w.readVPCs()
	w.readHolds()
	w.readHosts()
	w.readAllocations()
	w.readPorts()
	w.readRequests()
	w.readMACs()
	w.readProblems()
	return w
}

// vpc returns the VPC of that name, which may have nothing but leftovers.
func (w *world) vpc(name string) *vpc {
	v := w.vpcs[name]
	if v == nil {
		v = &vpc{
			name:      name,
			spec:      specItem{Key: cluster.KeyVPCSpec(name)},
			net:       netItem{Key: cluster.KeyVPCNet(name)},
			members:   map[string]memberItem{},
			assigns:   map[string]hostItem{},
			status:    map[string]statusItem{},
			vteps:     map[string]allocItem{},
			links:     map[[2]string]*link{},
			endpoints: map[string]*endpoint{},
			most:      map[netip.Prefix]string{},
			macs:      map[cluster.MAC]*learned{},
			handled:   map[string]bool{},
		}
		w.vpcs[name] = v
	}
	return v
}

func (w *world) readNodes() {
	for it := range store.Below[*cluster.Node](w.view, cluster.PrefixNodes) {
		name := strings.TrimPrefix(it.Key, cluster.PrefixNodes)
		w.nodes[name] = it.Value
		w.names = append(w.names, name)
	}
	for it := range store.Below[*cluster.NodeStatus](w.view, cluster.PrefixStat) {
		name, _ := cutPath(it.Key, cluster.PrefixStat)
		n := w.nodes[name]
		switch {
		case n == nil:
		case n.ID != it.Value.NodeID:
			w.impostor[name] = true
		default:
			w.reports[name] = it
		}
	}
	for it := range store.Below[*cluster.Live](w.view, cluster.PrefixLive) {
		name := strings.TrimPrefix(it.Key, cluster.PrefixLive)
		n := w.nodes[name]
		w.alive[name] = n == nil || n.ID == it.Value.NodeID
	}
}

func (w *world) readVPCs() {
	for it := range store.Below[*cluster.VPCSpec](w.view, cluster.PrefixVPCs) {
		name, _ := cutPath(it.Key, cluster.PrefixVPCs)
		w.vpc(name).spec = it
	}
	for it := range store.Below[*cluster.VPCNet](w.view, cluster.PrefixVPCs) {
		name, _ := cutPath(it.Key, cluster.PrefixVPCs)
		w.vpc(name).net = it
	}
	for it := range store.Below[*cluster.Member](w.view, cluster.PrefixVPCs) {
		name, rest := cutPath(it.Key, cluster.PrefixVPCs)
		w.vpc(name).members[strings.TrimPrefix(rest, "members/")] = it
	}
	for it := range store.Below[*cluster.EndpointSpec](w.view, cluster.PrefixVPCs) {
		name, rest := cutPath(it.Key, cluster.PrefixVPCs)
		e, _ := cutPath(rest, "endpoints/")
		w.vpc(name).endpoint(e).spec = it
	}
	for it := range store.Below[*cluster.EndpointOwn](w.view, cluster.PrefixVPCs) {
		name, rest := cutPath(it.Key, cluster.PrefixVPCs)
		e, _ := cutPath(rest, "endpoints/")
		w.vpc(name).endpoint(e).own = it
	}
}

// readHolds takes operators' holds of endpoints.
func (w *world) readHolds() {
	for it := range store.Below[*cluster.Hold](w.view, cluster.PrefixVPCs) {
		name, rest := cutPath(it.Key, cluster.PrefixVPCs)
		e, _ := cutPath(rest, "endpoints/")
		w.vpc(name).endpoint(e).hold = it
	}
}

func (w *world) readHosts() {
	for it := range store.Below[*cluster.HostVPC](w.view, cluster.PrefixHosts) {
		node, rest := cutPath(it.Key, cluster.PrefixHosts)
		w.vpc(strings.TrimPrefix(rest, "vpcs/")).assigns[node] = it
	}
	for it := range store.Below[*cluster.HostLink](w.view, cluster.PrefixHosts) {
		node, rest := cutPath(it.Key, cluster.PrefixHosts)
		vpc, peer := cutPath(rest, "links/")
		l, end := w.vpc(vpc).end(node, peer)
		l.ends[end] = it
	}
	for it := range store.Below[*cluster.VPCStatus](w.view, cluster.PrefixStat) {
		node, rest := cutPath(it.Key, cluster.PrefixStat)
		if n := w.nodes[node]; n != nil && n.ID != it.Value.NodeID {
			continue // of a machine that had the name before, or wants it
		}
		name := strings.TrimPrefix(rest, "vpcs/")
		w.vpc(name).status[node] = it
		if it.Value.State != cluster.HostLeft && it.Value.VNI != 0 {
			w.ofVPC[it.Value.VNI] = name
		}
	}
}

func (w *world) readAllocations() {
	for it := range store.Below[*cluster.Allocation](w.view, cluster.PrefixAlloc) {
		if rest, ok := strings.CutPrefix(it.Key, cluster.PrefixVTEPs); ok {
			name, _, _ := strings.Cut(rest, "/")
			w.vpc(name).vteps[it.Key] = it
		} else if name, ok := endpointValue(it.Key); ok {
			e := w.vpc(name).endpoint(it.Value.Holder)
			e.held = append(e.held, it)
		} else if name, pair, ok := strings.Cut(it.Value.Holder, "/"); ok {
			a, b, _ := strings.Cut(pair, "/")
			l, _ := w.vpc(name).end(a, b)
			l.held = append(l.held, it)
		} else {
			v := w.vpc(it.Value.Holder)
			v.vnis = append(v.vnis, it)
		}
	}
}

// readPorts takes what nodes report about endpoints, but of a machine that had the
// name before, or wants it.
func (w *world) readPorts() {
	for it := range store.Below[*cluster.EndpointStatus](w.view, cluster.PrefixStat) {
		k, err := cluster.ParseKey(it.Key)
		if n := w.nodes[k.Node]; err == nil && (n == nil || n.ID == it.Value.NodeID) {
			w.vpc(k.VPC).endpoint(k.Name).report(k.Node, it)
		}
	}
}

// endpointValue is the VPC of a reverse key of an endpoint's address or MAC.
func endpointValue(key string) (vpc string, ok bool) {
	for _, family := range []string{cluster.PrefixIPs, cluster.PrefixMACs} {
		if strings.HasPrefix(key, family) {
			vpc, _ = cutPath(key, family)
			return vpc, true
		}
	}
	return "", false
}

// readProblems blocks what must not be touched, and takes records that the
// controller writes itself and that are garbage for vanished: they are rebuilt.
func (w *world) readProblems() {
	for _, p := range w.view.Problems() {
		k, err := cluster.ParseKey(p.Key)
		if err != nil {
			continue // not of this version
		}
		newer := errors.Is(p.Err, cluster.ErrNewer)
		w.newer[p.Key] = newer
		switch k.Kind {
		case cluster.KindVPCSpec:
			v := w.vpc(k.VPC)
			v.blocked = v.blocked || v.spec.Value == nil
		case cluster.KindVPCNet:
			v := w.vpc(k.VPC)
			v.blocked = v.blocked || newer
			v.net, _ = store.At[*cluster.VPCNet](w.view, p.Key)
			v.net.Value = nil
		case cluster.KindMember:
			if !newer {
				delete(w.vpc(k.VPC).members, k.Node)
			}
		case cluster.KindEndpoint:
			w.vpc(k.VPC).endpoint(k.Name).blocked = true
		case cluster.KindHold: // it says that there is one
			w.vpc(k.VPC).endpoint(k.Name).hold = holdItem{Key: p.Key, Mod: p.Mod}
		case cluster.KindFence:
			w.fenced[k.Node] = true
		case cluster.KindOwn:
			e := w.vpc(k.VPC).endpoint(k.Name)
			e.blocked = e.blocked || newer
			e.own, _ = store.At[*cluster.EndpointOwn](w.view, p.Key)
			e.own.Value = nil
		case cluster.KindPort: // it says that there is something
			w.vpc(k.VPC).endpoint(k.Name).report(k.Node, portItem{Key: p.Key, Mod: p.Mod, Value: &cluster.EndpointStatus{State: cluster.PortFailed}})
		case cluster.KindRequest:
			if !newer {
				w.asked = append(w.asked, &request{node: k.Node, vpc: w.vpc(k.VPC), endpoint: w.vpc(k.VPC).endpoint(k.Name), key: p.Key, mod: p.Mod})
			}
		case cluster.KindHostVPC:
			if !newer {
				delete(w.vpc(k.VPC).assigns, k.Node)
			}
		case cluster.KindHostLink:
			l, end := w.vpc(k.VPC).end(k.Node, k.Name)
			l.blocked = l.blocked || newer
			l.ends[end], _ = store.At[*cluster.HostLink](w.view, p.Key)
			l.ends[end].Value = nil
		}
	}
}

// blocks reports whether a node's part in v must not be written.
func (w *world) blocks(v *vpc, node string) bool {
	return len(w.newer) > 0 && (w.newer[cluster.KeyMember(v.name, node)] || w.newer[cluster.KeyHostVPC(node, v.name)])
}

// uses reports whether a host says that it still has the VPC, or may.
func (v *vpc) uses(node string) bool {
	s, ok := v.status[node]
	return ok && s.Value.State != cluster.HostLeft
}

// inUse reports whether any host is assigned to the VPC or says that it has it.
func (v *vpc) inUse() bool {
	if len(v.assigns) > 0 {
		return true
	}
	for node := range v.status {
		if v.uses(node) {
			return true
		}
	}
	return false
}

// left reports whether node said that nothing of the VPC is there any more.
func (v *vpc) left(node string) bool {
	s, ok := v.status[node]
	return ok && s.Value.State == cluster.HostLeft
}

// nodes lists all nodes that v has a member or an assignment of, sorted.
func (v *vpc) nodes() []string {
	names := make([]string, 0, len(v.members)+len(v.assigns))
	for n := range v.members {
		names = append(names, n)
	}
	for n := range v.assigns {
		if _, ok := v.members[n]; !ok {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

// cutPath cuts the first element after prefix from the rest.
func cutPath(key, prefix string) (first, rest string) {
	first, rest, _ = strings.Cut(key[len(prefix):], "/")
	return first, rest
}
