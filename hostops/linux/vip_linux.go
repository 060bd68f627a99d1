package linux

import (
	"errors"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

// A VIP's port is one of several in a namespace, all on one bridge: a rule for each of
// its addresses has what is sent from there leave by it, and not by whichever port has
// the first route to the network.
const (
	// sourcePriority is that of these rules: after the kernel's own for local
	// addresses, and before all others.
	sourcePriority = 1000
	// sourceTables, with the port's index, number their tables.
	sourceTables = 0x6d000000
	// vipMetric is that of the routes which the addresses bring along: a gateway's
	// and an administrator's come first.
	vipMetric = 4096

	ifaRTPriority = 9 // IFA_RT_PRIORITY
	fraSrc        = 2 // FRA_SRC
	fraPriority   = 6
	fraTable      = 15
	frActToTable  = 1 // FR_ACT_TO_TBL
)

func sourceTable(index int32) uint32 { return sourceTables | uint32(index) }

// sourceRule is one of these rules.
type sourceRule struct {
	from  netip.Addr
	table uint32
}

// sources lists the rules with our priority.
func (c *conn) sources() (out []sourceRule, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		msgs, err := c.list(unix.RTM_GETRULE, unix.RTM_NEWRULE, &nl.RtMsg{RtMsg: unix.RtMsg{Family: family}})
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // a kernel without IPv6, or without rules: then there are none
		}
		if err != nil {
			return nil, wrap("list routing rules", err)
		}
		for _, b := range msgs {
			if r, ok := parseSource(b); ok {
				out = append(out, r)
			}
		}
	}
	return out, nil
}

func parseSource(b []byte) (s sourceRule, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return s, false
	}
	s.table = uint32(b[4])
	priority := uint32(0)
	attrs(b[unix.SizeofRtMsg:], func(kind int, data []byte) {
		switch kind {
		case fraSrc:
			s.from = addr(data)
		case fraPriority:
			priority = native32(data)
		case fraTable:
			s.table = native32(data)
		}
	})
	return s, priority == sourcePriority && s.from.IsValid() && int(b[2]) == s.from.BitLen()
}

func (c *conn) setSource(proto, flags int, s sourceRule) error {
	m := &nl.RtMsg{RtMsg: unix.RtMsg{Family: familyOf(s.from), Src_len: uint8(s.from.BitLen()), Type: frActToTable}}
	return c.set(proto, flags, m, attr(fraSrc, s.from.AsSlice()), attr(fraPriority, u32(sourcePriority)), attr(fraTable, u32(s.table)))
}

// setSourceRoute makes a network reached by a port, in the port's own table.
func (c *conn) setSourceRoute(proto, flags int, index int32, to netip.Prefix) error {
	m := &nl.RtMsg{RtMsg: unix.RtMsg{Family: familyOf(to.Addr()), Dst_len: uint8(to.Bits()), Protocol: unix.RTPROT_STATIC, Type: unix.RTN_UNICAST, Scope: unix.RT_SCOPE_LINK}}
	return c.set(proto, flags, m, attr(unix.RTA_DST, to.Masked().Addr().AsSlice()), attr(unix.RTA_OIF, u32(uint32(index))), attr(unix.RTA_TABLE, u32(sourceTable(index))))
}

// readSources reads which VIPs' ports what is sent from their addresses leaves by.
func (sp *space) readSources() error {
	var rules []sourceRule
	read := false
	for name, p := range sp.state.Further {
		if !hostops.IsVIP(name) {
			continue
		}
		if !read {
			var err error
			if rules, err = sp.conn.sources(); err != nil {
				return err
			}
			read = true
		}
		index := sp.others[name].index
		routes, err := sp.conn.routes(index)
		if err != nil {
			return err
		}
		p.Sourced = sourced(index, p.Addresses, rules, routes)
	}
	return nil
}

// sourced reports whether rules and routes are those of a port with these addresses.
func sourced(index int32, own []netip.Prefix, rules []sourceRule, routes []route) bool {
	table := sourceTable(index)
	for _, a := range own {
		there := slices.ContainsFunc(routes, func(r route) bool { return r.table == table && r.to == a.Masked() && !r.gateway.IsValid() })
		if !there || !slices.Contains(rules, sourceRule{a.Addr(), table}) {
			return false
		}
	}
	for _, r := range rules {
		mine := slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Addr() == r.from })
		if mine != (r.table == table) { // one of another address, or to a port that is gone
			return false
		}
	}
	return true
}

// setVIP makes the inner end of a VIP's port what it has to be. Its addresses come
// last, and go first: with one, the namespace answers for it.
func (d *Driver) setVIP(op hostops.SetVIP) error {
	sp := d.spaces[op.Namespace]
	if sp == nil || sp.of(op.Inner).index == 0 {
		return os.ErrNotExist
	}
	c, index := sp.conn, sp.of(op.Inner).index
	if err := within(int(sp.file.Fd()), func() error { return preparePort(op.Inner, op.Forwards) }); err != nil {
		return wrap("set "+op.Inner, err)
	}
	m := linkMsg(index)
	m.Flags, m.Change = unix.IFF_UP, unix.IFF_UP
	if err := c.set(unix.RTM_NEWLINK, 0, m, attr(unix.IFLA_MTU, u32(uint32(op.MTU)))); err != nil {
		return wrap("set "+op.Inner, err)
	}
	for _, a := range sp.addressesOf(op.Inner) {
		if !slices.Contains(op.Addresses, a) {
			if err := ignore(c.strip(index, a), unix.EADDRNOTAVAIL); err != nil {
				return wrap("remove address "+a.String(), err)
			}
		}
	}
	metric := uint32(0) // the kernel's own: the gateway's routes come first
	if hostops.IsVIP(op.Inner) {
		metric = vipMetric
		if err := c.setSources(index, op.Addresses); err != nil {
			return err
		}
	}
	for _, a := range op.Addresses {
		m, raw := addrMsg(index, a), a.Addr().AsSlice()
		m.Flags = unix.IFA_F_NODAD
		err := c.set(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, m, attr(unix.IFA_LOCAL, raw), attr(unix.IFA_ADDRESS, raw), attr(ifaRTPriority, u32(metric)))
		if err := ignore(err, unix.EEXIST); err != nil {
			return wrap("add address "+a.String(), err)
		}
	}
	_, err := d.reread(op.Namespace)
	return err
}

func (sp *space) addressesOf(name string) []netip.Prefix {
	if p := sp.state.Further[name]; p != nil {
		return p.Addresses
	}
	return nil
}

// setSources has what is sent from addresses leave by a port, and nothing else by its
// table. Rules for those addresses that lead elsewhere are of a port that is gone.
func (c *conn) setSources(index int32, own []netip.Prefix) error {
	table := sourceTable(index)
	for _, a := range own {
		if err := ignore(c.setSourceRoute(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, index, a), unix.EEXIST); err != nil {
			return wrap("set route to "+a.Masked().String(), err)
		}
	}
	rules, err := c.sources()
	if err != nil {
		return err
	}
	for _, r := range rules {
		mine := slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Addr() == r.from })
		if mine != (r.table == table) {
			if err := ignore(c.setSource(unix.RTM_DELRULE, 0, r), unix.ENOENT, unix.ESRCH); err != nil {
				return wrap("remove routing rule of "+r.from.String(), err)
			}
		}
	}
	for _, a := range own {
		s := sourceRule{a.Addr(), table}
		if slices.Contains(rules, s) {
			continue
		}
		err := ignore(c.setSource(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, s), unix.EEXIST)
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			return wrap("set routing rule of "+a.Addr().String()+": this kernel has none, use one with CONFIG_IP_MULTIPLE_TABLES", errors.Join(hostops.ErrUnsupported, err))
		}
		if err != nil {
			return wrap("set routing rule of "+a.Addr().String(), err)
		}
	}
	return nil
}
