package controller

import (
	"cmp"
	"maps"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
)

// ownTunnels remembers which links hosts report that have a tunnel of their own:
// few or none of the many in a status, which changes seldom. A status is known by
// the record itself, not by its revision: a store that went back in time gives
// revisions out again.
type ownTunnels struct {
	reports map[string]*ownReport // by key of the status
	pass    uint64
	used    int
}

type ownReport struct {
	of    *cluster.VPCStatus
	pass  uint64
	links []cluster.Link // sorted by peer
}

// of lists the links in a status that have a tunnel of their own.
func (o *ownTunnels) of(it statusItem) []cluster.Link {
	if it.Value == nil || len(it.Value.Links) == 0 {
		return nil
	}
	r := o.reports[it.Key]
	if r == nil {
		r = &ownReport{pass: o.pass - 1}
		if o.reports == nil {
			o.reports = map[string]*ownReport{}
		}
		o.reports[it.Key] = r
	}
	if r.of != it.Value {
		r.of, r.links = it.Value, nil
		for _, l := range it.Value.Links {
			if l.VNI != 0 {
				r.links = append(r.links, l)
			}
		}
		slices.SortStableFunc(r.links, func(a, b cluster.Link) int { return cmp.Compare(a.Peer, b.Peer) })
	}
	if r.pass != o.pass {
		r.pass = o.pass
		o.used++
	}
	return r.links
}

// sweep ends a pass: what it did not ask for is forgotten.
func (o *ownTunnels) sweep() {
	if o.used < len(o.reports) {
		for key, r := range o.reports {
			if r.pass != o.pass {
				delete(o.reports, key)
			}
		}
	}
	o.pass++
	o.used = 0
}

// reported is what node says of its own tunnel to peer, the zero Link if it has
// none.
func (w *world) reported(v *vpc, node, peer string) cluster.Link {
	links := w.own.of(v.status[node])
	i, ok := slices.BinarySearchFunc(links, peer, func(l cluster.Link, peer string) int { return cmp.Compare(l.Peer, peer) })
	if !ok {
		return cluster.Link{}
	}
	return links[i]
}

// tunnelVNIs are the VNIs of pairs that hosts report.
func (w *world) tunnelVNIs() map[cluster.VNI]cluster.Pair {
	if w.tunnels == nil {
		w.tunnels = map[cluster.VNI]cluster.Pair{}
		for _, v := range w.vpcs {
			for node, it := range v.status {
				if !v.uses(node) {
					continue
				}
				for _, l := range w.own.of(it) {
					mark(w.tunnels, l.VNI, cluster.PairOf(v.name, node, l.Peer))
				}
			}
		}
	}
	return w.tunnels
}

// mark notes who uses a VNI; nobody may have one that two use.
func mark(used map[cluster.VNI]cluster.Pair, vni cluster.VNI, by cluster.Pair) {
	if was, ok := used[vni]; ok && was != by {
		by = cluster.Pair{}
	}
	used[vni] = by
}

// onHostsOf reports whether some host says that it has a VNI for its holder. For
// others, it is not this reverse key that keeps it.
func (w *world) onHostsOf(it allocItem) bool {
	vni := vniOf(it)
	if p, err := cluster.ParsePair(it.Value.Holder); err == nil {
		v := w.vpcs[p.VPC]
		return v.uses(p.A) && w.reported(v, p.A, p.B).VNI == vni || v.uses(p.B) && w.reported(v, p.B, p.A).VNI == vni
	}
	v := w.vpcs[it.Value.Holder]
	for node, s := range v.status {
		if v.uses(node) && s.Value.VNI == vni {
			return true
		}
	}
	return false
}

// hadBy says who has a VNI on hosts, other than the VPC named; "" for nobody.
func (w *world) hadBy(vni cluster.VNI, but string) string {
	if of := w.ofVPC[vni]; of != "" && of != but {
		return "VPC " + of
	}
	if p, ok := w.tunnelVNIs()[vni]; ok {
		return "a link of VPC " + p.VPC
	}
	return ""
}

// inForceFor says who has a VNI in a record that hosts go by, whatever the reverse
// keys say: another VPC than the one named, or a link; "" for nobody.
func (w *world) inForceFor(vni cluster.VNI, but string) string {
	for _, name := range slices.Sorted(maps.Keys(w.vpcs)) {
		v := w.vpcs[name]
		if name != but && v.active() && v.net.Value.VNI == vni {
			return "VPC " + name
		}
		for _, l := range v.links {
			for _, it := range l.ends {
				if it.Value != nil && it.Value.VNI == vni {
					return "a link of VPC " + name
				}
			}
		}
	}
	return ""
}

// usedByOther tells of a VNI whether another VPC or pair than by has it in force
// or on a host, whatever the reverse keys say. A VPC is a Pair without nodes.
func (w *world) usedByOther(by cluster.Pair) func(cluster.VNI) bool {
	if w.used == nil {
		w.used = make(map[cluster.VNI]cluster.Pair, len(w.tunnelVNIs()))
		for vni, p := range w.tunnelVNIs() {
			mark(w.used, vni, p)
		}
		for vni, name := range w.ofVPC {
			mark(w.used, vni, cluster.Pair{VPC: name})
		}
		for _, v := range w.vpcs {
			if v.active() {
				mark(w.used, v.net.Value.VNI, cluster.Pair{VPC: v.name})
			}
			for _, l := range v.links {
				for _, it := range l.ends {
					if it.Value != nil {
						mark(w.used, it.Value.VNI, l.pair)
					}
				}
			}
		}
	}
	return func(vni cluster.VNI) bool {
		p, ok := w.used[vni]
		return ok && p != by
	}
}
