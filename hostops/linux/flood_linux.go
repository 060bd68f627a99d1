package linux

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// Names of what bounds a VPC's flooding, before its VNI: a chain, the MACs that were
// heard from behind tunnels, and what each tunnel has left.
const (
	chainFlood = "flood-"
	setHeard   = "heard-"
	setFlooded = "flooded-"
)

const (
	// heardFor is how long a MAC counts as known: as long as a bridge remembers it.
	heardFor = 300 * time.Second
	// mostTunnels is how many tunnels of a VPC have a budget of their own; of more
	// none is bounded.
	mostTunnels = 1 << 16
	// heardAtOnce is how many MACs a transaction takes.
	heardAtOnce = 1000
)

func heardSet(v cluster.VNI) *nftables.Set {
	return &nftables.Set{
		Table: bridgeTable(), Name: fmt.Sprint(setHeard, v), KeyType: nftables.TypeEtherAddr,
		HasTimeout: true, Timeout: heardFor, Dynamic: true, Size: hostops.MaxLearnedBridge,
	}
}

func floodedSet(v cluster.VNI) *nftables.Set {
	return &nftables.Set{Table: bridgeTable(), Name: fmt.Sprint(setFlooded, v), KeyType: nftables.TypeIFName, Dynamic: true, Size: mostTunnels}
}

func floodText(b hostops.Budget) string {
	return fmt.Sprintf("meshvpc flood %d told %v", b.Rate, b.Told)
}

// floodRules bound what goes from the VPC's ports into its tunnels. A frame that floods
// looks like any other here, but for those for groups and for all: so what is for a MAC
// that was heard from behind a tunnel lately passes, as its bridge knows it too. A set
// that is full, of MACs or of tunnels, ends its rule.
func floodRules(v cluster.VNI, b hostops.Budget) [][]expr.Any {
	group := u32(hostops.GroupOf(v))
	is := func(key expr.MetaKey, op expr.CmpOp, want []byte) []expr.Any {
		return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: want}}
	}
	mac := func(offset uint32) []expr.Any {
		return []expr.Any{&expr.Payload{Base: expr.PayloadBaseLLHeader, Offset: offset, Len: 6, DestRegister: 1}}
	}
	toOne := []expr.Any{
		&expr.Payload{Base: expr.PayloadBaseLLHeader, Offset: 0, Len: 1, DestRegister: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{1}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0}},
	}
	var rules [][]expr.Any
	var known []expr.Any
	if !b.Told {
		for _, tunnel := range tunnelNames() {
			rules = append(rules, join(is(expr.MetaKeyIIFGROUP, expr.CmpOpEq, group), is(expr.MetaKeyIIFNAME, expr.CmpOpEq, []byte(tunnel)), mac(6),
				[]expr.Any{&expr.Dynset{SrcRegKey: 1, SetName: heardSet(v).Name, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: heardFor}}))
		}
		known = join(mac(0), []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: heardSet(v).Name}})
	}
	limit := &expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(b.Rate), Unit: expr.LimitTimeSecond, Burst: uint32(b.Burst()), Over: true}
	rules = append(rules, join(is(expr.MetaKeyOIFGROUP, expr.CmpOpNeq, group), accept()), join(toOne, known, accept()))
	for _, tunnel := range tunnelNames() {
		rules = append(rules, join(is(expr.MetaKeyOIFNAME, expr.CmpOpEq, []byte(tunnel)), []expr.Any{
			&expr.Dynset{SrcRegKey: 1, SetName: floodedSet(v).Name, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{limit}},
		}, drop()))
	}
	return rules
}

// tunnelNames are what the names of a VPC's tunnels begin with, of its own ports only
// those: shared ones and those of pairs.
func tunnelNames() []string { return []string{"mv", "mp"} }

// limitFlood puts a budget in force; heard are the MACs that the VPC's bridge knows
// behind tunnels already.
func (f *filter) limitFlood(v cluster.VNI, b hostops.Budget, heard []cluster.MAC) error {
	if f.state.NoShields || f.state.NoBudgets {
		return fmt.Errorf("%w: this kernel cannot bound what a bridge floods", hostops.ErrUnsupported)
	}
	t := bridgeTable()
	f.cc.AddTable(t)
	f.delFlood(v)
	if err := errors.Join(f.cc.AddSet(heardSet(v), nil), f.cc.AddSet(floodedSet(v), nil)); err != nil {
		return err
	}
	for some := range slices.Chunk(heard, heardAtOnce) { // before the chain asks for them
		if err := errors.Join(f.change(heardSet(v), macElements(some), true), f.flushBudgets()); err != nil {
			return err
		}
	}
	c := f.cc.AddChain(&nftables.Chain{
		Name: fmt.Sprint(chainFlood, v), Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	for _, exprs := range floodRules(v, b) {
		f.cc.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: exprs, UserData: comment(floodText(b))})
	}
	if err := f.flushBudgets(); err != nil {
		return err
	}
	if f.state.Budgets == nil {
		f.state.Budgets = map[cluster.VNI]hostops.Budget{}
	}
	f.state.Budgets[v], f.state.Exists = b, true
	for _, name := range floodParts(v) {
		f.floods[name] = true
	}
	return nil
}

// flushBudgets is flush; what the kernel does not know it cannot do.
func (f *filter) flushBudgets() error {
	err := f.flush()
	if unsupported(err) || errors.Is(err, unix.ENOENT) {
		f.state.NoBudgets = true
		return fmt.Errorf("%w: this kernel cannot bound what a bridge floods: %w", hostops.ErrUnsupported, err)
	}
	return err
}

func macElements(macs []cluster.MAC) (es []nftables.SetElement) {
	for _, m := range macs {
		es = append(es, nftables.SetElement{Key: m[:]})
	}
	return es
}

// floodParts are the names of all that a budget is made of, what uses others first.
func floodParts(v cluster.VNI) [3]string {
	return [3]string{fmt.Sprint(chainFlood, v), fmt.Sprint(setHeard, v), fmt.Sprint(setFlooded, v)}
}

// delFlood adds to the transaction that what there is of a budget goes.
func (f *filter) delFlood(v cluster.VNI) {
	parts := floodParts(v)
	if f.floods[parts[0]] {
		c := &nftables.Chain{Table: bridgeTable(), Name: parts[0]}
		f.cc.FlushChain(c)
		f.cc.DelChain(c)
	}
	for _, s := range []*nftables.Set{heardSet(v), floodedSet(v)} {
		if f.floods[s.Name] {
			f.cc.DelSet(s)
		}
	}
}

// unlimitFlood takes a budget back.
func (f *filter) unlimitFlood(v cluster.VNI) error {
	f.delFlood(v)
	if err := f.flush(); err != nil {
		return err
	}
	delete(f.state.Budgets, v)
	for _, name := range floodParts(v) {
		delete(f.floods, name)
	}
	return nil
}

// heardOf lists the MACs that a bridge has learned behind its VPC's tunnels.
func (d *Driver) heardOf(vpc string) (macs []cluster.MAC, err error) {
	bridge := d.devices.byName(vpc)
	if bridge == nil {
		return nil, nil
	}
	msgs, err := d.conn.list(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, nl.NewIfInfomsg(unix.AF_BRIDGE), attr(unix.IFLA_MASTER, u32(uint32(bridge.index))))
	if err != nil {
		return nil, wrap("list FDB of "+vpc, err)
	}
	for _, m := range msgs {
		index, e, ok := parseNeigh(m)
		port := d.devices[index]
		if ok && !e.self && !e.permanent && port != nil && hostops.Kind(port.kind) == hostops.KindTunnel && port.master == bridge.index {
			macs = append(macs, e.mac)
		}
	}
	return macs[:min(len(macs), hostops.MaxLearnedBridge)], nil
}

// limitFlood performs hostops.LimitFlood.
func (d *Driver) limitFlood(op hostops.LimitFlood) error {
	heard, err := d.heardOf(op.VPC)
	if err != nil {
		return err
	}
	return d.filter.limitFlood(op.VNI, op.Budget, heard)
}
