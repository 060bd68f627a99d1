package linux

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// Sets of the bridge family. Keys begin with a port's name.
const (
	setPorts = "ports" // that are bound
	setHeld  = "held"  // those that are bound to addresses
	setMACs  = "macs"
	setIPs4  = "ips4"
	setIPs6  = "ips6"
)

const ifNameSize = 16

func guardSets() []*nftables.Set {
	name := nftables.TypeIFName
	set := func(set string, kind nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: bridgeTable(), Name: set, KeyType: kind, Concatenation: kind.Name != name.Name}
	}
	return []*nftables.Set{
		set(setPorts, name), set(setHeld, name),
		set(setMACs, nftables.MustConcatSetType(name, nftables.TypeEtherAddr)),
		set(setIPs4, nftables.MustConcatSetType(name, nftables.TypeIPAddr)),
		set(setIPs6, nftables.MustConcatSetType(name, nftables.TypeIP6Addr)),
		dropSet(),
	}
}

// elements are those of a port, by set.
func elements(device string, b hostops.Binding) map[string][]string {
	key := func(rest []byte) string {
		k := make([]byte, ifNameSize, ifNameSize+16)
		copy(k, device)
		k = append(k, rest...)
		return string(append(k, make([]byte, -len(k)&3)...))
	}
	out := map[string][]string{setPorts: {key(nil)}, setMACs: {key(b.MAC[:])}}
	for _, a := range b.Addresses {
		set := setIPs4
		if a.Is6() {
			set = setIPs6
		}
		out[setHeld] = []string{key(nil)}
		out[set] = append(out[set], key(a.AsSlice()))
	}
	return out
}

// bind lets a port send as b only. What stays of an earlier binding is not touched.
func (f *filter) bind(device string, b hostops.Binding) error {
	if f.state.NoShields {
		return fmt.Errorf("%w: this kernel has no CONFIG_NF_TABLES_BRIDGE", hostops.ErrUnsupported)
	}
	old := map[string][]string{}
	if has, bound := f.state.Bindings[device]; bound && f.guards {
		old = elements(device, has)
	}
	if !f.guards {
		if err := f.makeGuard(); err != nil {
			return err
		}
	}
	if err := f.exchange(old, elements(device, b)); err != nil {
		return err
	}
	if err := f.flush(); err != nil {
		if unsupported(err) {
			f.state.NoShields = true
			return fmt.Errorf("%w: %w", hostops.ErrUnsupported, err)
		}
		return err
	}
	if !f.guards || f.state.Bindings == nil { // others' went with an earlier one
		f.state.Bindings = map[string]hostops.Binding{}
	}
	f.guards, f.pieces, f.sets = true, map[string]bool{}, map[string]bool{}
	for _, c := range guardChains() {
		f.pieces[c.name] = true
	}
	for _, s := range guardSets() {
		f.sets[s.Name] = true
	}
	f.state.Exists = true
	f.state.Bindings[device] = hostops.Binding{MAC: b.MAC, Addresses: slices.Clone(b.Addresses)}
	return nil
}

// unbind lets ports send what they like.
func (f *filter) unbind(devices []string) error {
	var bound []string
	for _, device := range devices {
		b, is := f.state.Bindings[device]
		if !is {
			continue
		}
		bound = append(bound, device)
		if err := f.exchange(elements(device, b), nil); err != nil {
			return err
		}
	}
	if len(bound) == 0 {
		return nil
	}
	if err := f.flush(); err != nil {
		return err
	}
	for _, device := range bound {
		delete(f.state.Bindings, device)
	}
	return nil
}

// exchange replaces elements of the sets, as far as they differ.
func (f *filter) exchange(old, now map[string][]string) error {
	for _, s := range guardSets() {
		var out, in []nftables.SetElement
		for _, k := range old[s.Name] {
			if !slices.Contains(now[s.Name], k) {
				out = append(out, nftables.SetElement{Key: []byte(k)})
			}
		}
		for _, k := range now[s.Name] {
			if !slices.Contains(old[s.Name], k) {
				in = append(in, nftables.SetElement{Key: []byte(k)})
			}
		}
		if err := errors.Join(f.change(s, out, false), f.change(s, in, true)); err != nil {
			return err
		}
	}
	return nil
}

// makeGuard adds chains and sets to the transaction, in the place of what is left of
// earlier ones.
func (f *filter) makeGuard() error {
	t := bridgeTable()
	f.cc.AddTable(t)
	chains := guardChains()
	for _, c := range chains {
		if f.pieces[c.name] {
			f.cc.FlushChain(&nftables.Chain{Table: t, Name: c.name})
		}
	}
	for _, c := range chains {
		if f.pieces[c.name] {
			f.cc.DelChain(&nftables.Chain{Table: t, Name: c.name})
		}
	}
	for _, s := range guardSets() {
		if f.sets[s.Name] {
			f.cc.DelSet(s)
		}
		if err := f.cc.AddSet(s, nil); err != nil {
			return err
		}
	}
	for _, c := range slices.Backward(chains) { // those that are jumped to first
		chain := &nftables.Chain{Table: t, Name: c.name}
		if c.hook != nil {
			chain.Type, chain.Hooknum, chain.Priority = nftables.ChainTypeFilter, c.hook, nftables.ChainPriorityFilter
		}
		f.cc.AddChain(chain)
		for _, r := range c.rules {
			f.cc.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: r.exprs, UserData: comment(guardText + r.text)})
		}
	}
	return nil
}

// readGuard reads what judges workloads' ports. Bindings count only if all is in
// place.
func (f *filter) readGuard(s *hostops.Filter, chains []*nftables.Chain) error {
	t := bridgeTable()
	f.pieces, f.sets = map[string]bool{}, map[string]bool{}
	want := guardChains()
	there := map[string]*nftables.Chain{}
	for _, c := range chains {
		there[c.Name] = c
	}
	whole := true
	for _, w := range want {
		c := there[w.name]
		f.pieces[w.name] = c != nil
		whole = whole && c != nil && (w.hook == nil) == (c.Hooknum == nil)
	}
	if len(f.pieces) == 0 || !slices.ContainsFunc(want, func(c guardChain) bool { return f.pieces[c.name] }) {
		return nil
	}
	f.requests.Add(1)
	sets, err := f.cc.GetSets(t)
	if err != nil {
		return err
	}
	for _, set := range sets {
		f.sets[set.Name] = true
	}
	for _, set := range guardSets() {
		whole = whole && f.sets[set.Name]
	}
	for _, w := range want {
		if !whole {
			return nil
		}
		f.requests.Add(1)
		rs, err := f.cc.GetRules(t, there[w.name])
		if err != nil {
			return err
		}
		whole = w.is(rs)
	}
	if !whole {
		return nil
	}
	f.guards = true
	return f.readBindings(s)
}

// readBindings reads the sets. A port of which an element is missing is not bound.
func (f *filter) readBindings(s *hostops.Filter) error {
	found := map[string]map[string]bool{}
	macs, ips := map[string]cluster.MAC{}, map[string][]netip.Addr{}
	for _, set := range guardSets() {
		f.requests.Add(1)
		elems, err := f.cc.GetSetElements(set)
		if err != nil {
			return err
		}
		found[set.Name] = map[string]bool{}
		for _, e := range elems {
			if len(e.Key) < ifNameSize {
				continue
			}
			found[set.Name][string(e.Key)] = true
			device, rest := cstr(e.Key[:ifNameSize]), e.Key[ifNameSize:]
			switch set.Name {
			case setMACs:
				macs[device] = cluster.MAC(rest[:6])
			case setIPs4, setIPs6:
				a, _ := netip.AddrFromSlice(rest)
				ips[device] = append(ips[device], a)
			}
		}
	}
	s.Bindings = map[string]hostops.Binding{}
	for device, mac := range macs {
		b := hostops.Binding{MAC: mac, Addresses: ips[device]}
		whole := true
		for set, keys := range elements(device, b) {
			for _, k := range keys {
				whole = whole && found[set][k]
			}
		}
		if whole {
			s.Bindings[device] = b
		}
	}
	return nil
}
