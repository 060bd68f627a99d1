package hostops

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// Link groups of our devices: one of these in the top byte, the VPC's VNI below.
// Those of workloads' ports are others than that of the VPC's own devices, so that
// a shield takes them for what they are: local ports.
const (
	GroupBase = 0x6d000000
	GroupMade = 0x6e000000 // made for a workload
	GroupLent = 0x6f000000 // lent to us, as long as the port is there
	groupMask = 0xff000000
)

// Bounds of what one VPC may take of the kernel's memory. A tenant that makes
// up MACs fills its own VPC's tables; from then on its unknown frames are
// flooded within the VPC.
const (
	// MaxLearnedBridge is how many MACs a VPC's bridge learns.
	MaxLearnedBridge = 16384
	// MaxLearnedTunnel is how many MACs a tunnel learns.
	MaxLearnedTunnel = 16384
)

// FilterName is the name of our packet filter table.
const FilterName = "meshvpc"

// GroupOf is the link group that marks a device of the VPC with this VNI.
func GroupOf(v cluster.VNI) uint32 { return GroupBase | uint32(v) }

// GroupFor is the link group that marks a device of the VPC with this VNI in a use.
func GroupFor(u Use, v cluster.VNI) uint32 {
	switch u {
	case UseMade:
		return GroupMade | uint32(v)
	case UseLent:
		return GroupLent | uint32(v)
	}
	return GroupOf(v)
}

// UseOf reads what a marked device is to its VPC.
func UseOf(group uint32) Use {
	switch group & groupMask {
	case GroupMade:
		return UseMade
	case GroupLent:
		return UseLent
	}
	return UseVPC
}

// VNIOf reads a mark of a VPC's own; it is zero if group is none of ours.
func VNIOf(group uint32) cluster.VNI {
	if group&groupMask != GroupBase {
		return 0
	}
	return cluster.VNI(group &^ groupMask)
}

// Kind is a kind of device.
type Kind string

// The kinds of devices that we make.
const (
	KindBridge Kind = "bridge"
	KindTunnel Kind = "vxlan"
	KindPort   Kind = "veth"
	KindTap    Kind = "tun"
)

// NamespaceOf is the name of a VPC's namespace.
func NamespaceOf(vpc string) string { return "vpc-" + vpc }

// PortOf is the host's end of the namespace's port.
func PortOf(v cluster.VNI) string { return numbered("mn-", v) }

const pairPrefix = "mp-"

// GatewayPortOf is the host's end of the gateway's port.
func GatewayPortOf(v cluster.VNI) string { return numbered("mg-", v) }

// PairTunnelOf is the tunnel of a pair with this VNI.
func PairTunnelOf(v cluster.VNI) string { return numbered(pairPrefix, v) }

// TunnelOf is the shared tunnel of a VPC for the family of local.
func TunnelOf(v cluster.VNI, local netip.Addr) string {
	if local.Is4() {
		return numbered("mv4-", v)
	}
	return numbered("mv6-", v)
}

// numbered is made for each tunnel and operation of a plan: fmt takes too long.
func numbered(prefix string, v cluster.VNI) string {
	return prefix + strconv.FormatUint(uint64(v), 10)
}

// OwnDevice reports whether a device with this name, kind and group carries
// our mark, and for which VPC. Both parts must agree: a name alone or a group
// alone is somebody else's, but that a tap and what is lent have names that others
// gave them.
func OwnDevice(name string, kind Kind, group uint32) (cluster.VNI, bool) {
	if made := cluster.VNI(group &^ groupMask); made != 0 {
		if group&groupMask == GroupUplink {
			return made, kind == KindPort && isNumbered(name, "mu-", made)
		}
		switch UseOf(group) {
		case UseMade:
			return made, kind == KindTap || kind == KindPort && strings.HasPrefix(name, endpointPrefix)
		case UseLent:
			return made, kind != KindBridge && kind != KindTunnel
		}
	}
	v := VNIOf(group)
	if v == 0 {
		return 0, false
	}
	switch kind {
	case KindBridge:
		return v, true
	case KindTunnel:
		p2p := strings.HasPrefix(name, "mp-") // its VNI is the pair's, its group the VPC's
		return v, p2p || isNumbered(name, "mv4-", v) || isNumbered(name, "mv6-", v)
	case KindPort:
		return v, isNumbered(name, "mn-", v) || isNumbered(name, "mg-", v)
	}
	return 0, false
}

// isNumbered reports whether a name is numbered(prefix, v).
func isNumbered(name, prefix string, v cluster.VNI) bool {
	digits, ok := strings.CutPrefix(name, prefix)
	return ok && digits == strconv.FormatUint(uint64(v), 10)
}

// VTEPMAC is the MAC of the namespace port that holds the VTEP address: fixed,
// so that a rebuilt namespace is still found under the MAC that its peers know.
// It is unique in a VPC whose VTEP addresses differ in their last four bytes.
func VTEPMAC(vtep netip.Addr) cluster.MAC {
	b := vtep.As16()
	return cluster.MAC{0x0e, 0x6d, b[12], b[13], b[14], b[15]}
}

// State is what a host carries of ours, and what may stand in its way.
type State struct {
	// Devices are ours, by name.
	Devices map[string]Device
	// Others are all other devices, by name.
	Others map[string]Other
	// Namespaces are those named "vpc-…", ours or not, by name.
	Namespaces map[string]Namespace
	// Filter is the host's packet filter, as far as it is ours.
	Filter Filter
	// Closed are the settings, below net in sysctl's words, that keep answers from an
	// uplink: looked at only if there is one.
	Closed []string
	// Spaces are what the paths of workloads' namespaces lead to, as far as they
	// were looked at.
	Spaces map[string]Space
}

// Device is one device with our mark.
type Device struct {
	Kind   Kind
	Owner  cluster.VNI // the VPC's, from the link group
	Alias  string
	MTU    int    // bytes
	Master string // the bridge it is a port of
	Up     bool

	// Quiet: the kernel makes up no addresses. On a bridge also: it answers no
	// ARP and lets no IPv4 in, even without a seal; no STP, which blocks
	// ports and hands frames around the seal; no snooping of multicast, reserved
	// multicast is forwarded as any other; at most MaxLearnedBridge learned MACs
	// (where the kernel can).
	Quiet bool
	// Addresses are the device's own. It should have none: with one, the host
	// is in the VPC, and sends there what it has for that network elsewhere.
	Addresses []netip.Prefix
	// Odd: the bridge treats the port unlike others in who hears whom (hairpin,
	// locked, answering ARP for others; on the namespace's port also isolated,
	// not flooding or not learning).
	Odd bool
	// Ports are the bridge's ports that are not ours.
	Ports []string
	// Answers are what the bridge answers ARP and neighbour solicitations with.
	Answers *Table[netip.Addr, cluster.MAC]
	// Heard are the MACs that a bridge which the driver listens to has learned at Ports.
	Heard *Table[cluster.MAC, Heard]

	// Tunnel.
	VNI      cluster.VNI
	Local    netip.Addr
	Underlay string // device
	Port     uint16
	Group    netip.Addr // multicast group that it receives by
	Learning bool
	Flood    AddrSet // peers, and Group where it floods to that
	// FDB says to which peer frames for a MAC go, of the entries that were set
	// (not learned). The address is not valid if only one of the two tables,
	// the tunnel's and the bridge's, has the entry.
	FDB *Table[cluster.MAC, netip.Addr]
	// Yielding are the entries of FDB that the bridge gives up when it hears the MAC at
	// another port, of bridges that the driver listens to (see Listener).
	Yielding *Table[cluster.MAC, struct{}]

	// Port of a bridge.
	Isolated bool
	Sends    bool // floods and learns, in every way
	Silent   bool // neither floods nor learns, in any way
	// Static: floods what is for all, but nothing that is for a MAC it does not know,
	// learns nothing, and leaves questions that the bridge can answer unasked.
	Static bool

	// Port of the namespace or of a workload: the MAC that the bridge holds to be
	// behind it whatever other ports say.
	Pinned cluster.MAC

	// Port of a workload.
	Use      Use
	Forwards bool // of an uplink: what comes in by it
	Space    int  // of a pair: this host's number of the namespace that the other end is in
	User     int  // of a tap: who may open it
}

// Other is one device that is not ours.
type Other struct {
	Kind      Kind
	Group     uint32
	MTU       int // bytes
	Up        bool
	Addresses []netip.Prefix
	Master    string      // what it is a port of, ours or not
	VNI       cluster.VNI // of a tunnel
	Port      uint16      // of a tunnel
	V6        bool        // a tunnel over IPv6
	Underlay  string      // of a tunnel: the device that it sends by
}

// Namespace is one network namespace with a name of ours.
type Namespace struct {
	// Owner is the VPC that the namespace was made for; zero: not ours.
	Owner cluster.VNI
	// Quiet: loopback is up, no router advertisement is accepted, nothing is forwarded
	// but as Routing says, and questions are answered by the port that has the address.
	Quiet bool
	// Filtered: nothing but ICMP echo and neighbour discovery is let in, and nothing
	// is forwarded but as Routing says.
	Filtered bool
	Routing  Routing
	// Port is the inner end of its port, nil if there is none.
	Port *NamespacePort
	// Further are the inner ends of its other ports, by name there.
	Further map[string]*NamespacePort
}

// NamespacePort is the inner end of a namespace's port.
type NamespacePort struct {
	Peer      string // the device at the host's end, "" if it is not there
	MAC       cluster.MAC
	MTU       int // bytes
	Up        bool
	Addresses []netip.Prefix
	Forwards  bool // IPv4 that comes in by it
	// Sourced, of a VIP's alone: what is sent from its Addresses, and from no other,
	// leaves by it.
	Sourced bool
	// Gateways are where the default routes by it lead, of the uplink's alone.
	Gateways []netip.Addr
	// Neighbours are the MACs that it was told for good (not learned); those of the
	// VTEP's port alone are looked at.
	Neighbours *Table[netip.Addr, cluster.MAC]
}

// Allow adds sources of a VNI.
func (f *Filter) Allow(v cluster.VNI, as ...netip.Addr) {
	if f.Sources == nil {
		f.Sources = map[cluster.VNI]AddrSet{}
	}
	if f.Sources[v] == nil {
		f.Sources[v] = Addrs()
	}
	for _, a := range as {
		f.Sources[v].Set(a, struct{}{})
	}
}

// Deny removes sources of a VNI.
func (f *Filter) Deny(v cluster.VNI, as ...netip.Addr) {
	for _, a := range as {
		f.Sources[v].Delete(a)
	}
	if f.Sources[v].Len() == 0 {
		delete(f.Sources, v)
	}
}

// Filter is the packet filter of a host.
type Filter struct {
	// Exists: a table of ours is there, whole or not.
	Exists bool
	// Foreign: a table of our name is there and is not ours.
	Foreign bool
	// Port is the UDP port that the rules judge, zero if the rules are not in
	// place (then what else the filter holds has no effect).
	Port uint16
	// VNIs are judged; frames of others pass.
	VNIs map[cluster.VNI]struct{}
	// Sources are let through, by VNI.
	Sources map[cluster.VNI]AddrSet
	// Shields keep a VPC's tenants from speaking as a VTEP of its peer network.
	Shields map[cluster.VNI]netip.Prefix
	// Seals keep all frames of a bridge of that name from its host. A bridge
	// that is made anew needs a new one.
	Seals map[string]struct{}
	// Bindings are what workloads' ports may send as, by device.
	Bindings map[string]Binding
	// Wards keep what a port of ours has from all others, by the port's device.
	Wards map[string]Ward
	// Gated are the devices of gated ports.
	Gated map[string]struct{}
	// Placed VNIs are judged by Places too: who may send from which MAC.
	Placed map[cluster.VNI]struct{}
	Places map[cluster.VNI]PlaceSet
	// Budgets bound what VPCs flood.
	Budgets map[cluster.VNI]Budget
	// NoBudgets: this kernel cannot bound that.
	NoBudgets bool
	// Fenced addresses nothing is taken from, nor sent to.
	Fenced AddrSet
	// Uplinks is the UDP port that GuardUplinks was given, zero: its rules are not in place.
	Uplinks uint16
	// NoShields: this kernel cannot filter between a bridge's ports.
	NoShields bool
}

// Clone is a deep copy.
func (f Filter) Clone() Filter {
	f.VNIs, f.Sources = maps.Clone(f.VNIs), maps.Clone(f.Sources)
	for v, as := range f.Sources {
		f.Sources[v] = as.Clone()
	}
	f.Shields, f.Seals, f.Bindings, f.Wards = maps.Clone(f.Shields), maps.Clone(f.Seals), maps.Clone(f.Bindings), maps.Clone(f.Wards)
	f.Gated = maps.Clone(f.Gated)
	f.Budgets = maps.Clone(f.Budgets)
	f.Placed, f.Places = maps.Clone(f.Placed), maps.Clone(f.Places)
	if f.Fenced != nil {
		f.Fenced = f.Fenced.Clone()
	}
	for v, ps := range f.Places {
		f.Places[v] = ps.Clone()
	}
	return f
}

// Carries reports whether anything of v is on the host: with its mark, or in the
// filter.
func (s State) Carries(v cluster.VNI) bool {
	_, judged := s.Filter.VNIs[v]
	return judged || s.Marked(v)
}

// Marked reports whether any device or namespace has the mark of v.
func (s State) Marked(v cluster.VNI) bool {
	for _, d := range s.Devices {
		if d.Owner == v {
			return true
		}
	}
	for _, n := range s.Namespaces {
		if n.Owner == v {
			return true
		}
	}
	return false
}

// OwnersOf lists, sorted, the marks of what is on the host for the VPC of that
// name: the host itself knows, whatever its agent has forgotten.
func (s State) OwnersOf(vpc string) []cluster.VNI {
	owners := map[cluster.VNI]bool{}
	for name, d := range s.Devices {
		workload := d.Use != UseVPC && (d.Master == vpc || strings.HasPrefix(d.Alias, workloadsOf(vpc)))
		if name == vpc && d.Use == UseVPC || d.Alias == tunnelsOf(vpc) || d.Alias == portOf(vpc) || d.Alias == gatewayOf(vpc) || d.Alias == uplinkAlias(vpc) || workload {
			owners[d.Owner] = true
		}
	}
	if n := s.Namespaces[NamespaceOf(vpc)]; n.Owner != 0 {
		owners[n.Owner] = true
	}
	return slices.Sorted(maps.Keys(owners))
}

// VPCs lists, sorted, the names of the VPCs that something of ours on the host is
// for, as far as OwnersOf would find it.
func (s State) VPCs() []string {
	names := map[string]bool{}
	for name, d := range s.Devices {
		vpc, tunnels := strings.CutPrefix(d.Alias, tunnelsOf(""))
		port, isPort := strings.CutPrefix(d.Alias, portOf(""))
		workloads, _, isWorkload := endpointIn(d.Alias)
		switch {
		case d.Use != UseVPC:
			if isWorkload {
				names[workloads] = true
			}
		case d.Kind == KindBridge:
			names[name] = true
		case tunnels:
			names[vpc] = true
		case isPort:
			names[port] = true
		}
	}
	for name, n := range s.Namespaces {
		if vpc, ok := strings.CutPrefix(name, NamespaceOf("")); ok && n.Owner != 0 {
			names[vpc] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Aliases of a VPC's devices.
func tunnelsOf(vpc string) string { return CleanAlias("tunnels-of-" + vpc) }
func portOf(vpc string) string    { return CleanAlias("port-of-" + vpc) }
func gatewayOf(vpc string) string { return CleanAlias("gateway-of-" + vpc) }

// Clone is a copy whose maps are its own. Slices are shared: nobody changes one
// in place.
func (s State) Clone() State {
	c := State{
		Devices:    maps.Clone(s.Devices),
		Others:     maps.Clone(s.Others),
		Namespaces: maps.Clone(s.Namespaces),
		Filter:     s.Filter.Clone(),
		Spaces:     maps.Clone(s.Spaces),
	}
	for name, d := range c.Devices {
		if d.Flood != nil || d.FDB != nil || d.Answers != nil || d.Yielding != nil {
			d.Flood, d.FDB, d.Answers, d.Yielding = d.Flood.Clone(), d.FDB.Clone(), d.Answers.Clone(), d.Yielding.Clone()
			c.Devices[name] = d
		}
	}
	for name, n := range c.Namespaces {
		if n.Port != nil {
			p := *n.Port
			p.Neighbours = p.Neighbours.Clone()
			n.Port = &p
		}
		n.Further = maps.Clone(n.Further)
		for inner, p := range n.Further {
			p := *p
			n.Further[inner] = &p
		}
		c.Namespaces[name] = n
	}
	return c
}

// maxAlias is the longest alias that Linux stores and finds again, in bytes.
const maxAlias = 250

// CleanAlias makes text from elsewhere fit for a device's alias: printable
// ASCII, at most 250 bytes.
func CleanAlias(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), maxAlias)]
}
