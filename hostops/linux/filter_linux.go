package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/google/nftables"
	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// Names in our tables.
const (
	setVNIs   = "our_vnis"
	setPeers4 = "peers4"
	setPeers6 = "peers6"
	chainName = "prerouting"
	shield    = "shield-"
)

// filter is the host's packet filter and what is known of it.
type filter struct {
	cc       *nftables.Conn
	ns       int
	pid      uint32 // of our transactions
	events   *source
	requests *atomic.Uint64
	known    bool
	state    hostops.Filter
	lent     bool            // state was handed out
	chains   map[string]bool // of the netdev family, whole or not
	reserved bool            // the chain of that name is in place
	there    bool            // the table of the inet family
	guards   bool            // what judges workloads' ports is in place
	pieces   map[string]bool // of that: the chains that are there
	sets     map[string]bool // and the sets
	floods   map[string]bool // chains and sets of flood budgets that are there
	wards    map[string]bool // ports that have a chain of their own, whole or not
	noSeals  bool            // this kernel cannot filter what a device receives
	gate     *gate
	gates    bool // what gates ports is in place
}

// openFilter runs in the namespace ns; events are read into buf.
func openFilter(ns int, buf []byte, requests *atomic.Uint64) (*filter, error) {
	f := &filter{requests: requests, ns: ns, chains: map[string]bool{}, floods: map[string]bool{}}
	var err error
	if f.events, err = subscribe(buf, unix.NETLINK_NETFILTER, 1<<(unix.NFNLGRP_NFTABLES-1), nil); err != nil {
		return nil, err
	}
	if err := f.dial(); err != nil {
		f.events.close()
		return nil, err
	}
	if f.gate, err = openGate(ns, requests); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// dial opens the socket for requests.
func (f *filter) dial() error {
	var err error
	f.cc, f.pid, err = dialNFT(f.ns)
	return err
}

// dialNFT opens a socket that stays, and says who its transactions are of.
func dialNFT(ns int) (cc *nftables.Conn, pid uint32, err error) {
	opts := []nftables.ConnOption{nftables.AsLasting(), nftables.WithSockOptions(func(c *mdl.Conn) error {
		rc, err := c.SyscallConn()
		if err != nil {
			return err
		}
		return rc.Control(func(fd uintptr) {
			if sa, err := unix.Getsockname(int(fd)); err == nil {
				if nl, ok := sa.(*unix.SockaddrNetlink); ok {
					pid = nl.Pid
				}
			}
		})
	})}
	if ns != 0 {
		opts = append(opts, nftables.WithNetNSFd(ns))
	}
	if cc, err = nftables.New(opts...); err != nil {
		return nil, 0, fmt.Errorf("open nftables: %w", err)
	}
	return cc, pid, nil
}

func (f *filter) close() {
	f.events.close()
	f.gate.close()
	// The socket is ours alone; there is nothing to do if closing it fails.
	_ = f.cc.CloseLasting()
}

// touched drains the events and reports whether others changed our tables.
func (f *filter) touched() bool {
	touched := false
	lost := f.events.drain(func(h *unix.NlMsghdr, b []byte) {
		const nfgenmsg = 4
		if h.Pid == f.pid || f.gate.sent(h.Pid) || h.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(b) < nfgenmsg {
			return
		}
		attrs(b[nfgenmsg:], func(kind int, data []byte) {
			// Attribute 1 is the table's name in every message of nftables but NEWGEN.
			if kind == 1 && (cstr(data) == hostops.FilterName || cstr(data) == uplinkTable().Name) && h.Type&0xff != unix.NFT_MSG_NEWGEN {
				touched = true
			}
		})
	})
	if lost || touched {
		f.known = false
	}
	return lost || touched
}

// share returns what is known, which from now on stays as it is.
func (f *filter) share() hostops.Filter {
	f.lent = true
	return f.state
}

// own makes state one that may be changed.
func (f *filter) own() {
	if f.lent {
		f.state, f.lent = f.state.Clone(), false
	}
}

// flush sends what was added to the transaction; state may follow it then.
func (f *filter) flush() error {
	f.requests.Add(1)
	err := f.cc.Flush()
	if err == nil {
		f.touched() // the events of our own are not to wake anybody
		f.own()
		return nil
	}
	// What is left unread on the socket would be taken for later answers.
	f.known = false
	_ = f.cc.CloseLasting()
	return errors.Join(err, f.dial())
}

func table() *nftables.Table {
	return &nftables.Table{Name: hostops.FilterName, Family: nftables.TableFamilyINet}
}

func bridgeTable() *nftables.Table {
	return &nftables.Table{Name: hostops.FilterName, Family: nftables.TableFamilyBridge}
}

func peerSet(v6 bool) *nftables.Set {
	name, kind := setPeers4, nftables.TypeIPAddr
	if v6 {
		name, kind = setPeers6, nftables.TypeIP6Addr
	}
	return &nftables.Set{Table: table(), Name: name, KeyType: nftables.MustConcatSetType(kind, nftables.TypeInteger), Concatenation: true}
}

// vniKey is the VNI as it is on the wire, with the reserved byte as zero.
func vniKey(v cluster.VNI) []byte { return binary.BigEndian.AppendUint32(nil, uint32(v)<<8) }

func sourceKey(v cluster.VNI, a netip.Addr) []byte { return append(a.AsSlice(), vniKey(v)...) }

// replaceTable adds a table to a transaction, empty. One that is there is
// deleted first, and only then: the kernel frees what was deleted after a grace
// period, and until then every close of an nftables socket waits.
func replaceTable(cc *nftables.Conn, t *nftables.Table, there bool) {
	if there {
		cc.AddTable(t) // so that deleting it cannot fail
		cc.DelTable(t)
	}
	cc.AddTable(t)
}

// create replaces the table by one with rules for port and no entries.
func (f *filter) create(port uint16) error {
	t := table()
	replaceTable(f.cc, t, f.there)
	for _, s := range []*nftables.Set{guarded().nft(), peerSet(false), peerSet(true), placed().nft(), placeSet(false), placeSet(true), fenceSet(false), fenceSet(true)} {
		if err := f.cc.AddSet(s, nil); err != nil {
			return err
		}
	}
	c := f.cc.AddChain(&nftables.Chain{
		Name: chainName, Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	for _, r := range rules(port) {
		f.cc.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: r.exprs, UserData: comment(r.text)})
	}
	f.addSendRules(port)
	if err := f.flush(); err != nil {
		return err
	}
	f.there = true
	f.state = hostops.Filter{
		Exists: true, Port: port,
		VNIs: map[cluster.VNI]struct{}{}, Placed: map[cluster.VNI]struct{}{}, Shields: f.state.Shields, NoShields: f.state.NoShields, Seals: f.state.Seals,
		Bindings: f.state.Bindings, Gated: f.state.Gated, Wards: f.state.Wards, Uplinks: f.state.Uplinks, Budgets: f.state.Budgets, NoBudgets: f.state.NoBudgets,
	}
	return nil
}

// remove deletes all tables.
func (f *filter) remove() error {
	for _, t := range []*nftables.Table{table(), bridgeTable(), deviceTable()} {
		if (t.Family == nftables.TableFamilyBridge && f.state.NoShields) || (t.Family == nftables.TableFamilyNetdev && f.noSeals) {
			continue
		}
		f.cc.AddTable(t)
		f.cc.DelTable(t)
	}
	if err := f.flush(); err != nil {
		return err
	}
	if err := f.unguardUplinks(); err != nil {
		return err
	}
	f.state = hostops.Filter{NoShields: f.state.NoShields, NoBudgets: f.state.NoBudgets}
	f.floods = map[string]bool{}
	f.chains, f.reserved, f.there = map[string]bool{}, false, false
	f.guards, f.pieces, f.sets, f.wards, f.gates = false, nil, nil, nil, false
	return nil
}

// change adds elements to a set of ours, or takes them out.
func (f *filter) change(s *nftables.Set, es []nftables.SetElement, in bool) (err error) {
	do := f.cc.SetDeleteElements
	if in {
		do = f.cc.SetAddElements
	}
	for part := range slices.Chunk(es, 500) { // a message holds 64 KiB
		err = errors.Join(err, do(s, part))
	}
	return err
}

// changePeers is change of the two sets of peers.
func (f *filter) changePeers(sources []hostops.Source, in bool) error {
	var es [2][]nftables.SetElement
	for _, s := range sources {
		i := 0
		if s.Addr.Is6() {
			i = 1
		}
		es[i] = append(es[i], nftables.SetElement{Key: sourceKey(s.VNI, s.Addr)})
	}
	return errors.Join(f.change(peerSet(false), es[0], in), f.change(peerSet(true), es[1], in))
}

// sources allows or denies.
func (f *filter) sources(v cluster.VNI, as []netip.Addr, allow bool) error {
	var news []hostops.Source // deleting what is not there would fail the transaction
	for _, a := range as {
		if f.state.Sources[v].Has(a) != allow {
			news = append(news, hostops.Source{VNI: v, Addr: a})
		}
	}
	if len(news) == 0 {
		return nil
	}
	if err := f.changePeers(news, allow); err != nil {
		return err
	}
	if err := f.flush(); err != nil {
		return err
	}
	if allow {
		f.state.Allow(v, as...)
	} else {
		f.state.Deny(v, as...)
	}
	return nil
}

// admit allows sources and guards their VNIs by one transaction.
func (f *filter) admit(sources []hostops.Source) error {
	var vnis []nftables.SetElement
	for _, s := range sources {
		vnis = append(vnis, nftables.SetElement{Key: vniKey(s.VNI)})
	}
	if err := errors.Join(f.changePeers(sources, true), f.change(guarded().nft(), vnis, true)); err != nil {
		return err
	}
	if err := f.flush(); err != nil {
		return err
	}
	for _, s := range sources {
		f.state.Allow(s.VNI, s.Addr)
		f.state.VNIs[s.VNI] = struct{}{}
	}
	return nil
}

// A vniList is one of the sets of VNIs: its name, and where the state has it.
type vniList struct {
	set string
	of  func(*hostops.Filter) map[cluster.VNI]struct{}
}

func guarded() vniList {
	return vniList{setVNIs, func(s *hostops.Filter) map[cluster.VNI]struct{} { return s.VNIs }}
}

func placed() vniList {
	return vniList{setPlaced, func(s *hostops.Filter) map[cluster.VNI]struct{} { return s.Placed }}
}

func (l vniList) nft() *nftables.Set {
	return &nftables.Set{Table: table(), Name: l.set, KeyType: nftables.TypeInteger}
}

// judge adds a VNI to a list, or takes it out.
func (f *filter) judge(l vniList, v cluster.VNI, on bool) error {
	if _, there := l.of(&f.state)[v]; there == on {
		return nil
	}
	if err := f.change(l.nft(), []nftables.SetElement{{Key: vniKey(v)}}, on); err != nil {
		return err
	}
	if err := f.flush(); err != nil {
		return err
	}
	if on {
		l.of(&f.state)[v] = struct{}{}
	} else {
		delete(l.of(&f.state), v)
	}
	return nil
}

// readList reads a list into s.
func (f *filter) readList(l vniList, s *hostops.Filter) error {
	elems, err := f.cc.GetSetElements(l.nft())
	if err != nil {
		return err
	}
	for _, e := range elems {
		if len(e.Key) == 4 {
			l.of(s)[cluster.VNI(binary.BigEndian.Uint32(e.Key)>>8)] = struct{}{}
		}
	}
	return nil
}

// read reads all tables.
func (f *filter) read() error {
	f.touched() // what comes later is read later
	s := hostops.Filter{
		NoShields: f.state.NoShields, NoBudgets: f.state.NoBudgets,
		VNIs: map[cluster.VNI]struct{}{}, Placed: map[cluster.VNI]struct{}{}, Shields: map[cluster.VNI]netip.Prefix{}, Seals: map[string]struct{}{},
		Wards: map[string]hostops.Ward{},
	}
	if err := f.readTable(&s); err != nil {
		return fmt.Errorf("read nftables table inet %s: %w", hostops.FilterName, err)
	}
	if err := f.readShields(&s); err != nil {
		return fmt.Errorf("read nftables table bridge %s: %w", hostops.FilterName, err)
	}
	if err := f.readUplinks(&s); err != nil {
		return fmt.Errorf("read nftables table inet %s: %w", uplinkTable().Name, err)
	}
	if err := f.readSeals(&s); err != nil {
		return fmt.Errorf("read nftables table netdev %s: %w", hostops.FilterName, err)
	}
	f.state, f.known = s, true
	return nil
}

func (f *filter) readTable(s *hostops.Filter) error {
	t := table()
	all, there, err := f.chainsOf(t)
	f.there = there
	if err != nil || !there {
		return err
	}
	f.requests.Add(1)
	sets, err := f.cc.GetSets(t)
	if err != nil {
		return err
	}
	names := map[string]bool{}
	for _, set := range sets {
		names[set.Name] = true
	}
	chains := map[string]*nftables.Chain{}
	for _, c := range all {
		chains[c.Name] = c
	}
	if len(chains) > 0 && !names[setVNIs] {
		s.Foreign = true
		return nil
	}
	s.Exists = true
	c := chains[chainName]
	out := chains[sendChain]
	whole := len(chains) == 2 && c != nil && c.Hooknum != nil && out != nil && out.Hooknum != nil
	for _, name := range []string{setVNIs, setPeers4, setPeers6, setPlaced, setPlaces4, setPlaces6, setFenced4, setFenced6} {
		whole = whole && names[name]
	}
	if !whole {
		return nil
	}
	f.requests.Add(5)
	rs, err := f.cc.GetRules(t, c)
	if err != nil {
		return err
	}
	sending, err := f.cc.GetRules(t, out)
	if err != nil {
		return err
	}
	port := portOf(rs, rules)
	if port == 0 || portOf(sending, sendRules) != port {
		return nil
	}
	s.Port = port
	if err := f.readList(guarded(), s); err != nil {
		return err
	}
	for _, v6 := range []bool{false, true} {
		elems, err := f.cc.GetSetElements(peerSet(v6))
		if err != nil {
			return err
		}
		for _, e := range elems {
			if n := len(e.Key) - 4; n == 4 || n == 16 {
				a, _ := netip.AddrFromSlice(e.Key[:n])
				s.Allow(cluster.VNI(binary.BigEndian.Uint32(e.Key[n:])>>8), a)
			}
		}
	}
	if err := f.readFenced(s); err != nil {
		return err
	}
	return f.readPlaces(s)
}

// chainsOf reads the chains of one of our tables, if the table is there.
func (f *filter) chainsOf(t *nftables.Table) (chains []*nftables.Chain, there bool, err error) {
	f.requests.Add(1)
	if there, err := hasTable(f.cc, t); err != nil || !there {
		return nil, false, err
	}
	f.requests.Add(1)
	all, err := f.cc.ListChainsOfTableFamily(t.Family)
	return slices.DeleteFunc(all, func(c *nftables.Chain) bool { return c.Table.Name != t.Name }), true, err
}

func hasTable(cc *nftables.Conn, t *nftables.Table) (bool, error) {
	ts, err := cc.ListTablesOfFamily(t.Family)
	return slices.ContainsFunc(ts, func(o *nftables.Table) bool { return o.Name == t.Name && o.Family == t.Family }), err
}
