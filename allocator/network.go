package allocator

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
)

// Network is what the VTEP addresses of one VPC, or its endpoints' of one family,
// are taken from.
type Network struct {
	Prefix  netip.Prefix // masked
	Gateway netip.Addr   // reserved; the zero Addr for none
	Exclude []netip.Addr // reserved
}

// NetworkOf is one of the networks of a VPC's endpoints.
func NetworkOf(spec *cluster.VPCSpec, n netip.Prefix) Network {
	return Network{Prefix: n, Gateway: spec.AskedGateway().In(n), Exclude: spec.Exclude}
}

// Capacity counts those that fit. Reserved are the network and broadcast
// address of IPv4 (but a /31 has neither, RFC 3021, and a /32 is one host), the
// subnet-router anycast address of IPv6 (RFC 4291 §2.6.1; not in a /127, RFC
// 6164, and a /128 is one host), the gateway and the excluded ones. Of prefixes
// shorter than /64 the first 2^64-1 addresses are used.
func (n Network) Capacity() uint64 { return n.pool().Capacity() }

// Allocates reports whether a may be given out: it is of the network and not
// reserved.
func (n Network) Allocates(a netip.Addr) bool {
	i, ok := n.index(a)
	return ok && !slices.Contains(n.reserved(), i)
}

func (n Network) equal(o Network) bool {
	return n.Prefix == o.Prefix && n.Gateway == o.Gateway && slices.Equal(n.Exclude, o.Exclude)
}

func (n Network) pool() *pool { return newPool(n.size(), n.reserved()...) }

func (n Network) size() uint64 {
	if !n.Prefix.IsValid() {
		return 0
	}
	return saturated(n.hostBits())
}

func (n Network) hostBits() int { return n.Prefix.Addr().BitLen() - n.Prefix.Bits() }

func (n Network) reserved() []uint64 {
	var r []uint64
	if n.hostBits() > 1 {
		r = append(r, 0)
		if n.Prefix.Addr().Is4() {
			r = append(r, n.size()-1)
		}
	}
	for _, a := range append([]netip.Addr{n.Gateway}, n.Exclude...) {
		if i, ok := n.index(a); ok {
			r = append(r, i)
		}
	}
	return r
}

// index is a's place in the network; false if it is not one of those used.
func (n Network) index(a netip.Addr) (uint64, bool) {
	if !n.Prefix.Contains(a) {
		return 0, false
	}
	if a.Is4() {
		base, addr := n.Prefix.Addr().As4(), a.As4()
		return uint64(binary.BigEndian.Uint32(addr[:]) - binary.BigEndian.Uint32(base[:])), true
	}
	base, addr := n.Prefix.Addr().As16(), a.As16()
	if [8]byte(base[:8]) != [8]byte(addr[:8]) {
		return 0, false // beyond the first 2^64
	}
	i := binary.BigEndian.Uint64(addr[8:]) - binary.BigEndian.Uint64(base[8:])
	return i, i < n.size()
}

// addr is the address at a place of the network.
func (n Network) addr(i uint64) netip.Addr {
	if n.Prefix.Addr().Is4() {
		b := n.Prefix.Addr().As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(i))
		return netip.AddrFrom4(b)
	}
	b := n.Prefix.Addr().As16()
	binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])+i)
	return netip.AddrFrom16(b)
}
