package lab

import "slices"

// Cut is one fault between two sides: no packet passes from one to the other.
// A side is a host or a datacenter; B "" is everybody else. OneWay leaves the
// direction from B to A open.
type Cut struct {
	A      string `json:"a"`
	B      string `json:"b,omitempty"`
	OneWay bool   `json:"one_way,omitempty"`
}

// from reports whether the cut closes the direction from p to q.
func (c Cut) from(p, q place) bool {
	if c.B == "" {
		return p.in(c.A) && !q.in(c.A)
	}
	return p.in(c.A) && q.in(c.B)
}

// place is where a host hangs on the router.
type place struct {
	host, datacenter string
	device           int // index of the router's device
}

func (p place) in(side string) bool { return p.host == side || p.datacenter == side }

// link is a direction through the router: from device In to device Out.
type link struct{ in, out int }

// severed lists the directions that the cuts close. Pure.
func severed(places []place, cuts []Cut) []link {
	var list []link
	for _, from := range places {
		for _, to := range places {
			if from != to && isCut(from, to, cuts) {
				list = append(list, link{from.device, to.device})
			}
		}
	}
	return list
}

func isCut(p, q place, cuts []Cut) bool {
	return slices.ContainsFunc(cuts, func(c Cut) bool {
		return c.from(p, q) || !c.OneWay && c.from(q, p)
	})
}
