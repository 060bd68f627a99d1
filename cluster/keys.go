package cluster

import (
	"fmt"
	"net/netip"
	"strings"
)

// Root is the prefix of every key.
const Root = "/meshvpc/v1/"

// Keys of single records and prefixes of families (those end with a slash).
const (
	KeyConfig    = Root + "config"
	KeyJudgement = Root + "judgement"
	KeyLeader    = Root + "leader/controller"
	PrefixNodes  = Root + "nodes/"
	PrefixLive   = Root + "live/"
	PrefixVPCs   = Root + "vpcs/"
	PrefixHosts  = Root + "hosts/"
	PrefixStat   = Root + "status/"
	PrefixAlloc  = Root + "alloc/"
	PrefixSrvs   = Root + "servers/"
	PrefixToks   = Root + "tokens/"
	PrefixUsers  = Root + "users/"
	PrefixFences = Root + "fences/"
	PrefixDrills = Root + "drills/"
	PrefixReqs   = Root + "requests/"
	PrefixEvents = Root + "events/"
	PrefixTrust  = Root + "trust/"
	PrefixVNIs   = PrefixAlloc + "vni/"
	PrefixVTEPs  = PrefixAlloc + "vtep/"
	PrefixIPs    = PrefixAlloc + "ip/"
	PrefixMACs   = PrefixAlloc + "mac/"
)

// Short is a key as people see it, without the root.
func Short(key string) string { return strings.TrimPrefix(key, Root) }

// KeyNode is a node's record.
func KeyNode(node string) string { return PrefixNodes + node }

// KeyLive is a node's liveness record, on its lease.
func KeyLive(node string) string { return PrefixLive + node }

// PrefixVPC is all of one VPC.
func PrefixVPC(vpc string) string { return PrefixVPCs + vpc + "/" }

// KeyVPCSpec is what the operator asks of a VPC.
func KeyVPCSpec(vpc string) string { return PrefixVPC(vpc) + "spec" }

// KeyVPCNet is what is in force for a VPC.
func KeyVPCNet(vpc string) string { return PrefixVPC(vpc) + "net" }

// KeyVPCPing is a ping asked for.
func KeyVPCPing(vpc string) string { return PrefixVPC(vpc) + "ping" }

// KeyVPCFind is a MAC looked for.
func KeyVPCFind(vpc string) string { return PrefixVPC(vpc) + "find" }

// PrefixMembers is a VPC's members list.
func PrefixMembers(vpc string) string { return PrefixVPC(vpc) + "members/" }

// KeyMember is one member of a VPC.
func KeyMember(vpc, node string) string { return PrefixMembers(vpc) + node }

// PrefixEndpoints is a VPC's endpoints.
func PrefixEndpoints(vpc string) string { return PrefixVPC(vpc) + "endpoints/" }

// KeyEndpointSpec is what the operator asks of an endpoint.
func KeyEndpointSpec(vpc, endpoint string) string { return PrefixEndpoints(vpc) + endpoint + "/spec" }

// KeyEndpointOwn is what an endpoint has.
func KeyEndpointOwn(vpc, endpoint string) string { return PrefixEndpoints(vpc) + endpoint + "/own" }

// KeyEndpointHold keeps automation off an endpoint.
func KeyEndpointHold(vpc, endpoint string) string { return PrefixEndpoints(vpc) + endpoint + "/hold" }

// KeyFence is the word to take nothing from a node.
func KeyFence(node string) string { return PrefixFences + node }

// KeyVerdicts is what a node has seen of others.
func KeyVerdicts(node string) string { return PrefixStatus(node) + "verdicts" }

// KeyFenceStatus is which fences a host has applied.
func KeyFenceStatus(node string) string { return PrefixStatus(node) + "fences" }

// PrefixHost is a host's own prefix: all that it is told to be.
func PrefixHost(node string) string { return PrefixHosts + node + "/" }

// KeyHostVPC is a host's assignment to a VPC.
func KeyHostVPC(node, vpc string) string { return PrefixHost(node) + "vpcs/" + vpc }

// PrefixHostLinks is a host's links of one VPC that have a tunnel of their own.
func PrefixHostLinks(node, vpc string) string { return PrefixHost(node) + "links/" + vpc + "/" }

// KeyHostLink is one end of a link that has a tunnel of its own.
func KeyHostLink(node, vpc, peer string) string { return PrefixHostLinks(node, vpc) + peer }

// PrefixStatus is all that a node reports.
func PrefixStatus(node string) string { return PrefixStat + node + "/" }

// KeyNodeStatus is a node's report about itself.
func KeyNodeStatus(node string) string { return PrefixStatus(node) + "node" }

// KeyVPCStatus is a node's report about its part in a VPC.
func KeyVPCStatus(node, vpc string) string { return PrefixStatus(node) + "vpcs/" + vpc }

// KeyPingResult is a node's answer to KeyVPCPing.
func KeyPingResult(node, vpc string) string { return PrefixStatus(node) + "ping/" + vpc }

// KeyFindResult is a node's answer to KeyVPCFind.
func KeyFindResult(node, vpc string) string { return PrefixStatus(node) + "find/" + vpc }

// KeyEndpointStatus is a node's report about an endpoint that is attached there.
func KeyEndpointStatus(node, vpc, endpoint string) string {
	return PrefixStatus(node) + "endpoints/" + vpc + "/" + endpoint
}

// PrefixMACStatus is all that a node claims of one VPC's MACs.
func PrefixMACStatus(node, vpc string) string { return PrefixStatus(node) + "macs/" + vpc + "/" }

// KeyMACStatus is a node's claim to a MAC that no endpoint has.
func KeyMACStatus(node, vpc string, m MAC) string { return PrefixMACStatus(node, vpc) + m.String() }

// PrefixPublished is all MACs of a VPC that are published.
func PrefixPublished(vpc string) string { return PrefixVPC(vpc) + "macs/" }

// KeyPublished is where a MAC is that no endpoint has.
func KeyPublished(vpc string, m MAC) string { return PrefixPublished(vpc) + m.String() }

// PrefixRequests is all that a node asks for.
func PrefixRequests(node string) string { return PrefixReqs + node + "/" }

// KeyRequest is what a node asks for of one endpoint.
func KeyRequest(node, vpc, endpoint string) string {
	return PrefixRequests(node) + vpc + "/" + endpoint
}

// KeyAllocVNI is the reverse key of a VNI; padded, so that keys sort as numbers.
func KeyAllocVNI(v VNI) string { return fmt.Sprintf("%s%08d", PrefixVNIs, v) }

// PrefixAllocVTEP is all VTEP addresses of a VPC.
func PrefixAllocVTEP(vpc string) string { return PrefixVTEPs + vpc + "/" }

// KeyAllocVTEP is the reverse key of a VTEP address.
func KeyAllocVTEP(vpc string, a netip.Addr) string { return PrefixAllocVTEP(vpc) + a.String() }

// PrefixAllocIP is all addresses of a VPC's endpoints.
func PrefixAllocIP(vpc string) string { return PrefixIPs + vpc + "/" }

// KeyAllocIP is the reverse key of an endpoint's address.
func KeyAllocIP(vpc string, a netip.Addr) string { return PrefixAllocIP(vpc) + a.String() }

// PrefixAllocMAC is all MACs of a VPC's endpoints.
func PrefixAllocMAC(vpc string) string { return PrefixMACs + vpc + "/" }

// KeyAllocMAC is the reverse key of an endpoint's MAC.
func KeyAllocMAC(vpc string, m MAC) string { return PrefixAllocMAC(vpc) + m.String() }

// KeyServer is a server's record.
func KeyServer(name string) string { return PrefixSrvs + name }

// KeyToken is the record of a token that was given out.
func KeyToken(id string) string { return PrefixToks + id }

// KeyUser is the record of a person's credential.
func KeyUser(name string) string { return PrefixUsers + name }

// KeyNodeTrust is whom a node trusts.
func KeyNodeTrust(node string) string { return PrefixTrust + "node/" + node }

// KeyServerTrust is whom a server trusts.
func KeyServerTrust(name string) string { return PrefixTrust + "server/" + name }

// Kind is the family that a key belongs to.
type Kind string

// The kinds of records.
const (
	KindConfig     Kind = "config"
	KindNode       Kind = "node"
	KindLive       Kind = "live"
	KindVPCSpec    Kind = "vpc spec"
	KindVPCNet     Kind = "vpc net"
	KindVPCPing    Kind = "vpc ping"
	KindVPCFind    Kind = "vpc find"
	KindMember     Kind = "member"
	KindHostVPC    Kind = "host vpc"
	KindHostLink   Kind = "host link"
	KindNodeStatus Kind = "node status"
	KindVPCStatus  Kind = "vpc status"
	KindPingResult Kind = "ping result"
	KindFindResult Kind = "find result"
	KindAllocVNI   Kind = "vni allocation"
	KindAllocVTEP  Kind = "vtep allocation"
	KindAllocIP    Kind = "ip allocation"
	KindAllocMAC   Kind = "mac allocation"
	KindEndpoint   Kind = "endpoint spec"
	KindOwn        Kind = "endpoint own"
	KindPort       Kind = "endpoint status"
	KindMACStatus  Kind = "mac status"
	KindPublished  Kind = "published mac"
	KindRequest    Kind = "request"
	KindHold       Kind = "endpoint hold"
	KindFence      Kind = "fence"
	KindDrill      Kind = "drill"
	KindJudgement  Kind = "judgement"
	KindVerdicts   Kind = "verdicts"
	KindFenced     Kind = "fence status"
	KindServer     Kind = "server"
	KindToken      Kind = "token"
	KindUser       Kind = "user"
	KindLeader     Kind = "leader"
	KindEvent      Kind = "event"
	KindTrust      Kind = "trust"
)

// Key is a parsed key. Node, VPC and Name are set where the kind has them;
// Name is the last element of allocations, servers, tokens, users, events and host
// links, whose peer it is, the name of an endpoint, and a MAC.
type Key struct {
	Kind Kind
	Node string
	VPC  string
	Name string
}

// patterns holds each kind's path below Root; {} parts fill the fields.
var patterns = []struct {
	kind Kind
	path string
}{
	{KindConfig, "config"},
	{KindNode, "nodes/{node}"},
	{KindLive, "live/{node}"},
	{KindVPCSpec, "vpcs/{vpc}/spec"},
	{KindVPCNet, "vpcs/{vpc}/net"},
	{KindVPCPing, "vpcs/{vpc}/ping"},
	{KindVPCFind, "vpcs/{vpc}/find"},
	{KindMember, "vpcs/{vpc}/members/{node}"},
	{KindEndpoint, "vpcs/{vpc}/endpoints/{name}/spec"},
	{KindOwn, "vpcs/{vpc}/endpoints/{name}/own"},
	{KindHold, "vpcs/{vpc}/endpoints/{name}/hold"},
	{KindFence, "fences/{node}"},
	{KindDrill, "drills/{name}"},
	{KindJudgement, "judgement"},
	{KindVerdicts, "status/{node}/verdicts"},
	{KindFenced, "status/{node}/fences"},
	{KindHostVPC, "hosts/{node}/vpcs/{vpc}"},
	{KindHostLink, "hosts/{node}/links/{vpc}/{name}"},
	{KindNodeStatus, "status/{node}/node"},
	{KindVPCStatus, "status/{node}/vpcs/{vpc}"},
	{KindPingResult, "status/{node}/ping/{vpc}"},
	{KindFindResult, "status/{node}/find/{vpc}"},
	{KindPort, "status/{node}/endpoints/{vpc}/{name}"},
	{KindMACStatus, "status/{node}/macs/{vpc}/{name}"},
	{KindPublished, "vpcs/{vpc}/macs/{name}"},
	{KindRequest, "requests/{node}/{vpc}/{name}"},
	{KindAllocVNI, "alloc/vni/{name}"},
	{KindAllocVTEP, "alloc/vtep/{vpc}/{name}"},
	{KindAllocIP, "alloc/ip/{vpc}/{name}"},
	{KindAllocMAC, "alloc/mac/{vpc}/{name}"},
	{KindServer, "servers/{name}"},
	{KindToken, "tokens/{name}"},
	{KindUser, "users/{name}"},
	{KindLeader, "leader/{name}"},
	{KindEvent, "events/{name}"},
	{KindTrust, "trust/node/{name}"},
	{KindTrust, "trust/server/{name}"},
}

// ParseKey tells what a key is; one that is no record, or that is not written
// as the functions above write it, wraps ErrUnknownKey.
func ParseKey(key string) (Key, error) {
	if rest, ok := strings.CutPrefix(key, Root); ok && len(key) <= maxKey {
		parts := strings.Split(rest, "/")
		for _, p := range patterns {
			if k, ok := match(p.path, parts); ok && k.named(p.kind) {
				k.Kind = p.kind
				return k, nil
			}
		}
	}
	return Key{}, fmt.Errorf("%w %q", ErrUnknownKey, CleanText(key))
}

const maxKey = 256 // bytes; the longest of ours has 166

// named reports whether the names in a key of that kind are valid.
func (k Key) named(kind Kind) bool {
	if k.Node != "" && CheckNodeName(k.Node) != nil || k.VPC != "" && CheckVPCName(k.VPC) != nil {
		return false
	}
	switch kind {
	case KindAllocVNI:
		v, err := ParseVNI(k.Name)
		return err == nil && KeyAllocVNI(v) == PrefixVNIs+k.Name
	case KindEvent:
		return eventID.MatchString(k.Name)
	case KindAllocMAC, KindMACStatus, KindPublished:
		m, err := ParseMAC(k.Name)
		return err == nil && m.String() == k.Name
	case KindAllocVTEP, KindAllocIP:
		a, err := netip.ParseAddr(k.Name)
		return err == nil && a.Zone() == "" && !a.Is4In6() && a.String() == k.Name
	}
	return k.Name == "" || CheckNodeName(k.Name) == nil
}

func match(path string, parts []string) (Key, bool) {
	var k Key
	n := 0
	for want := range strings.SplitSeq(path, "/") {
		if n == len(parts) || parts[n] == "" {
			return Key{}, false
		}
		switch want {
		case "{node}":
			k.Node = parts[n]
		case "{vpc}":
			k.VPC = parts[n]
		case "{name}":
			k.Name = parts[n]
		default:
			if want != parts[n] {
				return Key{}, false
			}
		}
		n++
	}
	return k, n == len(parts)
}
