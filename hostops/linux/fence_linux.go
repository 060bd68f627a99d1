package linux

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

// Names of what fences hosts.
const (
	setFenced4 = "fenced4"
	setFenced6 = "fenced6"
	sendChain  = "output"
)

func fenceSet(v6 bool) *nftables.Set {
	if v6 {
		return &nftables.Set{Table: table(), Name: setFenced6, KeyType: nftables.TypeIP6Addr}
	}
	return &nftables.Set{Table: table(), Name: setFenced4, KeyType: nftables.TypeIPAddr}
}

// fromFenced drops what comes to the port from one of the fenced, whatever it is.
// The address is length bytes at offset in the header of an IP version.
func fromFenced(port uint16, version byte, offset, length uint32, fenced string) []expr.Any {
	return slices.Concat(
		[]expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{version}},
		},
		toPort(port),
		[]expr.Any{
			&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length, DestRegister: 1},
			&expr.Lookup{SourceRegister: 1, SetName: fenced},
			&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop},
		})
}

// sendRules are those of the chain for what this host sends: tunnels do, too.
func sendRules(port uint16) []rule {
	text := func(what string) string { return fmt.Sprintf("meshvpc %s %d", what, port) }
	return []rule{
		{text("to fenced4"), fromFenced(port, unix.NFPROTO_IPV4, 16, 4, setFenced4)},
		{text("to fenced6"), fromFenced(port, unix.NFPROTO_IPV6, 24, 16, setFenced6)},
	}
}

// addSendRules adds the chain for what this host sends to a transaction.
func (f *filter) addSendRules(port uint16) {
	c := f.cc.AddChain(&nftables.Chain{
		Name: sendChain, Table: table(), Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRaw,
	})
	for _, r := range sendRules(port) {
		f.cc.AddRule(&nftables.Rule{Table: table(), Chain: c, Exprs: r.exprs, UserData: comment(r.text)})
	}
}

// fence fences addresses, or takes that back, by one transaction.
func (f *filter) fence(as []netip.Addr, yes bool) error {
	var es [2][]nftables.SetElement
	var news []netip.Addr // deleting what is not there would fail the transaction
	for _, a := range as {
		if f.state.Fenced.Has(a) == yes {
			continue
		}
		i := 0
		if a.Is6() {
			i = 1
		}
		es[i] = append(es[i], nftables.SetElement{Key: a.AsSlice()})
		news = append(news, a)
	}
	if len(news) == 0 {
		return nil
	}
	if err := errors.Join(f.change(fenceSet(false), es[0], yes), f.change(fenceSet(true), es[1], yes)); err != nil {
		return err
	}
	if err := f.flush(); err != nil {
		return err
	}
	if yes {
		f.state.Fence(news...)
	} else {
		f.state.Unfence(news...)
	}
	return nil
}

// readFenced reads who is fenced.
func (f *filter) readFenced(s *hostops.Filter) error {
	f.requests.Add(2)
	for _, v6 := range []bool{false, true} {
		elems, err := f.cc.GetSetElements(fenceSet(v6))
		if err != nil {
			return err
		}
		for _, e := range elems {
			if a, ok := netip.AddrFromSlice(e.Key); ok {
				s.Fence(a)
			}
		}
	}
	return nil
}
