package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// mesh is all that the records say of one VPC at a moment.
type mesh struct {
	name     string
	spec     *cluster.VPCSpec // nil: none
	net      *cluster.VPCNet  // nil: none yet
	nodes    map[string]*cluster.Node
	members  map[string]*cluster.Member
	statuses map[string]*cluster.VPCStatus
	live     map[string]bool
	places   []string             // endpoints
	active   *cluster.EndpointOwn // the gateway's endpoint, in mode active; nil: none
	// published counts the MACs that are, duplicates are those on two machines.
	published  int
	duplicates []duplicateReport
}

// meshPrefixes is what a mesh needs beside the statuses.
func meshPrefixes(vpc string) []string {
	return []string{cluster.PrefixNodes, cluster.PrefixLive, cluster.PrefixVPC(vpc)}
}

// manyStatuses is from how many members on all statuses are read at once.
const manyStatuses = 256

// statusPrefixes is where the statuses of a VPC's members, and of those that
// should be, are.
func statusPrefixes(v *store.View, vpc string) []string {
	m := meshOf(v, vpc)
	concerned := m.concerned()
	if len(concerned) > manyStatuses {
		return []string{cluster.PrefixStat}
	}
	keys := make([]string, len(concerned))
	for i, n := range concerned {
		keys[i] = cluster.KeyVPCStatus(n, vpc)
	}
	return keys
}

// meshOf takes a VPC's records out of a view.
func meshOf(v *store.View, vpc string) *mesh {
	m := &mesh{name: vpc, nodes: map[string]*cluster.Node{}, members: map[string]*cluster.Member{},
		statuses: map[string]*cluster.VPCStatus{}, live: map[string]bool{}}
	if it, ok := store.At[*cluster.VPCSpec](v, cluster.KeyVPCSpec(vpc)); ok {
		m.spec = it.Value
	}
	if it, ok := store.At[*cluster.VPCNet](v, cluster.KeyVPCNet(vpc)); ok {
		m.net = it.Value
	}
	for it := range store.Below[*cluster.Node](v, cluster.PrefixNodes) {
		m.nodes[last(it.Key)] = it.Value
	}
	for it := range store.Below[*cluster.Live](v, cluster.PrefixLive) {
		m.live[last(it.Key)] = true
	}
	for it := range store.Below[*cluster.Member](v, cluster.PrefixMembers(vpc)) {
		m.members[last(it.Key)] = it.Value
	}
	for it := range store.Below[*cluster.EndpointSpec](v, cluster.PrefixEndpoints(vpc)) {
		if k, err := cluster.ParseKey(it.Key); err == nil && it.Value.State == cluster.EndpointActive && !it.Value.IsGateway(k.Name) {
			m.places = append(m.places, k.Name)
		}
	}
	if it, ok := store.At[*cluster.EndpointOwn](v, cluster.KeyEndpointOwn(vpc, cluster.GatewayEndpoint)); ok && m.net != nil && m.net.Gateway.Mode == cluster.GatewayActive {
		m.active = it.Value
	}
	m.readPublished(v)
	for _, n := range m.concerned() {
		if it, ok := store.At[*cluster.VPCStatus](v, cluster.KeyVPCStatus(n, vpc)); ok {
			m.statuses[n] = it.Value
		}
	}
	return m
}

// last is the last element of a key.
func last(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

// exists reports whether there is anything of the VPC.
func (m *mesh) exists() bool { return m.spec != nil || m.net != nil || len(m.members) > 0 }

// expected names the nodes that should be members, sorted.
func (m *mesh) expected() []string {
	var names []string
	if m.spec != nil && m.spec.State == cluster.VPCActive {
		for name, n := range m.nodes {
			if m.spec.Members.Selects(name, n) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// concerned names the nodes that are members or should be, sorted.
func (m *mesh) concerned() []string {
	names := slices.AppendSeq(m.expected(), maps.Keys(m.members))
	slices.Sort(names)
	return slices.Compact(names)
}

// refused is why the controller does not admit a node, "" if it does.
func (m *mesh) refused(node string) string {
	if m.net == nil {
		return ""
	}
	return m.net.Refused[node]
}

// linkReport, memberReport and meshReport are `vpc status -o json`.
type linkReport struct {
	Peer   string            `json:"peer"`
	State  cluster.LinkState `json:"state"`
	RTT    float64           `json:"rtt_ms"`
	Reason string            `json:"reason,omitempty"`
	// Transport is what carries frames now; empty for multipoint.
	Transport cluster.Transport `json:"transport,omitempty"`

	changing bool // it has a tunnel that it is not to have any more
}

type memberReport struct {
	Node   string       `json:"node"`
	Ready  bool         `json:"ready"`
	Reason string       `json:"reason"`
	Links  []linkReport `json:"links"`
	// FloodDropped counts the frames that were over the VPC's flood limit.
	FloodDropped uint64 `json:"flood_dropped,omitempty"`
	// MACsRefused counts the MACs that are not published for the bounds of that.
	MACsRefused int `json:"macs_refused,omitempty"`
}

type meshReport struct {
	VPC     string         `json:"vpc"`
	Ready   bool           `json:"ready"`
	Reason  string         `json:"reason"`
	MTU     int            `json:"mtu"`
	Members []memberReport `json:"members"`
	// Duplicates are published MACs that are on two machines.
	Duplicates []duplicateReport `json:"duplicates,omitempty"`

	limit   cluster.FloodLimit
	pending bool // the controller waits for something, members come later
}

// report says whether the VPC is as it was asked for: every node that the
// selector names is a member and ready, nobody else is, every pair's link is
// up, and what is in force is what was asked for.
func (m *mesh) report() meshReport {
	r := meshReport{VPC: m.name, Members: []memberReport{}, Duplicates: m.duplicates}
	if m.net != nil {
		r.MTU, r.pending = m.net.MTU, m.net.Phase == cluster.PhasePending && m.net.Reason != ""
	}
	if m.spec != nil {
		r.limit = m.spec.FloodLimit
	}
	links := m.linkIndex()
	for _, name := range m.concerned() {
		r.Members = append(r.Members, m.reportMember(name, links))
	}
	r.Reason = m.reason(r.Members)
	r.Ready = r.Reason == ""
	return r
}

// reason is why the VPC is not ready, "" if it is.
func (m *mesh) reason(members []memberReport) string {
	switch {
	case m.spec == nil && !m.exists():
		return "it does not exist"
	case m.spec == nil:
		return "its spec is gone: hosts keep what they have"
	case m.spec.State == cluster.VPCDeleting:
		return "it is being deleted"
	case m.net == nil:
		return "no controller has taken it up yet"
	case m.net.Phase != cluster.PhaseActive:
		return clean(strings.TrimSpace(string(m.net.Phase) + ": " + m.net.Reason))
	case m.spec.MTU != 0 && m.spec.MTU != m.net.MTU:
		return fmt.Sprintf("MTU %d is asked for, %d is in force: %s", m.spec.MTU, m.net.MTU, cmp.Or(clean(m.net.Reason), "the controller has not changed it yet"))
	case m.spec.VNI != 0 && m.spec.VNI != m.net.VNI:
		return fmt.Sprintf("VNI %d is asked for, %d is in force", m.spec.VNI, m.net.VNI)
	case m.spec.InForce() != m.peers().Transport || m.spec.MulticastGroup != m.net.MulticastGroup:
		return fmt.Sprintf("transport %s%s is asked for, the controller has not changed it yet", cmp.Or(string(m.spec.Transport), string(cluster.Auto)), groupSuffix(m.spec.MulticastGroup))
	}
	if m.spec.Learning != m.net.Learning {
		return fmt.Sprintf("learning %s is asked for, the controller has not changed it yet", cmp.Or(m.spec.Learning, cluster.LearnDynamic))
	}
	if asked := m.spec.AskedGateway(); asked != m.net.Gateway {
		return fmt.Sprintf("gateway %s is asked for, %s is in force: %s", asked, m.net.Gateway, cmp.Or(clean(m.net.Reason), "the controller has not changed it yet"))
	}
	if m.net.Gateway.Mode == cluster.GatewayActive && m.gatewayNode() == "" {
		return "no host has the gateway" + m.gatewayReason()
	}
	waiting, down, apart, changing := []string{}, []string{}, []string{}, m.otherTransport()
	for _, b := range members {
		if !b.Ready {
			waiting = append(waiting, b.Node)
		}
		for _, l := range b.Links {
			switch pair := b.Node + " – " + l.Peer; {
			case b.Node > l.Peer:
			case l.Reason == noCommonFamily:
				apart = append(apart, pair)
			case l.State != cluster.LinkUp:
				down = append(down, pair)
			case l.changing:
				changing = append(changing, pair)
			}
		}
	}
	switch {
	case len(members) == 0:
		return "no node is a member"
	case len(waiting) > 0:
		return "not ready: " + few(waiting)
	case len(apart) > 0:
		return noCommonFamily + ": " + few(apart)
	case len(down) > 0:
		return "links not up: " + few(down) + suffix("; ", clean(m.net.Reason))
	case len(changing) > 0:
		return "the transport is being changed: awaiting " + few(changing) + suffix("; ", clean(m.net.Reason))
	}
	return ""
}

const noCommonFamily = "no common address family"

// otherTransport names the members that do not carry frames yet as is asked for.
func (m *mesh) otherTransport() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(m.members)) {
		t := m.members[name].Transport
		if t != cluster.P2P && t != cluster.Transport(cmp.Or(string(m.spec.InForce()), string(cluster.Multipoint))) {
			names = append(names, name)
		}
	}
	return names
}

// carrier is what carries the frames of a pair, as its ends report it.
func (m *mesh) carrier(a, b string, ends ...cluster.Link) (t cluster.Transport, changing bool) {
	x, y := m.members[a].Transport, m.members[b].Transport
	for _, l := range ends {
		changing = changing || l.Use != "" && x != cluster.P2P && y != cluster.P2P
		if l.Use == cluster.LinkActive || l.Use == cluster.LinkRestoring {
			t = cluster.P2P
		}
	}
	switch {
	case t == "" && (x == cluster.P2P || y == cluster.P2P):
		t = cluster.P2P
	case t == "" && x == cluster.Multicast && y == cluster.Multicast:
		t = cluster.Multicast
	}
	return t, changing
}

// reportMember is one node's part. links holds each end's word of its links.
func (m *mesh) reportMember(name string, links map[string]map[string]cluster.Link) memberReport {
	r := memberReport{Node: name, Links: []linkReport{}}
	r.Reason = clean(m.memberReason(name))
	r.Ready = r.Reason == ""
	if m.members[name] == nil {
		return r
	}
	if s := m.statuses[name]; s != nil {
		r.FloodDropped, r.MACsRefused = s.FloodDropped, s.MACsRefused
	}
	for _, peer := range slices.Sorted(maps.Keys(m.members)) {
		if peer == name {
			continue
		}
		l := between(name, peer, links)
		report := linkReport{Peer: peer, State: l.State, RTT: l.RTT, Reason: clean(l.Reason)}
		report.Transport, report.changing = m.carrier(name, peer, links[name][peer], links[peer][name])
		if _, _, ok := m.members[name].LinkTo(m.members[peer]); !ok {
			report.State, report.Reason = cluster.LinkDown, noCommonFamily
		}
		r.Links = append(r.Links, report)
	}
	return r
}

// memberReason is why a node's part is not as it should be, "" if it is.
func (m *mesh) memberReason(name string) string {
	member, status, node := m.members[name], m.statuses[name], m.nodes[name]
	wanted := m.spec != nil && node != nil && m.spec.State == cluster.VPCActive && m.spec.Members.Selects(name, node)
	switch {
	case member == nil && m.refused(name) != "":
		return "not admitted: " + m.refused(name)
	case member == nil && !m.live[name]:
		return "its agent is not live"
	case member == nil:
		return "it is not a member yet"
	case !wanted:
		return "it is leaving"
	case !m.live[name]:
		return "its agent is not live"
	case status == nil || status.NodeID != member.NodeID:
		return "its agent has not reported yet"
	case status.State != cluster.HostMember:
		return strings.TrimSpace(string(status.State) + " " + status.Reason)
	case !status.Ready:
		return cmp.Or(status.Reason, "its network is not made yet")
	case m.net != nil && (status.VNI != m.net.VNI || status.MTU != m.net.MTU || status.VTEP != member.VTEP || status.Learning != m.net.Learning || status.Gateway != m.net.Gateway):
		return "it has not applied the latest change yet"
	case m.refused(name) != "":
		return m.refused(name)
	}
	return ""
}

// linkIndex is each member's word of each of its links.
func (m *mesh) linkIndex() map[string]map[string]cluster.Link {
	index := make(map[string]map[string]cluster.Link, len(m.members))
	for name := range m.members {
		s := m.statuses[name]
		if s == nil || s.NodeID != m.members[name].NodeID {
			continue
		}
		links := make(map[string]cluster.Link, len(s.Links))
		for _, l := range s.Links {
			links[l.Peer] = l
		}
		index[name] = links
	}
	return index
}

// between is cluster.LinkBetween on single links, so that a mesh of N costs N²
// and not N³.
func between(a, b string, links map[string]map[string]cluster.Link) cluster.Link {
	return cluster.LinkBetween(a, b, only(links[a], b), only(links[b], a))
}

func only(links map[string]cluster.Link, peer string) *cluster.VPCStatus {
	if l, ok := links[peer]; ok {
		return &cluster.VPCStatus{Links: []cluster.Link{l}}
	}
	return nil
}

// refusedForGood names members-to-be that waiting does not help: the
// controller refused them, and their agent runs.
func (m *mesh) refusedForGood() []string {
	var names []string
	for _, n := range m.expected() {
		if m.members[n] == nil && m.refused(n) != "" && m.live[n] {
			names = append(names, n)
		}
	}
	return names
}

// awaited says what a VPC that is not ready waits for, in words.
func (r meshReport) awaited() string {
	var parts []string
	for _, b := range r.Members {
		if !b.Ready {
			parts = append(parts, b.Node+" ("+b.Reason+")")
		}
	}
	if len(parts) == 0 || r.pending {
		return r.Reason
	}
	return few(parts)
}

// count sums up a report: members ready, links up, links in all.
func (r meshReport) count() (ready, up, links int) {
	for _, b := range r.Members {
		if b.Ready {
			ready++
		}
		for _, l := range b.Links {
			if b.Node < l.Peer {
				links++
				if l.State == cluster.LinkUp {
					up++
				}
			}
		}
	}
	return ready, up, links
}

// few joins words, the first eight of them.
func few(words []string) string {
	if n := len(words) - 8; n > 1 {
		return strings.Join(words[:8], ", ") + fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(words, ", ")
}
