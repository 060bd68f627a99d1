package watcher

import (
	"maps"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
)

// memory is what this host has accepted from the records: last known good, and
// the content of the cache file. Members and records in it are never changed in
// place, only replaced.
type memory struct {
	ClusterID string           `json:"cluster_id"`
	Era       int64            `json:"era"`
	Port      uint16           `json:"underlay_port"`
	Left      bool             `json:"left,omitempty"` // our node record said so
	Underlay  cluster.Underlay `json:"underlay"`       // as last found on the host
	VPCs      map[string]*vpc  `json:"vpcs"`
	// Remove lists what is to be taken down and may still be on the host.
	Remove []cluster.VNI `json:"remove,omitempty"`
}

// vpc is this host's part in one VPC.
type vpc struct {
	VNI      cluster.VNI                `json:"vni"`
	MTU      int                        `json:"mtu"`
	Length   int                        `json:"length"`   // of the peer network's prefix, bits
	Members  map[string]*cluster.Member `json:"members"`  // ourselves included
	Revision int64                      `json:"revision"` // the newest write among Members
	Leaving  bool                       `json:"leaving,omitempty"`

	hold string // why the records do not count at the moment
	kept bool   // the cache file has had its members: a reboot brings it back
}

// records is what a pass reads: the records that concern this host, each nil
// or absent if it is not there or has never been readable.
type records struct {
	config *cluster.Config
	node   *cluster.Node
	vpcs   map[string]vpcRecords // by name: all that hosts/<me>/ names
	synced bool                  // config, nodes/<me> and hosts/<me>/ have been read
}

type vpcRecords struct {
	assignment *cluster.HostVPC
	net        *cluster.VPCNet
	ping       *cluster.PingRequest
	members    map[string]*cluster.Member // nil until vpcs/<vpc>/ has been read whole
	revision   int64                      // the newest write among members
	unreadable []string                   // members whose record never could be read
}

// absorb takes the records into memory, as far as the rules of doc.go let it.
// It returns why the host as a whole holds ("" if it does not) and whether
// anything worth caching changed. It is the only place where memory follows
// records.
func (m *memory) absorb(r records, nodeID, me string) (hold string, changed bool) {
	if hold := m.trusts(r, nodeID); hold != "" {
		return hold, false
	}
	if !r.synced {
		return "", false
	}
	if c := r.config; c != nil && (m.ClusterID != c.ID || m.Era != c.Era || m.Port != c.UnderlayPort) {
		m.ClusterID, m.Era, m.Port = c.ID, c.Era, c.UnderlayPort
		changed = true
	}
	if r.node != nil && r.node.State == cluster.NodeLeft {
		return "", m.leave(r) || changed
	}
	if m.Left {
		m.Left, changed = false, true
	}
	for name, v := range m.VPCs {
		if _, told := r.vpcs[name]; !told && !v.Leaving {
			v.hold = "the assignment record of this host is gone: keeping the network as it is"
		}
	}
	for name, vr := range r.vpcs {
		changed = m.absorbVPC(name, vr, nodeID, me) || changed
	}
	return "", changed
}

const holdTaken = "the node record has another id: the name of this node is taken by another machine"

// trusts says why none of the records may count, or "".
func (m *memory) trusts(r records, nodeID string) string {
	switch {
	case r.config != nil && m.ClusterID != "" && r.config.ID != m.ClusterID:
		return "the store belongs to another cluster (config has another id): keeping the network as it is"
	case r.config != nil && r.config.Era < m.Era:
		return "the store is of an earlier era than this host has seen: keeping the network as it is"
	case r.node != nil && r.node.ID != nodeID:
		return holdTaken
	case r.synced && r.node == nil:
		return "the node record of this host is gone: keeping the network as it is"
	}
	return ""
}

// leave takes every VPC down: the node's own record said so. One that this host
// is assigned to and never had is left as well: the controller awaits the word.
func (m *memory) leave(r records) (changed bool) {
	for name := range r.vpcs {
		if m.VPCs[name] == nil {
			m.VPCs[name] = &vpc{Leaving: true}
			changed = true
		}
	}
	for _, v := range m.VPCs {
		if !v.Leaving {
			m.remove(v.VNI)
			v.Leaving, changed = true, true
		}
		v.hold = ""
	}
	if !m.Left {
		m.Left, changed = true, true
	}
	return changed
}

// remove marks a VNI to be taken down.
func (m *memory) remove(v cluster.VNI) {
	if v != 0 && !slices.Contains(m.Remove, v) {
		m.Remove = append(m.Remove, v)
	}
}

// absorbVPC follows the records of one VPC that this host is assigned to.
func (m *memory) absorbVPC(name string, r vpcRecords, nodeID, me string) (changed bool) {
	v := m.VPCs[name]
	switch {
	case r.assignment == nil: // unreadable, and never was readable
		return false
	case r.assignment.State == cluster.AssignedLeaving:
		if v == nil {
			v = &vpc{}
			m.VPCs[name] = v
			if r.net != nil {
				v.VNI = r.net.VNI
			}
		} else if v.Leaving {
			return false
		}
		m.remove(v.VNI)
		v.Leaving, v.hold, v.Members = true, "", nil
		return true
	case v == nil:
		v = &vpc{} // worth caching when its members are known
		m.VPCs[name] = v
	case v.Leaving: // assigned again before it was gone
		v.Leaving, v.Revision, changed = false, 0, true
	}
	v.hold = ""
	if r.members == nil {
		return changed // not read yet
	}
	mine, in := r.members[me]
	switch {
	case r.net == nil || r.net.Phase != cluster.PhaseActive:
		v.hold = "no VNI and MTU are in force for the VPC"
		return changed
	case !in || mine.NodeID != nodeID:
		v.hold = "the members list does not hold this node: keeping the peers as they are"
		return changed
	}
	if v.VNI != r.net.VNI {
		m.remove(v.VNI)
		v.VNI, changed = r.net.VNI, true
	}
	m.Remove = slices.DeleteFunc(m.Remove, func(x cluster.VNI) bool { return x == v.VNI })
	if length := r.net.PeerNetwork.Bits(); v.MTU != r.net.MTU || v.Length != length {
		v.MTU, v.Length, changed = r.net.MTU, length, true
	}
	if members := r.keeping(v.Members); v.Revision != r.revision || len(v.Members) != len(members) {
		v.Members, v.Revision, changed = members, r.revision, true
	}
	return changed
}

// keep notes that the cache file holds all of memory.
func (m *memory) keep() {
	for _, v := range m.VPCs {
		v.kept = v.Members != nil
	}
}

// keeping returns the members list, with those that cannot be read as they
// were.
func (r vpcRecords) keeping(old map[string]*cluster.Member) map[string]*cluster.Member {
	if len(r.unreadable) == 0 {
		return r.members
	}
	out := maps.Clone(r.members)
	for _, name := range r.unreadable {
		if m := old[name]; m != nil {
			out[name] = m
		}
	}
	return out
}
