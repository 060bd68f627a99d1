package linux

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// readShields reads the chains of the bridge family.
func (f *filter) readShields(s *hostops.Filter) error {
	t := bridgeTable()
	f.reserved, f.guards, f.pieces, f.sets = false, false, nil, nil
	f.floods, f.wards = map[string]bool{}, map[string]bool{}
	f.gates = false
	chains, there, err := f.chainsOf(t)
	if !there && unsupported(err) {
		s.NoShields = true
		return nil
	}
	if err != nil || !there {
		return err
	}
	s.Exists = true
	for _, c := range chains {
		if strings.HasPrefix(c.Name, ward) {
			if err := f.readWard(s, c); err != nil {
				return err
			}
			continue
		}
		n, err := strconv.ParseUint(strings.TrimPrefix(c.Name, shield), 10, 24)
		if err != nil && c.Name != reserved {
			continue
		}
		f.requests.Add(1)
		rs, err := f.cc.GetRules(t, c)
		if err != nil {
			return err
		}
		if c.Name == reserved {
			f.reserved = c.Hooknum != nil && isRule(rs, reservedText, reservedRule())
			continue
		}
		s.Shields[cluster.VNI(n)] = networkOf(rs)
	}
	if err := f.readBudgets(s, chains); err != nil {
		return err
	}
	return errors.Join(f.readGate(s, chains), f.readGuard(s, chains))
}

// networkOf tells which network rs shield; the zero value: none.
func networkOf(rs []*nftables.Rule) netip.Prefix {
	if len(rs) == 0 {
		return netip.Prefix{}
	}
	text := commentOf(rs[0])
	p, err := netip.ParsePrefix(text[strings.LastIndexByte(text, ' ')+1:])
	if err != nil || len(rs) != len(shieldRules(0, p)) {
		return netip.Prefix{}
	}
	for _, r := range rs {
		if commentOf(r) != text {
			return netip.Prefix{}
		}
	}
	return p
}

func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// setShield replaces the shield of a VNI.
func (f *filter) setShield(v cluster.VNI, network netip.Prefix) error {
	t := bridgeTable()
	f.cc.AddTable(t)
	if _, there := f.state.Shields[v]; there {
		f.delShield(v)
	}
	c := f.cc.AddChain(&nftables.Chain{
		Name: fmt.Sprint(shield, v), Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	for _, exprs := range shieldRules(v, network) {
		f.cc.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: exprs, UserData: comment("meshvpc shield " + network.String())})
	}
	if err := f.flush(); err != nil {
		if unsupported(err) {
			f.state.NoShields = true
			return fmt.Errorf("%w: %w", hostops.ErrUnsupported, err)
		}
		return err
	}
	if f.state.Shields == nil {
		f.state.Shields = map[cluster.VNI]netip.Prefix{}
	}
	f.state.Shields[v] = network
	f.state.Exists = true
	return nil
}

func (f *filter) delShield(v cluster.VNI) {
	t := bridgeTable()
	c := &nftables.Chain{Table: t, Name: fmt.Sprint(shield, v)}
	f.cc.FlushChain(c)
	f.cc.DelChain(c)
}

// unshield removes the shield of a VNI.
func (f *filter) unshield(v cluster.VNI) error {
	if _, there := f.state.Shields[v]; !there {
		return nil
	}
	f.delShield(v)
	if err := f.flush(); err != nil {
		return err
	}
	delete(f.state.Shields, v)
	return nil
}

// shieldRules drop what a local port sends to our ports as if it were a VTEP.
// Our ports are those in the VPC's link group.
func shieldRules(v cluster.VNI, network netip.Prefix) [][]expr.Any {
	group := u32(hostops.GroupOf(v))
	from := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFGROUP, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: group},
		&expr.Meta{Key: expr.MetaKeyIIFGROUP, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: group},
	}
	drop := []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
	masked := func(base expr.PayloadBase, offset uint32, want, mask []byte) []expr.Any {
		n := uint32(len(want))
		return []expr.Any{
			&expr.Payload{Base: base, Offset: offset, Len: n, DestRegister: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: n, Mask: mask, Xor: make([]byte, n)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want},
		}
	}
	protocol := func(p uint16) []expr.Any {
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: u16be(p)},
		}
	}
	byteAt := func(offset uint32, want byte) []expr.Any {
		return []expr.Any{
			&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 1, DestRegister: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{want}},
		}
	}
	net, bits := network.Addr().AsSlice(), network.Bits()
	mask := prefixMask(bits, len(net))
	mac, macMask := reservedMACs(network)
	out := [][]expr.Any{slices.Concat(from, masked(expr.PayloadBaseLLHeader, 6, mac, macMask), drop)}
	in := func(offset uint32) []expr.Any { return masked(expr.PayloadBaseNetworkHeader, offset, net, mask) }
	if network.Addr().Is4() {
		return append(out,
			slices.Concat(from, protocol(unix.ETH_P_ARP), in(14), drop), // the sender's address
			slices.Concat(from, protocol(unix.ETH_P_IP), in(12), drop))
	}
	const neighbourAdvertisement = 136
	return append(out,
		slices.Concat(from, protocol(unix.ETH_P_IPV6), in(8), drop),
		slices.Concat(from, protocol(unix.ETH_P_IPV6), byteAt(6, unix.IPPROTO_ICMPV6), byteAt(40, neighbourAdvertisement), in(48), drop))
}

// prefixMask is bits ones in n bytes.
func prefixMask(bits, n int) []byte {
	m := make([]byte, n)
	for i := range bits {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

// reservedMACs are those of hostops.VTEPMAC for a network. Of an IPv6 network
// that leaves all four bytes to hosts, those with two zeros are reserved: kernels
// give random MACs to devices, and two bytes alone would meet one in 16,384.
func reservedMACs(network netip.Prefix) (mac, mask []byte) {
	m := hostops.VTEPMAC(network.Masked().Addr())
	bits := network.Bits()
	if network.Addr().Is6() {
		if bits -= 96; bits < 16 {
			bits = 16
			m[2], m[3] = 0, 0
		}
	}
	mask = append([]byte{255, 255}, prefixMask(bits, 4)...)
	for i := range m {
		m[i] &= mask[i]
	}
	return m[:], mask
}
