package linux

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

// Names of chains.
const (
	seal     = "seal-"    // of a bridge, in the netdev family
	reserved = "reserved" // of all bridges, in the bridge family
)

func deviceTable() *nftables.Table {
	return &nftables.Table{Name: hostops.FilterName, Family: nftables.TableFamilyNetdev}
}

// setSeal drops all frames that a bridge hands to the host.
func (f *filter) setSeal(bridge string) error {
	t := deviceTable()
	f.cc.AddTable(t)
	f.delSeal(bridge)
	c := f.cc.AddChain(&nftables.Chain{
		Name: seal + bridge, Table: t, Type: nftables.ChainTypeFilter, Device: bridge,
		Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFirst,
	})
	f.cc.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: sealRule(), UserData: comment(sealText(bridge))})
	if err := f.flush(); err != nil {
		if unsupported(err) {
			f.noSeals = true
			return fmt.Errorf("%w: without CONFIG_NF_TABLES_NETDEV this kernel cannot keep tenants from the host: %w", hostops.ErrUnsupported, err)
		}
		return err
	}
	f.chains[seal+bridge] = true
	if !f.reserved && !f.state.NoShields {
		if err := f.reserve(); err != nil {
			return err
		}
	}
	if f.state.Seals == nil {
		f.state.Seals = map[string]struct{}{}
	}
	f.state.Seals[bridge] = struct{}{}
	f.state.Exists = true
	return nil
}

// reserve drops what only pretends to be of a slow protocol. Such frames are
// the only ones that every bridge hands to the host by the port that they came
// in by, where no seal is.
func (f *filter) reserve() error {
	t := bridgeTable()
	f.cc.AddTable(t)
	c := f.cc.AddChain(&nftables.Chain{
		Name: reserved, Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	})
	f.cc.FlushChain(c)
	f.cc.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: reservedRule(), UserData: comment(reservedText)})
	err := f.flush()
	if unsupported(err) {
		f.state.NoShields = true
		return nil // Check tells
	}
	f.reserved = err == nil
	return err
}

// delSeal removes the chain of a bridge, if it is there.
func (f *filter) delSeal(bridge string) {
	if f.chains[seal+bridge] {
		c := &nftables.Chain{Table: deviceTable(), Name: seal + bridge}
		f.cc.FlushChain(c)
		f.cc.DelChain(c)
	}
}

// unseal removes the seal of a bridge. It may have gone with its device.
func (f *filter) unseal(bridge string) error {
	if f.chains[seal+bridge] {
		f.delSeal(bridge)
		if err := f.flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	delete(f.chains, seal+bridge)
	f.own()
	delete(f.state.Seals, bridge)
	return nil
}

func sealText(bridge string) string { return "meshvpc seal " + bridge }

func sealRule() []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
}

const reservedText = "meshvpc reserved"

func reservedRule() []expr.Any {
	return []expr.Any{
		&expr.Payload{Base: expr.PayloadBaseLLHeader, Offset: 0, Len: 6, DestRegister: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0x01, 0x80, 0xc2, 0, 0, 2}},
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: u16be(unix.ETH_P_SLOW)},
		&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop},
	}
}

// readSeals reads the chains of the netdev family. Without the chain for
// reserved addresses no bridge is sealed.
func (f *filter) readSeals(s *hostops.Filter) error {
	t := deviceTable()
	f.chains = map[string]bool{}
	chains, there, err := f.chainsOf(t)
	if !there && unsupported(err) {
		f.noSeals = true
		return nil
	}
	if err != nil || !there {
		return err
	}
	s.Exists = true
	for _, c := range chains {
		bridge, ok := strings.CutPrefix(c.Name, seal)
		if !ok {
			continue
		}
		f.chains[c.Name] = true
		f.requests.Add(1)
		rs, err := f.cc.GetRules(t, c)
		if err != nil {
			return err
		}
		if c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookIngress && isRule(rs, sealText(bridge), sealRule()) &&
			(f.reserved || s.NoShields) {
			s.Seals[bridge] = struct{}{}
		}
	}
	return nil
}

// isRule reports whether rs is one rule, as we made it.
func isRule(rs []*nftables.Rule, text string, exprs []expr.Any) bool {
	return len(rs) == 1 && commentOf(rs[0]) == text && len(rs[0].Exprs) == len(exprs)
}
