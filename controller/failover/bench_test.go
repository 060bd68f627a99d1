package failover

import (
	"fmt"
	"testing"

	"github.com/meshvpc/meshvpc/cluster"
)

// BenchmarkDecide is one pass of a cluster of three datacenters with as many endpoints
// as hosts, of which each is attached at three: in peace, and while a third of the
// hosts are silent.
func BenchmarkDecide(b *testing.B) {
	for _, hosts := range []int{10, 100, 1000} {
		for _, lost := range []bool{false, true} {
			b.Run(fmt.Sprintf("hosts=%d/lost=%v", hosts, lost), func(b *testing.B) {
				w := crowd(b, hosts)
				if lost {
					for name, n := range w.v.Nodes {
						if n.Datacenter == "d0" {
							w.die(name)
						}
					}
				}
				w.run(6 * w.v.Timings.Keepalive)
				if lost && w.last.Mode != ModeDatacenter {
					b.Fatalf("%s: %s", w.last.Mode, w.last.Why)
				}
				for b.Loop() {
					w.decide()
				}
			})
		}
	}
}

// BenchmarkMoving is a pass of 100 hosts and 1,000 endpoints, of which each is attached at
// ten: in peace, while a third of the hosts are silent, and when these are fenced and all
// that they have is to move.
func BenchmarkMoving(b *testing.B) {
	for _, stage := range []string{"peace", "silent", "fenced"} {
		b.Run(stage, func(b *testing.B) {
			w := crowdOf1000(b)
			if stage != "peace" {
				w.dieAll("d0")
			}
			w.run(6 * w.v.Timings.Keepalive)
			if stage == "fenced" {
				w.write(w.last)
			}
			b.ReportAllocs()
			grants := 0
			for b.Loop() {
				w.j.granted = nil
				grants = len(w.decide().Grants)
			}
			b.ReportMetric(float64(grants), "grants")
			if (grants > 0) != (stage == "fenced") || w.last.Mode == ModeSafe {
				b.Fatalf("%d grants, %s: %s", grants, w.last.Mode, w.last.Why)
			}
		})
	}
}

// crowdOf1000 has 1,000 endpoints at 100 hosts in three datacenters.
func crowdOf1000(t testing.TB) *world {
	w := crowd(t, 100)
	members := w.v.Endpoints[0].Members
	w.v.Endpoints = nil
	for i := range 1000 {
		e := &Endpoint{VPC: "v", Name: fmt.Sprintf("e%04d", i), Failover: &cluster.Failover{Mode: cluster.ModeStateless, Place: cluster.Place{"all"}},
			Own:     &cluster.EndpointOwn{State: cluster.OwnAssigned, Node: fmt.Sprintf("n%04d", i%100), Era: 1, Epoch: 1},
			Reports: map[string]*cluster.EndpointStatus{}, Members: members}
		for k := range 10 {
			w.report(e, fmt.Sprintf("n%04d", (i+k)%100), cluster.PortStandby)
		}
		w.v.Endpoints = append(w.v.Endpoints, e)
	}
	return w
}

// dieAll has all hosts of a datacenter stop.
func (w *world) dieAll(dc string) {
	for name, n := range w.v.Nodes {
		if n.Datacenter == dc {
			w.die(name)
		}
	}
}

func crowd(t testing.TB, hosts int) *world {
	names := []string{"w/w!"}
	for i := range hosts {
		names = append(names, fmt.Sprintf("d%d/n%04d", i%3, i))
	}
	w := newWorld(t, names...)
	members := w.v.Endpoints[0].Members
	w.v.Endpoints = nil
	for i := range hosts {
		e := &Endpoint{VPC: "v", Name: fmt.Sprintf("e%04d", i), Failover: &cluster.Failover{Mode: cluster.ModeStateless, Place: cluster.Place{"all"}},
			Own:     &cluster.EndpointOwn{State: cluster.OwnAssigned, Node: fmt.Sprintf("n%04d", i), Era: 1, Epoch: 1},
			Reports: map[string]*cluster.EndpointStatus{}, Members: members}
		for k := range 3 {
			w.report(e, fmt.Sprintf("n%04d", (i+k)%hosts), cluster.PortStandby)
		}
		w.v.Endpoints = append(w.v.Endpoints, e)
	}
	return w
}
