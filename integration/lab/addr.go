package lab

import (
	"fmt"
	"net/netip"
)

// ends are the two sides of a host's underlay link, a prefix per family,
// IPv6 first.
type ends struct {
	Subnet int            `json:"subnet"`
	Host   []netip.Prefix `json:"host"`
	Router []netip.Prefix `json:"router"`
}

// room is how many subnets an underlay can deal out. 192.0.2.0/24,
// 198.51.100.0/24 and 203.0.113.0/24 hold 64 subnets of four addresses each.
func (u Underlay) room() int {
	if u == IPv6 {
		return 0xffff
	}
	return 3 * 64
}

// ends returns subnet i of the underlay, i from 1 to room: 2001:db8:<i>::/64
// and one /30 of the IPv4 documentation prefixes. The router has the first
// address, the host the second.
func (u Underlay) ends(i int) ends {
	e := ends{Subnet: i}
	if u != IPv4 {
		a := [16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 4: byte(i >> 8), 5: byte(i), 15: 1}
		e.Router = append(e.Router, netip.PrefixFrom(netip.AddrFrom16(a), 64))
		a[15] = 2
		e.Host = append(e.Host, netip.PrefixFrom(netip.AddrFrom16(a), 64))
	}
	if u != IPv6 {
		nets := [][3]byte{{192, 0, 2}, {198, 51, 100}, {203, 0, 113}}
		n, first := nets[(i-1)/64], byte((i-1)%64*4)
		e.Router = append(e.Router, netip.PrefixFrom(netip.AddrFrom4([4]byte{n[0], n[1], n[2], first + 1}), 30))
		e.Host = append(e.Host, netip.PrefixFrom(netip.AddrFrom4([4]byte{n[0], n[1], n[2], first + 2}), 30))
	}
	return e
}

// subnets deals out subnet numbers. The zero value has dealt none.
type subnets struct {
	used map[int]bool
	last int
}

// take returns the next free number after the last one taken, so that a
// number given back is not dealt again at once.
func (s *subnets) take(room int) (int, error) {
	if s.used == nil {
		s.used = map[int]bool{}
	}
	for range room {
		s.last = s.last%room + 1
		if !s.used[s.last] {
			s.used[s.last] = true
			return s.last, nil
		}
	}
	return 0, fmt.Errorf("take underlay subnet: all %d are in use", room)
}

func (s *subnets) giveBack(i int) { delete(s.used, i) }
