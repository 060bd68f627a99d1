package document

import (
	"net/netip"

	"github.com/meshvpc/meshvpc/cluster"
)

// KindVPC is the kind of documents that are VPCs.
const KindVPC = "VPC"

// VPC is a document of kind VPC.
type VPC struct {
	Name string
	// Spec is active; what a document does not say (when the VPC was created)
	// is zero.
	Spec  cluster.VPCSpec
	Start Position // of the document

	fields map[string]Position // where the values of those fields stand that it has
}

// Where is the place of a field's value; of the document, if it leaves the
// field out.
func (v *VPC) Where(field string) Position {
	if at, ok := v.fields[field]; ok {
		return at
	}
	return v.Start
}

// newSpec is the spec of a document without fields, as `vpc create` without
// flags makes it.
func newSpec() cluster.VPCSpec {
	return cluster.VPCSpec{State: cluster.VPCActive, Members: cluster.SelectAll, PeerNetwork: cluster.DefaultPeerNetwork}
}

// vpcFields is all that a VPC's document can say, in the order in which it is
// written. A new field of the spec is a line here.
var vpcFields = fields[cluster.VPCSpec]{
	entry("members", terms[cluster.Selector](), func(s *cluster.VPCSpec) *cluster.Selector { return &s.Members }, 0,
		"Which nodes are members: all, node names, dc=NAME, label=KEY=VALUE; as a list, or joined by commas."),
	entry("peer_network", prefix, func(s *cluster.VPCSpec) *netip.Prefix { return &s.PeerNetwork }, fixed,
		"The prefix that the tunnels' own addresses come from. It does not change once the VPC is made."),
	growing(entry("network", parsed("a prefix like 10.10.11.0/24, or one of each family joined by a comma", cluster.ParseNetworks), func(s *cluster.VPCSpec) *cluster.Networks { return &s.Network }, fixed,
		"The prefix that endpoints get their addresses from, or one of each family joined by a comma. Once the VPC is made it only grows: a new prefix holds the old one."),
		func(was, is *cluster.VPCSpec) bool { return is.Network.Grows(was.Network) }),
	entry("gateway", parsed("an address with a length like 10.10.11.1/24, or one of each family joined by a comma", cluster.ParseGateway), func(s *cluster.VPCSpec) *cluster.Networks { return &s.Gateway }, 0,
		"The address of the VPC's router, with the length of network, or one of each family joined by a comma; left out: nothing leaves the VPC."),
	entry("gateway_mode", parsed("anycast, per-host or active", cluster.ParseGatewayMode), func(s *cluster.VPCSpec) *cluster.GatewayMode { return &s.GatewayMode }, 0,
		"How members have the gateway: anycast (or left out), all with the same MAC; per-host, each with its own; active, one at a time, with failover."),
	entry("nat", switched(), func(s *cluster.VPCSpec) *bool { return &s.NAT }, 0,
		"Whether workloads get out by the gateway and their host, with the host's address: to all that the host reaches, but for the host; left out: no."),
	entry("routes", parsed("prefixes like 192.168.0.0/16, joined by commas", cluster.ParseRoutes), func(s *cluster.VPCSpec) *cluster.Routes { return &s.Routes }, 0,
		"What attached workloads send by the gateway, which takes nat; left out: everything."),
	entry("exclude", list(address), func(s *cluster.VPCSpec) *[]netip.Addr { return &s.Exclude }, quiet,
		"Addresses of peer_network and network never to give to a host or an endpoint."),
	entry("vni", number(1, cluster.MaxVNI), func(s *cluster.VPCSpec) *cluster.VNI { return &s.VNI }, fixed|unique,
		"The VXLAN network identifier; left out: the lowest free one. It does not change once the VPC is made."),
	entry("mtu", number(cluster.MinMTU, cluster.MaxMTU), func(s *cluster.VPCSpec) *int { return &s.MTU }, 0,
		"MTU in bytes of every device of the VPC; left out: what every member can carry when it is made."),
	entry("transport", parsed("auto, p2p or multicast", transport), func(s *cluster.VPCSpec) *cluster.Transport { return &s.Transport }, 0,
		"How links carry frames: auto (or left out), p2p, multicast."),
	entry("multicast_group", parsed("an address like 239.1.1.1 or ff05::1:1", netip.ParseAddr), func(s *cluster.VPCSpec) *netip.Addr { return &s.MulticastGroup }, 0,
		"The group of transport multicast."),
	entry("learning", parsed("dynamic, static or publish", cluster.ParseLearning), func(s *cluster.VPCSpec) *cluster.Learning { return &s.Learning }, 0,
		"How hosts come to know where workloads are: dynamic (or left out), from frames; static, from attached endpoints' records alone; publish, from these and from what hosts publish of all other workloads."),
	entry("flood_limit", number(cluster.NoFloodLimit, cluster.MaxFloodLimit), func(s *cluster.VPCSpec) *cluster.FloodLimit { return &s.FloodLimit }, 0,
		"Frames a second that a host floods into each tunnel of the VPC at most, for all and for MACs that nobody knows; left out: 1000; -1: no limit."),
	entry("protect", boolean(), func(s *cluster.VPCSpec) *bool { return &s.Protect }, quiet,
		"Whether deleting it is refused."),
}

var (
	prefix  = parsed("a prefix like 10.100.0.0/16 or fd00:100::/64", netip.ParsePrefix)
	address = parsed("an address of the peer network or of network", netip.ParseAddr)
)

// transport reads a transport; auto is what a VPC has that names none.
func transport(s string) (cluster.Transport, error) {
	if s == string(cluster.Auto) {
		return "", nil
	}
	return cluster.Transport(s), nil
}
