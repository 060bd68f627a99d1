package linux

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const guardText = "meshvpc guard "

// Chains of the bridge family that judge what workloads' ports send.
const (
	chainGuard   = "guard"    // every frame that comes in by a bridge's port
	chainGuardIn = "guard-in" // those for the bridge itself
	chainJudge   = "judge"    // of bound ports
	chainJudge4  = "judge-4"
	chainJudge6  = "judge-6"
	chainJudgeNA = "judge-na"
)

// guardChain is one of them; hook is nil for one that is jumped to.
type guardChain struct {
	name  string
	hook  *nftables.ChainHook
	rules []rule
}

// is reports whether rs are its rules.
func (c guardChain) is(rs []*nftables.Rule) bool {
	if len(rs) != len(c.rules) {
		return false
	}
	for i, r := range c.rules {
		if commentOf(rs[i]) != guardText+r.text || len(rs[i].Exprs) != len(r.exprs) {
			return false
		}
	}
	return true
}

// Registers of four bytes; a port's name fills the first four.
const (
	regPort = unix.NFT_REG32_00
	regRest = unix.NFT_REG32_04
)

// guardChains are in the order of who jumps to whom. Bridges learn a frame's source
// after them. What cannot be read, as it is cut short, lets a rule not match: so
// each chain but the first accepts what is right, and drops the rest.
//
// A VLAN's tag is where the protocol is looked for, so that a tagged frame is one
// of another protocol. In IPv6 the protocol is that behind all extension headers;
// one that ends in a later fragment, which receivers ignore (RFC 6980), is not seen.
func guardChains() []guardChain { return append(judgeChains(), dropChains()...) }

func judgeChains() []guardChain {
	const ra, redirect, na, ns = 134, 137, 136, 135
	return []guardChain{
		{chainGuard, nftables.ChainHookPrerouting, []rule{
			{"ports", join(port(setPorts, true), jump(chainJudge))},
		}},
		// What goes there a bridge takes, and learns of, without the chain before.
		{chainGuardIn, nftables.ChainHookInput, []rule{
			{"other", join(equal(expr.PayloadBaseLLHeader, 0, []byte{0x01, 0x80, 0xc2, 0, 0, 2}), port(setPorts, true), dropFor("other"))},
		}},
		{chainJudge, nil, []rule{
			{"mac", join(of(expr.PayloadBaseLLHeader, 6, 6, setMACs, false), dropFor("mac"))},
			{"", join(ether(unix.ETH_P_IP), known(), jump(chainJudge4))},
			{"", join(ether(unix.ETH_P_IPV6), known(), jump(chainJudge6))},
			{"no IPv4", join(ether(unix.ETH_P_ARP), asARP(), equal(expr.PayloadBaseNetworkHeader, 14, []byte{0, 0, 0, 0}), accept())},
			{"free", join(ether(unix.ETH_P_ARP), asARP(), port(setHeld, false), accept())},
			{"own", join(ether(unix.ETH_P_ARP), asARP(), of(expr.PayloadBaseNetworkHeader, 14, 4, setIPs4, true), accept())},
			{"arp", join(ether(unix.ETH_P_ARP), dropFor("arp"))},
			{"ipv4", join(ether(unix.ETH_P_IP), dropFor("ipv4"))},
			{"ipv6", join(ether(unix.ETH_P_IPV6), dropFor("ipv6"))},
			{"other", dropFor("other")},
		}},
		{chainJudge4, nil, []rule{
			{"dhcp", join(l4(unix.IPPROTO_UDP), equal(expr.PayloadBaseTransportHeader, 0, u16be(67)), dropFor("dhcp"))},
			{"free", join(port(setHeld, false), accept())},
			{"own", join(of(expr.PayloadBaseNetworkHeader, 12, 4, setIPs4, true), accept())},
			{"client", join(equal(expr.PayloadBaseNetworkHeader, 12, []byte{0, 0, 0, 0}), l4(unix.IPPROTO_UDP),
				equal(expr.PayloadBaseTransportHeader, 0, append(u16be(68), u16be(67)...)), accept())},
			{"ipv4", dropFor("ipv4")},
		}},
		{chainJudge6, nil, []rule{
			{"ra", join(icmp6(ra, ra), dropFor("ra"))},
			{"ra", join(icmp6(redirect, redirect), dropFor("ra"))},
			{"dhcp", join(l4(unix.IPPROTO_UDP), equal(expr.PayloadBaseTransportHeader, 0, u16be(547)), dropFor("dhcp"))},
			{"free", join(port(setHeld, false), accept())},
			{"", join(icmp6(na, na), jump(chainJudgeNA))},
			{"own", join(of(expr.PayloadBaseNetworkHeader, 8, 16, setIPs6, true), accept())},
			{"link-local", join(linkLocal(expr.PayloadBaseNetworkHeader, 8), accept())},
			// Of a host that has no address yet: DAD, and looking for listeners and routers.
			{"start", join(unspecified6(), icmp6(ns, ns), accept())},
			{"start", join(unspecified6(), icmp6(131, 133), accept())},
			{"start", join(unspecified6(), icmp6(143, 143), accept())},
			{"ipv6", dropFor("ipv6")},
		}},
		{chainJudgeNA, nil, []rule{
			{"own", join(of(expr.PayloadBaseTransportHeader, 8, 16, setIPs6, true), back())},
			{"link-local", join(linkLocal(expr.PayloadBaseTransportHeader, 8), back())},
			{"ipv6", dropFor("ipv6")},
		}},
	}
}

func join(parts ...[]expr.Any) (out []expr.Any) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func drop() []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
}
func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
func back() []expr.Any   { return []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}} }
func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

// port is whether the port that a frame came in by is in a set.
func port(set string, in bool) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: regPort},
		&expr.Lookup{SourceRegister: regPort, SetName: set, Invert: !in},
	}
}

// of is whether the port with what is in the frame there is in a set.
func of(base expr.PayloadBase, offset, length uint32, set string, in bool) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: regPort},
		&expr.Payload{Base: base, Offset: offset, Len: length, DestRegister: regRest},
		&expr.Lookup{SourceRegister: regPort, SetName: set, Invert: !in},
	}
}

func equal(base expr.PayloadBase, offset uint32, want []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{Base: base, Offset: offset, Len: uint32(len(want)), DestRegister: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want},
	}
}

// ether is the protocol, or the tag, after the two MACs.
func ether(kind uint16) []expr.Any { return equal(expr.PayloadBaseLLHeader, 12, u16be(kind)) }

// asARP is ARP of IPv4 over Ethernet whose sender has the port's MAC.
func asARP() []expr.Any {
	return join(equal(expr.PayloadBaseNetworkHeader, 0, []byte{0, 1, 8, 0, 6, 4}), of(expr.PayloadBaseNetworkHeader, 8, 6, setMACs, true))
}

// known is that the kernel found the protocol that the packet carries: all of the
// headers before it are there, and right.
func known() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: []byte{0}},
	}
}

func l4(protocol byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
	}
}

// icmp6 is ICMPv6 of a type from first to last.
func icmp6(first, last byte) []expr.Any {
	kind := &expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1, DestRegister: 1}
	if first == last {
		return join(l4(unix.IPPROTO_ICMPV6), []expr.Any{kind, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{first}}})
	}
	return join(l4(unix.IPPROTO_ICMPV6), []expr.Any{kind,
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: []byte{first}}, &expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: []byte{last}}})
}

// linkLocal is an address of fe80::/10.
func linkLocal(base expr.PayloadBase, offset uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{Base: base, Offset: offset, Len: 4, DestRegister: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{0xff, 0xc0, 0, 0}, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0xfe, 0x80, 0, 0}},
	}
}

func unspecified6() []expr.Any { return equal(expr.PayloadBaseNetworkHeader, 8, make([]byte, 16)) }
