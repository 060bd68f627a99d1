package lab

import (
	"slices"
	"time"
)

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

// Impairment is one fault between two sides, in both directions: each packet takes
// longer by Delay on its way, so that a round trip is longer by two of them, and is
// lost with the probability Loss, from 0 to 1. Sides are as those of a Cut.
// Impairments add up.
type Impairment struct {
	A     string        `json:"a"`
	B     string        `json:"b,omitempty"`
	Delay time.Duration `json:"delay,omitempty"`
	Loss  float64       `json:"loss,omitempty"`
}

// lane is a direction through the router that is open, and impaired.
type lane struct {
	link
	delay time.Duration
	loss  float64
}

// impaired lists the open directions that something is the matter with. Pure.
func impaired(places []place, list []Impairment, closed []link) (lanes []lane) {
	for _, from := range places {
		for _, to := range places {
			l := lane{link: link{from.device, to.device}}
			passes := 1.0
			for _, i := range list {
				if c := (Cut{A: i.A, B: i.B}); from != to && (c.from(from, to) || c.from(to, from)) {
					l.delay += i.Delay
					passes *= 1 - i.Loss
				}
			}
			if l.loss = 1 - passes; (l.delay > 0 || l.loss > 0) && !slices.Contains(closed, l.link) {
				lanes = append(lanes, l)
			}
		}
	}
	return lanes
}
