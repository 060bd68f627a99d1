package linux

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

// Forward is a chain of this host's packet filter that drops packets which one of
// our bridges forwards within itself, where br_netfilter hands them over.
type Forward struct {
	Chain   string   // "family table chain", as nft says it
	IPv6    bool     // of which family are the packets
	Bridges []string // sorted, not empty
}

// Forwards lists such chains, IPv4 first. A packet counts as dropped if no rule
// takes it whatever it holds; one that a rule with conditions of its own accepts
// or drops is another packet. Rules of the old iptables (iptables-legacy) do not
// show.
func Forwards() ([]Forward, error) {
	bridges, err := ownBridges()
	if err != nil || len(bridges) == 0 {
		return nil, err
	}
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	var list []Forward
	for _, version := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		for _, ch := range chains {
			family := byte(ch.Table.Family)
			if ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || family != version && family != unix.NFPROTO_INET {
				continue
			}
			rules, err := reachable(c, ch)
			if err != nil {
				return nil, err
			}
			f := Forward{Chain: fmt.Sprintf("%s %s %s", familyNames[ch.Table.Family], ch.Table.Name, ch.Name), IPv6: version == unix.NFPROTO_IPV6}
			for _, name := range slices.Sorted(maps.Keys(bridges)) {
				if (bridged{name, bridges[name], version, rules}).dropped(ch) {
					f.Bridges = append(f.Bridges, name)
				}
			}
			if len(f.Bridges) > 0 {
				list = append(list, f)
			}
		}
	}
	return list, nil
}

var familyNames = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
}

// reachable reads the rules of a chain and of those that it jumps to, by chain.
func reachable(c *nftables.Conn, first *nftables.Chain) (map[string][]*nftables.Rule, error) {
	all := map[string][]*nftables.Rule{}
	for names := []string{first.Name}; len(names) > 0; names = names[1:] {
		if _, read := all[names[0]]; read {
			continue
		}
		rules, err := c.GetRules(first.Table, &nftables.Chain{Table: first.Table, Name: names[0]})
		if err != nil {
			return nil, fmt.Errorf("list rules of %s: %w", names[0], err)
		}
		all[names[0]] = rules
		for _, r := range rules {
			for _, e := range r.Exprs {
				if v, ok := e.(*expr.Verdict); ok && v.Chain != "" {
					names = append(names, v.Chain)
				}
			}
		}
	}
	return all, nil
}

// bridged is any packet of an IP version that a bridge forwards within itself: to
// the filter it comes from the bridge and goes to it. rules are by chain.
type bridged struct {
	bridge  string
	group   uint32 // of the bridge
	version byte
	rules   map[string][]*nftables.Rule
}

// dropped reports whether it does not get through a base chain.
func (b bridged) dropped(base *nftables.Chain) bool {
	verdict := b.walk(base.Name, 0)
	if verdict == expr.VerdictReturn {
		return base.Policy != nil && *base.Policy == nftables.ChainPolicyDrop
	}
	return verdict == expr.VerdictDrop
}

// deepest is how many jumps a kernel allows.
const deepest = 16

// walk is what a chain does with it: accept, drop, or return.
func (b bridged) walk(chain string, depth int) expr.VerdictKind {
	for _, r := range b.rules[chain] {
		kind, to := b.judge(r.Exprs)
		switch {
		case kind == expr.VerdictAccept || kind == expr.VerdictDrop || kind == expr.VerdictReturn:
			return kind
		case (kind == expr.VerdictJump || kind == expr.VerdictGoto) && depth < deepest:
			got := b.walk(to, depth+1)
			if got != expr.VerdictReturn || kind == expr.VerdictGoto {
				return got
			}
		}
	}
	return expr.VerdictReturn
}

// judge is a rule's verdict on it, Continue if the rule has conditions that not all
// of such packets meet.
func (b bridged) judge(exprs []expr.Any) (kind expr.VerdictKind, chain string) {
	registers := map[uint32][]byte{} // what is known
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Meta:
			registers[e.Register] = b.meta(e.Key)
		case *expr.Bitwise:
			registers[e.DestRegister] = masked(registers[e.SourceRegister], e)
		case *expr.Cmp:
			if !meets(registers[e.Register], e) {
				return expr.VerdictContinue, ""
			}
		case *expr.Counter, *expr.Log:
		case *expr.Match:
			// Whoever matches ports of bridges or groups of devices to accept has
			// thought of bridges; what exactly is accepted does not show.
			if e.Name != "comment" && e.Name != "physdev" && e.Name != "devgroup" {
				return expr.VerdictContinue, ""
			}
		case *expr.Verdict:
			return e.Kind, e.Chain
		case *expr.Reject:
			return expr.VerdictDrop, ""
		case *expr.Target:
			if e.Name == "REJECT" {
				return expr.VerdictDrop, ""
			}
		default:
			return expr.VerdictContinue, ""
		}
	}
	return expr.VerdictContinue, ""
}

// meta is what is known of the packet, nil if nothing.
func (b bridged) meta(key expr.MetaKey) []byte {
	switch key {
	case expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME:
		return append([]byte(b.bridge), make([]byte, unix.IFNAMSIZ-len(b.bridge))...)
	case expr.MetaKeyIIFGROUP, expr.MetaKeyOIFGROUP:
		return binary.NativeEndian.AppendUint32(nil, b.group)
	case expr.MetaKeyNFPROTO:
		return []byte{b.version}
	}
	return nil
}

func masked(v []byte, e *expr.Bitwise) []byte {
	if len(v) < len(e.Mask) || len(e.Xor) != len(e.Mask) {
		return nil
	}
	out := make([]byte, len(e.Mask))
	for i := range out {
		out[i] = v[i]&e.Mask[i] ^ e.Xor[i]
	}
	return out
}

// meets reports whether a value that is known meets a condition.
func meets(v []byte, e *expr.Cmp) bool {
	if v == nil || len(v) < len(e.Data) {
		return false
	}
	equal := bytes.Equal(v[:len(e.Data)], e.Data)
	return e.Op == expr.CmpOpEq && equal || e.Op == expr.CmpOpNeq && !equal
}

// ownBridges are the bridges that carry our mark, and their groups, also while
// another process drives the host.
func ownBridges() (map[string]uint32, error) {
	ds, err := devicesHere()
	if err != nil {
		return nil, err
	}
	found := map[string]uint32{}
	for _, d := range ds {
		if _, ours := d.ours(); ours && hostops.Kind(d.kind) == hostops.KindBridge {
			found[d.name] = d.group
		}
	}
	return found, nil
}
