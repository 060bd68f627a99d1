package hostops

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// PortKind is how a workload is attached.
type PortKind string

// The kinds of workloads' ports.
const (
	// PortNetns is a pair of devices, of which the inner one, with addresses and
	// routes, is in the workload's network namespace.
	PortNetns PortKind = "netns"
	// PortTap is a tap device that a virtual machine opens.
	PortTap PortKind = "tap"
	// PortDevice is a device that somebody else has made and lends to the VPC.
	PortDevice PortKind = "device"
	// PortVIP is a further port of the VPC's own namespace, which answers for the
	// endpoint itself: nothing is attached.
	PortVIP PortKind = "vip"
)

// Port is the place of one workload on a VPC's bridge.
type Port struct {
	Endpoint string   `json:"endpoint"`
	Kind     PortKind `json:"kind"`
	// Device is the port of the bridge, on the host: for PortNetns and PortVIP it is
	// EndpointPortOf the VPC and the endpoint.
	Device string      `json:"device"`
	MAC    cluster.MAC `json:"mac"`
	// Addresses are the workload's, with the length of the VPC's network; none
	// means that it may use any that is not of the peer network.
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	// Namespace is the path of the workload's network namespace, and Inner the name
	// of the device there (PortNetns). The path is opened anew for each operation;
	// Inode, if not zero, is what it has to be then.
	Namespace string `json:"namespace,omitempty"`
	Inode     uint64 `json:"inode,omitempty"`
	Inner     string `json:"inner,omitempty"`
	// Gateways are where the workload's routes lead, at most one a family, and Routes
	// what they are for; none: everything.
	Gateways []netip.Addr   `json:"gateways,omitempty"`
	Routes   []netip.Prefix `json:"routes,omitempty"`
	// Owner is the user who may open the tap, -1: root only.
	Owner int `json:"owner,omitempty"`
	// Trusted ports may send whatever they like; all others only what is from MAC
	// and Addresses, and nothing that only a router or a DHCP server sends.
	Trusted bool `json:"trusted,omitempty"`
	// Standby ports are in place and down: no frame passes.
	Standby bool `json:"standby,omitempty"`
	// Router, of kind PortVIP, is the VPC's gateway that one host has at a time: what comes
	// in by it is forwarded, where it is no standby. It is Trusted, as it sends what others
	// sent.
	Router bool `json:"router,omitempty"`
	// Gated ports pass frames, in both directions, only while the host's gate is open
	// (see Gater).
	Gated bool `json:"gated,omitempty"`
}

// EndpointPortOf is the name of the host's end of a port into a workload's network
// namespace: 15 characters, unique per VPC and endpoint.
func EndpointPortOf(vpc, endpoint string) string {
	sum := sha256.Sum256([]byte(vpc + "/" + endpoint))
	return endpointPrefix + hex.EncodeToString(sum[:6])
}

const endpointPrefix = "me-"

// Space is what a path leads to, when it was looked at.
type Space struct {
	Inode uint64 // zero: to no network namespace
	// ID is this host's number for it, as Device.Space has it; -1: it has none, as
	// no device here has its other end there.
	ID int
}

// Serves reports whether frames pass by a device that is the port of a workload of a
// VPC, as they do unless it is a standby's.
func (s State) Serves(vpc, device string) bool {
	d := s.Devices[device]
	return d.Use != UseVPC && d.Master == vpc && d.Up && d.Pinned != (cluster.MAC{})
}

// Use is what a device is to its VPC.
type Use string

// The uses of devices. What is made goes with its port, what is lent is given
// back: no port of any bridge, down, without a mark.
const (
	UseVPC  Use = ""     // a part of the VPC itself
	UseMade Use = "made" // made for a workload
	UseLent Use = "lent" // by whoever made it
)

// Binding is all that a port may send as, other than what every starting host
// sends.
type Binding struct {
	MAC       cluster.MAC
	Addresses []netip.Addr // none: any
}

// Equal reports whether b and c let the same pass.
func (b Binding) Equal(c Binding) bool {
	return b.MAC == c.MAC && slices.Equal(b.Addresses, c.Addresses)
}

func (b Binding) String() string {
	if len(b.Addresses) == 0 {
		return "MAC " + b.MAC.String() + ", any address"
	}
	return "MAC " + b.MAC.String() + ", " + addrs(b.Addresses)
}

// binding is what the port may send as.
func (p Port) binding() Binding {
	b := Binding{MAC: p.MAC}
	for _, a := range p.Addresses {
		b.Addresses = append(b.Addresses, a.Addr())
	}
	return b
}

// lets reports whether b is p's binding.
func (b Binding) lets(p Port) bool {
	return b.MAC == p.MAC && slices.EqualFunc(b.Addresses, p.Addresses, func(a netip.Addr, q netip.Prefix) bool { return a == q.Addr() })
}

// workloadsOf begins the aliases of the ports that are made for a VPC's workloads.
func workloadsOf(vpc string) string { return workloadPrefix + vpc + "/" }

const workloadPrefix = "workload-of-"

// aliasOfPort says whose port a device is, as what it was configured, and, for an
// agent without memory, what it may send as. It is made for each port at each pass:
// fmt takes too long.
func (v VPC) aliasOfPort(p Port) string {
	b := make([]byte, 0, maxAlias)
	b = append(append(append(b, workloadPrefix...), v.Name...), '/')
	b = append(append(b, p.Endpoint...), ' ')
	b = hex.AppendEncode(b, v.digestOf(p))
	if p.Trusted || len(b)+len(" 00:00:00:00:00:00")+40*len(p.Addresses) > maxAlias {
		return CleanAlias(string(b))
	}
	b = append(append(b, ' '), p.MAC.String()...)
	for _, a := range p.Addresses {
		b = a.Addr().AppendTo(append(b, ' '))
	}
	return CleanAlias(string(b))
}

// digestOf tells how the other end of a pair was configured.
func (v VPC) digestOf(p Port) []byte {
	b := make([]byte, 0, 200)
	b = append(append(b, p.Kind...), p.MAC[:]...)
	for _, a := range p.Addresses {
		b = a.AppendTo(append(b, ' '))
	}
	for _, g := range p.Gateways {
		b = g.AppendTo(append(b, '>'))
	}
	for _, p := range p.Routes {
		b = p.AppendTo(append(b, '|'))
	}
	b = append(strconv.AppendInt(append(b, ' '), int64(v.MTU), 10), ' ')
	sum := fnv.New64a()
	sum.Write(append(b, p.Inner...))
	return sum.Sum(nil)
}

// bindingIn reads what aliasOfPort has written; ok is false for a trusted port.
func bindingIn(alias string) (b Binding, ok bool) {
	parts := strings.Fields(alias)
	if len(parts) < 3 || !strings.HasPrefix(alias, workloadPrefix) || b.MAC.UnmarshalText([]byte(parts[2])) != nil {
		return b, false
	}
	for _, text := range parts[3:] {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return b, false
		}
		b.Addresses = append(b.Addresses, a)
	}
	return b, true
}

// endpointIn is the VPC and endpoint that a device's alias says it was made for.
func endpointIn(alias string) (vpc, endpoint string, ok bool) {
	rest, is := strings.CutPrefix(alias, workloadPrefix)
	vpc, rest, slash := strings.Cut(rest, "/")
	endpoint, _, space := strings.Cut(rest, " ")
	return vpc, endpoint, is && slash && space
}

// user is who may open a tap: without another, root.
func (p Port) user() int { return max(p.Owner, 0) }
