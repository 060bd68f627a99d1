package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

const uplinkText = "meshvpc uplinks "

// uplinkTable is apart from the one for tunnels: a kernel without NAT has that still.
func uplinkTable() *nftables.Table {
	return &nftables.Table{Name: hostops.FilterName + "-uplinks", Family: nftables.TableFamilyINet}
}

// uplinkChains judge what comes in by uplinks, and what goes out there. What no rule
// judges is not ours. Neighbour discovery is what the far end asks this one.
func uplinkChains(port uint16) []spaceChain {
	const uses = 0xff000000
	uplink := func(key expr.MetaKey, op expr.CmpOp) []expr.Any {
		return []expr.Any{
			&expr.Meta{Key: key, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: u32(uses), Xor: make([]byte, 4)},
			&expr.Cmp{Op: op, Register: 1, Data: u32(hostops.GroupUplink)},
		}
	}
	in, out := uplink(expr.MetaKeyIIFGROUP, expr.CmpOpEq), uplink(expr.MetaKeyOIFGROUP, expr.CmpOpEq)
	outside := uplink(expr.MetaKeyOIFGROUP, expr.CmpOpNeq)
	text := uplinkText + strconv.Itoa(int(port))
	tunnels := join(l4(unix.IPPROTO_UDP), equal(expr.PayloadBaseTransportHeader, 2, u16be(port)))
	family := func(version byte) []expr.Any {
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{version}}}
	}
	masquerade := []expr.Any{&expr.Masq{}}
	return []spaceChain{
		{"input", nftables.ChainHookInput, nftables.ChainTypeFilter, []rule{
			{text, join(in, icmp6(135, 136), accept())},
			{text, join(in, drop())},
		}},
		{"forward", nftables.ChainHookForward, nftables.ChainTypeFilter, []rule{
			{text, join(in, out, drop())},
			{text, join(in, tunnels, drop())},
			{text, join(out, answers(), accept())},
			{text, join(out, drop())},
		}},
		{"nat", nftables.ChainHookPostrouting, nftables.ChainTypeNAT, []rule{
			{text, join(family(unix.NFPROTO_IPV4), outside, fromUplink(expr.PayloadBaseNetworkHeader, 12, []byte{0xf0}, []byte{0xf0}), masquerade)},
			{text, join(family(unix.NFPROTO_IPV6), outside, equal(expr.PayloadBaseNetworkHeader, 8, []byte{0xfd, 0x6d, 0x65, 0x73, 0x68}), masquerade)},
		}},
	}
}

// fromUplink compares the first bits of a source address.
func fromUplink(base expr.PayloadBase, offset uint32, want, mask []byte) []expr.Any {
	n := uint32(len(want))
	return []expr.Any{
		&expr.Payload{Base: base, Offset: offset, Len: n, DestRegister: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: n, Mask: mask, Xor: make([]byte, n)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want},
	}
}

// guardUplinks makes the rules for uplinks anew, by one transaction.
func (f *filter) guardUplinks(port uint16) error {
	if f.state.Uplinks == port {
		return nil
	}
	t := uplinkTable()
	f.cc.AddTable(t) // so that deleting it cannot fail
	f.cc.DelTable(t)
	f.cc.AddTable(t)
	for _, w := range uplinkChains(port) {
		c := f.cc.AddChain(w.of(t, nftables.ChainPolicyAccept))
		for _, r := range w.rules {
			f.cc.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: r.exprs, UserData: comment(r.text)})
		}
	}
	if err := f.flush(); err != nil {
		if unsupported(err) || errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%w: NAT needs a kernel with CONFIG_NFT_MASQ and CONFIG_NF_NAT: %w", hostops.ErrUnsupported, err)
		}
		return err
	}
	f.state.Uplinks, f.state.Exists = port, true
	return nil
}

// unguardUplinks removes the rules for uplinks.
func (f *filter) unguardUplinks() error {
	there, err := hasTable(f.cc, uplinkTable())
	if err != nil || !there {
		return err
	}
	f.cc.DelTable(uplinkTable())
	if err := f.flush(); err != nil {
		return err
	}
	f.state.Uplinks = 0
	return nil
}

// readUplinks reads the rules for uplinks, which count if all are in place.
func (f *filter) readUplinks(s *hostops.Filter) error {
	t := uplinkTable()
	all, there, err := f.chainsOf(t)
	if err != nil || !there {
		return err
	}
	s.Exists = true
	chains := map[string]*nftables.Chain{}
	for _, c := range all {
		chains[c.Name] = c
	}
	if chains["input"] == nil {
		return nil
	}
	f.requests.Add(1)
	rs, err := f.cc.GetRules(t, chains["input"])
	if err != nil || len(rs) == 0 {
		return err
	}
	port, err := strconv.ParseUint(strings.TrimPrefix(commentOf(rs[0]), uplinkText), 10, 16)
	if err != nil {
		return nil // not as we make it
	}
	for _, w := range uplinkChains(uint16(port)) {
		f.requests.Add(1)
		whole, err := w.is(f.cc, t, chains[w.name], nftables.ChainPolicyAccept)
		if err != nil || !whole {
			return err
		}
	}
	s.Uplinks = uint16(port)
	return nil
}

// setUplink sets the host's end of an uplink.
func (d *Driver) setUplink(v *device, op hostops.SetUplink) error {
	if err := within(d.ns, func() error { return forwardBy(v.name) }); err != nil {
		return wrap("set "+v.name, err)
	}
	m := linkMsg(v.index)
	m.Flags, m.Change = unix.IFF_UP, unix.IFF_UP
	if err := d.conn.set(unix.RTM_NEWLINK, 0, m, attr(unix.IFLA_MTU, u32(uint32(op.MTU))), noAddrGen()); err != nil {
		return err
	}
	d.drain()
	for _, a := range slices.Clone(v.addrs) {
		if !slices.Contains(op.Addresses, a) {
			if err := ignore(d.conn.strip(v.index, a), unix.EADDRNOTAVAIL); err != nil {
				return wrap("remove address "+a.String(), err)
			}
		}
	}
	for _, a := range op.Addresses {
		if slices.Contains(v.addrs, a) {
			continue
		}
		m, raw := addrMsg(v.index, a), a.Addr().AsSlice()
		m.Flags = unix.IFA_F_NODAD
		err := d.conn.set(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, m, attr(unix.IFA_LOCAL, raw), attr(unix.IFA_ADDRESS, raw))
		if err := ignore(err, unix.EEXIST); err != nil {
			return wrap("add address "+a.String(), err)
		}
		// The kernel tells of one of IPv6 when it has looked whether another has it.
		if d.drain(); !slices.Contains(v.addrs, a) {
			v.addrs = append(slices.Clip(v.addrs), a)
		}
	}
	return nil
}

// forwardBy lets the calling thread's namespace forward what comes in by a device:
// IPv4, and IPv6 where the kernel can for one device (6.17).
func forwardBy(device string) error {
	for _, s := range []struct{ setting, value string }{
		{"ipv4/conf/%s/forwarding", "1"}, {"ipv4/conf/%s/send_redirects", "0"}, {"ipv4/conf/%s/accept_redirects", "0"}, {"ipv4/conf/%s/arp_ignore", "1"},
		{"ipv6/conf/%s/accept_ra", "0"}, {"ipv6/conf/%s/accept_redirects", "0"}, {"ipv6/conf/%s/force_forwarding", "1"},
	} {
		path := filepath.Join("/proc/sys/net", fmt.Sprintf(s.setting, device))
		if err := os.WriteFile(path, []byte(s.value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// forwarding tells which uplinks forward, and which settings keep answers from them:
// those of the devices by which this host reaches what is outside.
func (d *Driver) forwarding() (uplinks map[string]bool, closed []string) {
	names := d.uplinks()
	if len(names) == 0 {
		return nil, nil
	}
	uplinks = map[string]bool{}
	out4, out6 := d.outside(netip.MustParseAddr("1.1.1.1")), d.outside(netip.MustParseAddr("2606:4700:4700::1111"))
	err := within(d.ns, func() error {
		for _, name := range names {
			uplinks[name] = forwards(name)
		}
		if out4 != "" && !forwards(out4) {
			closed = append(closed, "net.ipv4.ip_forward")
		}
		if out6 != "" && !forwards6(names[0], out6) {
			closed = append(closed, "net.ipv6.conf.all.forwarding")
		}
		return nil
	})
	if err != nil {
		return nil, nil // nothing is known: SetUplink says why
	}
	return uplinks, closed
}

// uplinks are the names of this host's.
func (d *Driver) uplinks() (names []string) {
	for _, v := range d.devices {
		if owner, ours := v.ours(); ours && v.name == hostops.UplinkOf(owner) {
			names = append(names, v.name)
		}
	}
	return names
}

// forwards6 reports whether IPv6 that comes in by these devices is forwarded.
func forwards6(devices ...string) bool {
	on := func(setting string) bool {
		b, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv6/conf", setting))
		return err == nil && strings.TrimSpace(string(b)) == "1"
	}
	return on("all/forwarding") || !slices.ContainsFunc(devices, func(name string) bool { return !on(name + "/force_forwarding") })
}

// outside names the device by which the host sends to an address, "" if by none.
func (d *Driver) outside(to netip.Addr) string {
	m := &nl.RtMsg{RtMsg: unix.RtMsg{Family: familyOf(to), Dst_len: uint8(to.BitLen())}}
	msgs, err := d.conn.do(unix.RTM_GETROUTE, 0, unix.RTM_NEWROUTE, m, attr(unix.RTA_DST, to.AsSlice()))
	if err != nil || len(msgs) != 1 {
		return "" // no way there
	}
	index := int32(0)
	attrs(msgs[0][min(len(msgs[0]), unix.SizeofRtMsg):], func(kind int, data []byte) {
		if kind == unix.RTA_OIF && len(data) == 4 {
			index = int32(binary.NativeEndian.Uint32(data))
		}
	})
	return d.name(index)
}
