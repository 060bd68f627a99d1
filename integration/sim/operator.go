package sim

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// operator is who wants things, and what he wants by now: his records as he
// last wrote them.
type operator struct {
	w       *World
	store   *store.Store
	wishes  map[string]cluster.Record
	names   int // of nodes that there ever were
	resting bool
}

const (
	mostNodes = 6
	mostVPCs  = 3
)

// put writes a record whatever is there, and remembers it.
func (o *operator) put(key string, r cluster.Record) {
	o.wishes[key] = r
	var c store.Change
	store.Set(&c, key, r, nil, 0)
	if _, err := o.store.Commit(o.w.ctx, c); err != nil {
		o.w.fail("operator writes %s: %v", key, err)
	}
	o.w.written()
}

// act wants something new from time to time.
func (o *operator) act() {
	if o.resting {
		return
	}
	defer o.w.in(o.w.upTo(8*time.Second), o.act)
	if o.w.down {
		return
	}
	what := o.w.rand.IntN(10)
	if o.w.cfg.Gentle {
		what = pick(o.w, []int{0, 3, 3, 3, 6, 8})
	}
	switch what {
	case 0, 1, 2:
		o.createVPC()
	case 3, 4:
		o.changeVPC()
	case 5:
		o.deleteVPC()
	case 6:
		if len(o.nodes()) < mostNodes {
			o.addNode()
		}
	case 7:
		o.removeNode()
	default:
		o.relabel()
	}
}

func (o *operator) addNode() {
	o.names++
	n := o.w.newNode(fmt.Sprintf("n%d", o.names))
	o.w.nodes = append(o.w.nodes, n)
	o.w.trace("node %s joins", n.name)
	o.put(cluster.KeyNode(n.name), &cluster.Node{ID: n.id, Datacenter: o.datacenter(), State: cluster.NodeActive, Agent: true})
	n.start()
}

func (o *operator) datacenter() string { return pick(o.w, []string{"dc1", "dc2"}) }

// nodes are those that did not leave.
func (o *operator) nodes() []*node {
	return slices.DeleteFunc(slices.Clone(o.w.nodes), func(n *node) bool {
		return o.wishes[cluster.KeyNode(n.name)].(*cluster.Node).State == cluster.NodeLeft
	})
}

func (o *operator) changeNode(f func(*cluster.Node)) {
	if ns := o.nodes(); len(ns) > 0 {
		key := cluster.KeyNode(pick(o.w, ns).name)
		r := *o.wishes[key].(*cluster.Node)
		f(&r)
		o.w.trace("node %s: %s in %s", key, r.State, r.Datacenter)
		o.put(key, &r)
	}
}

func (o *operator) removeNode() {
	if len(o.nodes()) > 2 {
		o.changeNode(func(r *cluster.Node) { r.State = cluster.NodeLeft })
	}
}

func (o *operator) relabel() { o.changeNode(func(r *cluster.Node) { r.Datacenter = o.datacenter() }) }

// vpcs are the names of VPCs that he wants.
func (o *operator) vpcs() []string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(o.wishes)) {
		if s, ok := o.wishes[key].(*cluster.VPCSpec); ok && s.State == cluster.VPCActive {
			k, _ := cluster.ParseKey(key)
			list = append(list, k.VPC)
		}
	}
	return list
}

func (o *operator) createVPC() {
	name := fmt.Sprintf("vpc%d", 1+o.w.rand.IntN(mostVPCs))
	key := cluster.KeyVPCSpec(name)
	if slices.Contains(o.vpcs(), name) {
		return
	}
	if _, err := store.Get[*cluster.VPCSpec](o.w.ctx, o.store, key); !errors.Is(err, store.ErrNotFound) {
		return // still being deleted
	}
	s := &cluster.VPCSpec{State: cluster.VPCActive, Members: o.selector(), PeerNetwork: netip.MustParsePrefix("10.100.0.0/28"), Created: cluster.At(o.w.time())}
	if o.w.chance(0.3) {
		s.Transport = cluster.P2P
	}
	if o.w.chance(0.2) {
		s.VNI = cluster.VNI(100 + o.w.rand.IntN(31))
	}
	o.w.trace("VPC %s is wanted: %+v", name, *s)
	o.put(key, s)
}

func (o *operator) selector() cluster.Selector {
	if o.w.cfg.Gentle {
		return cluster.SelectAll
	}
	switch o.w.rand.IntN(4) {
	case 0:
		return cluster.Selector("dc=" + o.datacenter())
	case 1:
		var names []string
		for _, n := range o.nodes() {
			if o.w.chance(0.6) {
				names = append(names, n.name)
			}
		}
		if len(names) > 0 {
			return cluster.Selector(strings.Join(names, ","))
		}
	}
	return cluster.SelectAll
}

func (o *operator) changeVPC() {
	vs := o.vpcs()
	if len(vs) == 0 {
		return
	}
	key := cluster.KeyVPCSpec(pick(o.w, vs))
	r := *o.wishes[key].(*cluster.VPCSpec)
	what := o.w.rand.IntN(4)
	if o.w.cfg.Gentle {
		what = o.w.rand.IntN(2)
	}
	switch what {
	case 0:
		r.MTU = 1280 + o.w.rand.IntN(150)
	case 1:
		r.Transport = pick(o.w, []cluster.Transport{cluster.Auto, cluster.P2P})
	default:
		r.Members = o.selector()
	}
	o.w.trace("%s: members %s, MTU %d, transport %s", key, r.Members, r.MTU, r.Transport)
	o.put(key, &r)
}

func (o *operator) deleteVPC() {
	vs := o.vpcs()
	if len(vs) == 0 {
		return
	}
	name := pick(o.w, vs)
	o.w.trace("VPC %s is not wanted any more", name)
	o.delete(name)
}

func (o *operator) delete(name string) {
	r := *o.wishes[cluster.KeyVPCSpec(name)].(*cluster.VPCSpec)
	r.State, r.Force = cluster.VPCDeleting, o.w.chance(0.3)
	o.put(cluster.KeyVPCSpec(name), &r)
}

// putBack writes again what somebody lost: his records as they should be, and
// the word to go for VPCs that hosts still have.
func (o *operator) putBack() {
	for _, key := range slices.Sorted(maps.Keys(o.wishes)) {
		wish := o.wishes[key]
		resp, err := o.w.kv.Range(o.w.ctx, mvcc.RangeRequest{Key: key})
		if err != nil {
			o.w.fail("operator reads %s: %v", key, err)
			return
		}
		if s, ok := wish.(*cluster.VPCSpec); ok && s.State == cluster.VPCDeleting && len(resp.Keys) == 0 {
			k, _ := cluster.ParseKey(key)
			if o.w.someHas(k.VPC) {
				o.w.trace("VPC %s is there still, and is not wanted", k.VPC)
				o.put(key, s)
			}
			continue
		}
		if len(resp.Keys) == 1 {
			if r, err := cluster.Decode(key, resp.Keys[0].Value); err == nil && reflect.DeepEqual(r, wish) {
				continue
			}
		}
		o.w.trace("%s is put back", key)
		o.put(key, wish)
	}
}
