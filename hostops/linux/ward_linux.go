package linux

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// ward begins the names of chains of the bridge family, one for each port that has
// something for itself alone.
const (
	ward     = "ward-"
	wardText = "meshvpc ward "
)

// metaOIFKind and metaIIFKind are NFT_META_OIFKIND and NFT_META_IIFKIND (kernel 5.6),
// what kind of device a frame goes out by, or came in by.
const (
	metaIIFKind expr.MetaKey = 26
	metaOIFKind expr.MetaKey = 27
)

// setWard replaces the ward of a port.
func (f *filter) setWard(device string, w hostops.Ward) error {
	t := bridgeTable()
	f.cc.AddTable(t)
	if f.wards[device] {
		f.delWard(device)
	}
	c := f.cc.AddChain(&nftables.Chain{
		Name: ward + device, Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	for _, exprs := range wardRules(device, w) {
		f.cc.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: exprs, UserData: comment(wardText + w.String())})
	}
	if err := f.flush(); err != nil {
		if unsupported(err) {
			f.state.NoShields = true
			return fmt.Errorf("%w: %w", hostops.ErrUnsupported, err)
		}
		return err
	}
	if f.wards == nil {
		f.wards = map[string]bool{}
	}
	if f.state.Wards == nil {
		f.state.Wards = map[string]hostops.Ward{}
	}
	f.wards[device], f.state.Wards[device], f.state.Exists = true, w, true
	return nil
}

// removeWard removes the ward of a port.
func (f *filter) removeWard(device string) error {
	if !f.wards[device] {
		return nil
	}
	f.delWard(device)
	if err := f.flush(); err != nil {
		return err
	}
	delete(f.wards, device)
	delete(f.state.Wards, device)
	return nil
}

func (f *filter) delWard(device string) {
	c := &nftables.Chain{Table: bridgeTable(), Name: ward + device}
	f.cc.FlushChain(c)
	f.cc.DelChain(c)
}

// readWard reads one chain. One that is not as setWard makes it is no ward.
func (f *filter) readWard(s *hostops.Filter, c *nftables.Chain) error {
	device := strings.TrimPrefix(c.Name, ward)
	f.wards[device] = true
	f.requests.Add(1)
	rs, err := f.cc.GetRules(bridgeTable(), c)
	if err != nil || len(rs) == 0 || c.Hooknum == nil {
		return err
	}
	text := commentOf(rs[0])
	w, ok := hostops.ParseWard(strings.TrimPrefix(text, wardText))
	same := func(r *nftables.Rule, want []expr.Any) bool { return commentOf(r) == text && len(r.Exprs) == len(want) }
	if ok && strings.HasPrefix(text, wardText) && slices.EqualFunc(rs, wardRules(device, w), same) {
		s.Wards[device] = w
	}
	return nil
}

// wardRules judge what bridges forward between two ports, of which one is of the VPC:
// of two ports that are not ours nobody can tell the bridge on every kernel. What
// speaks as the port is counted.
func wardRules(device string, w hostops.Ward) [][]expr.Any {
	elsewhere := name(expr.MetaKeyIIFNAME, device, expr.CmpOpNeq)
	out := join(group(expr.MetaKeyOIFGROUP, w.VNI, expr.CmpOpEq), tunnel(metaOIFKind))
	in := join(group(expr.MetaKeyIIFGROUP, w.VNI, expr.CmpOpEq), tunnel(metaIIFKind))
	rules := [][]expr.Any{
		join(anyGroup(expr.MetaKeyOIFGROUP, w.VNI), anyGroup(expr.MetaKeyIIFGROUP, w.VNI), accept()),
		join(elsewhere, equal(expr.PayloadBaseLLHeader, 6, w.MAC[:]), drop()),
		join(out, equal(expr.PayloadBaseLLHeader, 0, w.MAC[:]), off()),
	}
	if w.Local {
		rules = append(rules, join(name(expr.MetaKeyIIFNAME, device, expr.CmpOpEq), out, off()))
	}
	for _, a := range w.Addresses {
		says, asks := sayings(a)
		for _, what := range says {
			rules = append(rules, join(elsewhere, what, drop()), join(out, what, off()))
		}
		rules = append(rules, join(out, asks, off()), join(in, asks, off()))
	}
	return rules
}

// off is drop of what need not be counted.
func off() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

// sayings are what only the holder of an address sends, and how others ask for it.
func sayings(a netip.Addr) (says [][]expr.Any, asks []expr.Any) {
	raw := a.AsSlice()
	if a.Is4() {
		arp := ether(unix.ETH_P_ARP)
		return [][]expr.Any{
			join(arp, equal(expr.PayloadBaseNetworkHeader, 14, raw)), // the sender's address
			join(ether(unix.ETH_P_IP), equal(expr.PayloadBaseNetworkHeader, 12, raw)),
		}, join(arp, equal(expr.PayloadBaseNetworkHeader, 24, raw))
	}
	const solicitation, advertisement = 135, 136
	ip := ether(unix.ETH_P_IPV6)
	return [][]expr.Any{
		join(ip, equal(expr.PayloadBaseNetworkHeader, 8, raw)),
		join(ip, icmp6(advertisement, advertisement), equal(expr.PayloadBaseTransportHeader, 8, raw)),
	}, join(ip, icmp6(solicitation, solicitation), equal(expr.PayloadBaseTransportHeader, 8, raw))
}

// name compares the name of a port.
func name(key expr.MetaKey, device string, op expr.CmpOp) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: ifName(device)}}
}

func ifName(s string) []byte { return append([]byte(s), make([]byte, ifNameSize-len(s))...) }

// group compares the link group of a port with that of a VPC's own.
func group(key expr.MetaKey, v cluster.VNI, op expr.CmpOp) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: u32(hostops.GroupOf(v))}}
}

// anyGroup is that a port has none of the VPC's link groups, of whatever use.
func anyGroup(key expr.MetaKey, v cluster.VNI) []expr.Any {
	const uses = 0xfcffffff
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: u32(uses), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: u32(hostops.GroupOf(v) & uses)},
	}
}

// tunnel is that a port is a tunnel.
func tunnel(key expr.MetaKey) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ifName("vxlan")}}
}
