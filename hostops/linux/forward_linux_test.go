package linux

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

// TestForwards reads from the kernel which chains drop what a bridge of ours
// forwards.
func TestForwards(t *testing.T) {
	const accept, drop = nftables.ChainPolicyAccept, nftables.ChainPolicyDrop
	verdict := func(kind expr.VerdictKind, chain string) expr.Any { return &expr.Verdict{Kind: kind, Chain: chain} }
	in := func(op expr.CmpOp, name string) []expr.Any {
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: []byte(name)}}
	}
	toCheck := []expr.Any{verdict(expr.VerdictJump, "check")}
	accepted, dropped := verdict(expr.VerdictAccept, ""), verdict(expr.VerdictDrop, "")
	known := []expr.Any{ // ct state established
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{2, 0, 0, 0}, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
	group := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFGROUP, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, 0xff000000), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, hostops.GroupBase)},
	}
	both := []string{"blue", "red"}
	for name, tt := range map[string]struct {
		family nftables.TableFamily
		policy nftables.ChainPolicy
		rules  [][]expr.Any
		check  [][]expr.Any // of a chain that rules may jump to
		want   []string     // bridges
	}{
		"policy":                {policy: drop, want: both},
		"accepting policy":      {policy: accept},
		"last rule":             {policy: accept, rules: [][]expr.Any{{&expr.Counter{}, dropped}}, want: both},
		"last rule rejects":     {policy: accept, rules: [][]expr.Any{{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 3}}}, want: both},
		"accepts one":           {policy: drop, rules: [][]expr.Any{append(in(expr.CmpOpEq, "red\x00"), accepted)}, want: []string{"blue"}},
		"accepts a beginning":   {policy: drop, rules: [][]expr.Any{append(in(expr.CmpOpEq, "re"), accepted)}, want: []string{"blue"}},
		"accepts all but one":   {policy: drop, rules: [][]expr.Any{append(in(expr.CmpOpNeq, "red\x00"), accepted)}, want: []string{"red"}},
		"accepts our group":     {policy: drop, rules: [][]expr.Any{append(group, accepted)}},
		"accepts what is known": {policy: drop, rules: [][]expr.Any{append(known, accepted)}, want: both},
		"drops what is known":   {policy: accept, rules: [][]expr.Any{append(known, dropped)}},
		"accepts too late":      {policy: accept, rules: [][]expr.Any{{dropped}, {accepted}}, want: both},
		"accepts in a jump":     {policy: drop, rules: [][]expr.Any{toCheck}, check: [][]expr.Any{append(in(expr.CmpOpEq, "red\x00"), accepted)}, want: []string{"blue"}},
		"drops in a jump":       {policy: accept, rules: [][]expr.Any{toCheck, {accepted}}, check: [][]expr.Any{append(in(expr.CmpOpEq, "red\x00"), dropped)}, want: []string{"red"}},
		"returns from a jump":   {policy: accept, rules: [][]expr.Any{toCheck, {dropped}}, check: [][]expr.Any{{verdict(expr.VerdictReturn, "")}, {accepted}}, want: both},
		"both families": {family: nftables.TableFamilyINet, policy: drop, want: both,
			rules: [][]expr.Any{{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV6}}, accepted}}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newUnderlay(t, 1, 1500)[0]
			for i, bridge := range []string{"red", "blue"} {
				must(t, h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge, Group: hostops.GroupBase | uint32(i+10)}}))
			}
			must(t, h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "docker0"}}))
			c, err := nftables.New(nftables.WithNetNSFd(int(h.ns)))
			must(t, err)
			if tt.family == 0 {
				tt.family = nftables.TableFamilyIPv4
			}
			table := c.AddTable(&nftables.Table{Name: "filter", Family: tt.family})
			check := c.AddChain(&nftables.Chain{Name: "check", Table: table})
			chain := c.AddChain(&nftables.Chain{Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter,
				Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &tt.policy})
			for _, exprs := range tt.check {
				c.AddRule(&nftables.Rule{Table: table, Chain: check, Exprs: exprs})
			}
			for _, exprs := range tt.rules {
				c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
			}
			must(t, c.Flush())
			var got, want []Forward
			must(t, within(int(h.ns), func() (err error) {
				got, err = Forwards()
				return err
			}))
			if tt.want != nil {
				want = []Forward{{familyNames[tt.family] + " filter FORWARD", false, tt.want}}
			}
			if d := cmp.Diff(got, want); d != "" {
				t.Errorf("got -, want +:\n%s", d)
			}
		})
	}
}
