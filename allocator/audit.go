package allocator

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// Finding is one thing that is not as it should be with what is allocated.
type Finding struct {
	VPC    string `json:"vpc,omitempty"`
	Holder string `json:"holder,omitempty"` // an endpoint, a node, a VPC or a pair
	Value  string `json:"value,omitempty"`  // an address, a MAC or a VNI
	What   string `json:"what"`
	Do     string `json:"do"`
	// ByHand: the controller does not mend it by itself.
	ByHand bool `json:"by_hand"`
}

// What the controller does of itself, as soon as it sees it.
const (
	doRelease = "the controller gives it back"
	doRebuild = "the controller writes it again"
	doChoose  = "the controller gives another to the one whose reverse key it is not, unless its spec fixes it"
)

// audit is a look at all that is allocated.
type audit struct {
	v     *store.View
	had   map[string]string // who has a value, by its reverse key
	found []Finding
}

// Audit compares what endpoints, members, VPCs and links have with the reverse keys,
// by all records of v: vpcs/, alloc/, hosts/ and nodes/, and the leader's. While the
// controller is at work it may find what is about to be right.
func Audit(v *store.View) []Finding {
	a := &audit{v: v, had: map[string]string{}}
	for it := range store.Below[cluster.Record](v, cluster.PrefixVPCs) {
		k, err := cluster.ParseKey(it.Key)
		if err != nil {
			continue
		}
		switch r := it.Value.(type) {
		case *cluster.EndpointSpec:
			a.wants(k)
		case *cluster.EndpointOwn:
			a.owns(k, r)
		case *cluster.Member:
			a.has(k.VPC, k.Node, cluster.KeyAllocVTEP(k.VPC, r.VTEP))
		case *cluster.VPCNet:
			if r.VNI != 0 {
				a.has(k.VPC, k.VPC, cluster.KeyAllocVNI(r.VNI))
			}
		}
	}
	for it := range store.Below[*cluster.HostLink](v, cluster.PrefixHosts) {
		if k, err := cluster.ParseKey(it.Key); err == nil {
			a.has(k.VPC, cluster.PairOf(k.VPC, k.Node, k.Name).String(), cluster.KeyAllocVNI(it.Value.VNI))
		}
	}
	for it := range store.Below[*cluster.Allocation](v, cluster.PrefixAlloc) {
		a.held(it)
	}
	for _, p := range v.Problems() {
		a.add(Finding{Value: valueIn(p.Key), What: fmt.Sprintf("the record %s cannot be read: %v", cluster.Short(p.Key), p.Err), Do: "see it by \"meshvpc get " + cluster.Short(p.Key) + "\"", ByHand: true})
	}
	if !v.Has(cluster.KeyLeader) {
		a.add(Finding{What: "no controller leads: nothing is given out, and what was given back does not become free", Do: "start a \"meshvpc server\"", ByHand: true})
	}
	return a.found
}

func (a *audit) add(f Finding) { a.found = append(a.found, f) }

// wants looks at an endpoint that has nothing yet.
func (a *audit) wants(k cluster.Key) {
	if !a.v.Has(cluster.KeyEndpointOwn(k.VPC, k.Name)) {
		a.add(Finding{VPC: k.VPC, Holder: k.Name, What: "no controller has taken it up yet", Do: "the controller does that"})
	}
}

// owns looks at what an endpoint has.
func (a *audit) owns(k cluster.Key, own *cluster.EndpointOwn) {
	by := func(what, do string) {
		a.add(Finding{VPC: k.VPC, Holder: k.Name, What: what, Do: do, ByHand: true})
	}
	switch {
	case !a.v.Has(cluster.KeyEndpointSpec(k.VPC, k.Name)):
		by("its spec is gone: it keeps what it has", "\"meshvpc endpoint delete "+k.Name+" --vpc "+k.VPC+"\", or make it again")
	case own.Reason != "":
		by(string(own.State)+": "+own.Reason, "\"meshvpc endpoint show "+k.Name+" --vpc "+k.VPC+"\"")
	}
	of, ok := store.At[*cluster.VPCSpec](a.v, cluster.KeyVPCSpec(k.VPC))
	for _, ip := range own.IPs {
		a.has(k.VPC, k.Name, cluster.KeyAllocIP(k.VPC, ip))
		if ok && !isOf(of.Value, ip) {
			a.add(Finding{VPC: k.VPC, Holder: k.Name, Value: ip.String(), What: "it is not of the VPC's network", Do: "the controller gives another, unless its spec fixes it"})
		}
	}
	if own.MAC.Unicast() {
		a.has(k.VPC, k.Name, cluster.KeyAllocMAC(k.VPC, own.MAC))
	}
}

// has looks at a value that holder has in force.
func (a *audit) has(vpc, holder, key string) {
	f := Finding{VPC: vpc, Holder: holder, Value: valueIn(key)}
	if other, twice := a.had[key]; twice && other != holder {
		f.What, f.Do = fmt.Sprintf("%s has it, too", other), doChoose
		a.add(f)
		return
	}
	a.had[key] = holder
	switch it, ok := store.At[*cluster.Allocation](a.v, key); {
	case !ok && a.v.Has(key): // see Problems
	case !ok:
		f.What, f.Do = "no reverse key says that it is taken: another could get it", doRebuild
		a.add(f)
	case it.Value.Holder != holder:
		f.What, f.Do = fmt.Sprintf("its reverse key says that %s holds it", it.Value.Holder), doChoose
		a.add(f)
	case it.Value.Released:
		f.What, f.Do = "its reverse key says that it was given back", doRebuild
		a.add(f)
	}
}

// held looks at a reverse key of what nobody has.
func (a *audit) held(it store.Item[*cluster.Allocation]) {
	k, err := cluster.ParseKey(it.Key)
	if err != nil || it.Value.Released || a.had[it.Key] != "" {
		return
	}
	if k.Kind == cluster.KindAllocVTEP {
		n, ok := store.At[*cluster.Node](a.v, cluster.KeyNode(it.Value.Holder))
		if ok && n.Value.State != cluster.NodeLeft || a.v.Has(cluster.KeyHostVPC(it.Value.Holder, k.VPC)) {
			return // kept for it
		}
	}
	a.add(Finding{VPC: k.VPC, Holder: it.Value.Holder, Value: valueIn(it.Key), What: "its reverse key says that it is taken, and nobody has it", Do: doRelease})
}

// valueIn is the value that a reverse key is of.
func valueIn(key string) string {
	if vni, ok := vniOf(key); ok && strings.HasPrefix(key, cluster.PrefixVNIs) {
		return fmt.Sprint(vni)
	}
	return key[strings.LastIndexByte(key, '/')+1:]
}

func isOf(spec *cluster.VPCSpec, ip netip.Addr) bool {
	_, ok := spec.Network.Of(ip)
	return ok
}
