package linux

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/hosttest"
)

// kernel is a network namespace that tests tamper with.
type kernel struct {
	t   testing.TB
	ns  netns.NsHandle
	dir string
	nl  *netlink.Handle
	// rooms is where workloads' namespaces are pinned.
	rooms string
}

func newKernel(t testing.TB) kernel {
	t.Helper()
	k := kernel{t: t, ns: newNS(t), dir: pinDir(t), rooms: pinDir(t)}
	var err error
	k.nl, err = netlink.NewHandleAt(k.ns)
	must(t, err)
	t.Cleanup(k.nl.Close)
	return k
}

func TestSuite(t *testing.T) {
	hosttest.Run(t, func(t *testing.T) hosttest.Kernel {
		k := newKernel(t)
		for _, a := range hosttest.Underlays() {
			if k.nl.LinkAdd(veth(a.Device, a.MTU)) == nil {
				must(t, k.SetUp(a.Device, a.Up))
				must(t, k.SetUp(a.Device+"p", a.Up))
			}
			must(t, k.AddAddress(a.Device, a.Prefix))
		}
		return k
	})
}

func veth(name string, mtu int) *netlink.Veth {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	return &netlink.Veth{LinkAttrs: attrs, PeerName: name + "p"}
}

func (k kernel) Open() (hostops.Driver, error) {
	d, err := New(Config{Namespace: int(k.ns), PinDir: k.dir})
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (k kernel) link(name string) netlink.Link {
	k.t.Helper()
	l, err := k.nl.LinkByName(name)
	must(k.t, err)
	return l
}

func (k kernel) Devices() []string {
	k.t.Helper()
	links, err := k.nl.LinkList()
	must(k.t, err)
	var out []string
	for _, l := range links {
		if l.Attrs().Name != "lo" {
			out = append(out, l.Attrs().Name)
		}
	}
	slices.Sort(out)
	return out
}

func (k kernel) Namespaces() []string {
	k.t.Helper()
	entries, err := os.ReadDir(k.dir)
	must(k.t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func (k kernel) nft() *nftables.Conn {
	k.t.Helper()
	cc, err := nftables.New(nftables.WithNetNSFd(int(k.ns)))
	must(k.t, err)
	return cc
}

func (k kernel) HasFilter() bool {
	k.t.Helper()
	for _, f := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge, nftables.TableFamilyNetdev} {
		ts, err := k.nft().ListTablesOfFamily(f)
		must(k.t, err)
		if slices.ContainsFunc(ts, func(t *nftables.Table) bool { return strings.HasPrefix(t.Name, hostops.FilterName) }) {
			return true
		}
	}
	return false
}

// Hears sends IPv6: what IPv4 there is a bridge of ours lets in only without its
// settings too.
func (k kernel) Hears(bridge string) bool {
	k.t.Helper()
	must(k.t, k.nl.LinkAdd(veth("ear", 1500)))
	defer func() { must(k.t, k.DeleteDevice("ear")) }()
	must(k.t, k.SetMaster("ear", bridge))
	must(k.t, k.SetUp("ear", true))
	must(k.t, k.SetUp("earp", true))
	carries(k.t, k.ns, "ear")
	local := hosttest.Underlays()[1].Prefix.Addr()
	heard := false
	must(k.t, within(int(k.ns), func() error {
		c, err := net.ListenUDP("udp6", &net.UDPAddr{IP: local.AsSlice(), Port: listenPort})
		if err != nil {
			return err
		}
		defer c.Close()
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		src := netip.MustParseAddr("2001:db8:9::9")
		b := frame(everybody, cluster.MAC{2, 0, 0, 0, 0, 9}, unix.ETH_P_IPV6, ipv6(src, local, unix.IPPROTO_UDP, udp(src, local, listenPort, []byte("host"))))
		for range 5 {
			if err := send(fd, b, k.link("earp").Attrs().Index); err != nil {
				return err
			}
		}
		if err := c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			return err
		}
		n, err := c.Read(make([]byte, 100))
		heard = n > 0
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		return err
	}))
	return heard
}

func (k kernel) WipeFilter() error {
	cc := k.nft()
	cc.FlushRuleset()
	return cc.Flush()
}

func (k kernel) DeleteDevice(name string) error        { return k.nl.LinkDel(k.link(name)) }
func (k kernel) SetMTU(name string, mtu int) error     { return k.nl.LinkSetMTU(k.link(name), mtu) }
func (k kernel) SetIsolated(name string, y bool) error { return k.nl.LinkSetIsolated(k.link(name), y) }

func (k kernel) SetUp(name string, up bool) error {
	if up {
		return k.nl.LinkSetUp(k.link(name))
	}
	return k.nl.LinkSetDown(k.link(name))
}

func (k kernel) SetMaster(name, bridge string) error {
	if bridge == "" {
		return k.nl.LinkSetNoMaster(k.link(name))
	}
	return k.nl.LinkSetMaster(k.link(name), k.link(bridge))
}

func (k kernel) flood(tunnel string, peer netip.Addr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: k.link(tunnel).Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT | netlink.NUD_NOARP,
		Flags: netlink.NTF_SELF, HardwareAddr: make(net.HardwareAddr, 6), IP: peer.AsSlice(),
	}
}

func (k kernel) AddPeer(tunnel string, peer netip.Addr) error {
	return k.nl.NeighAppend(k.flood(tunnel, peer))
}

func (k kernel) RemovePeer(tunnel string, peer netip.Addr) error {
	return k.nl.NeighDel(k.flood(tunnel, peer))
}

// inside is a handle in a pinned namespace.
func (k kernel) inside(namespace string) *netlink.Handle {
	k.t.Helper()
	ns, err := netns.GetFromPath(k.dir + "/" + namespace)
	must(k.t, err)
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	must(k.t, err)
	return h
}

func (k kernel) entry(tunnel string, mac cluster.MAC, flags int) *netlink.Neigh {
	k.t.Helper()
	return &netlink.Neigh{
		LinkIndex: k.link(tunnel).Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP | netlink.NUD_REACHABLE,
		Flags: flags, HardwareAddr: mac[:],
	}
}

func (k kernel) SetFDB(tunnel string, mac cluster.MAC, peer netip.Addr) error {
	e := k.entry(tunnel, mac, netlink.NTF_SELF|netlink.NTF_MASTER|ntfSticky)
	e.IP = peer.AsSlice()
	return k.nl.NeighSet(e)
}

func (k kernel) RemoveFDB(tunnel string, mac cluster.MAC, bridge bool) error {
	if bridge {
		return k.nl.NeighDel(k.entry(tunnel, mac, netlink.NTF_MASTER))
	}
	e := k.entry(tunnel, mac, netlink.NTF_SELF)
	if strings.HasPrefix(tunnel, "mv6") {
		e.IP = net.IPv6unspecified // the library sends one in any case
	}
	return k.nl.NeighDel(e)
}

func (k kernel) neighbour(namespace string, a netip.Addr, do func(*netlink.Handle, *netlink.Neigh) error) error {
	h := k.inside(namespace)
	defer h.Close()
	l, err := h.LinkByName(inner)
	if err != nil {
		return err
	}
	return do(h, &netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice()})
}

func (k kernel) SetNeighbour(namespace string, a netip.Addr, mac cluster.MAC) error {
	return k.neighbour(namespace, a, func(h *netlink.Handle, n *netlink.Neigh) error {
		n.HardwareAddr = mac[:]
		return h.NeighSet(n)
	})
}

func (k kernel) RemoveNeighbour(namespace string, a netip.Addr) error {
	return k.neighbour(namespace, a, (*netlink.Handle).NeighDel)
}

// answer changes a neighbour of a bridge.
func (k kernel) answer(bridge string, a netip.Addr) *netlink.Neigh {
	k.t.Helper()
	return &netlink.Neigh{LinkIndex: k.link(bridge).Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice()}
}

func (k kernel) SetAnswer(bridge string, a netip.Addr, mac cluster.MAC) error {
	n := k.answer(bridge, a)
	n.HardwareAddr = mac[:]
	return k.nl.NeighSet(n)
}

func (k kernel) RemoveAnswer(bridge string, a netip.Addr) error {
	return k.nl.NeighDel(k.answer(bridge, a))
}

func (k kernel) RemoveAddress(namespace string, p netip.Prefix) error {
	h := k.inside(namespace)
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if err = h.AddrDel(l, address(p)); err == nil {
			return nil
		}
	}
	return err
}

func address(p netip.Prefix) *netlink.Addr {
	return &netlink.Addr{
		IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		Flags: unix.IFA_F_NODAD,
	}
}

func (k kernel) AddAddress(device string, p netip.Prefix) error {
	return k.nl.AddrAdd(k.link(device), address(p))
}

func (k kernel) SetFlag(port, flag string, yes bool) error {
	kind := map[string]int{
		"flood": nl.IFLA_BRPORT_UNICAST_FLOOD, "mcast_flood": nl.IFLA_BRPORT_MCAST_FLOOD, "bcast_flood": nl.IFLA_BRPORT_BCAST_FLOOD,
		"learning": nl.IFLA_BRPORT_LEARNING, "isolated": nl.IFLA_BRPORT_ISOLATED, "hairpin": nl.IFLA_BRPORT_MODE,
		"locked": nl.IFLA_BRPORT_LOCKED, "proxy_arp": nl.IFLA_BRPORT_PROXYARP,
	}[flag]
	value := byte(0)
	if yes {
		value = 1
	}
	return k.request(func(c *conn) error {
		return c.alone(portStep(int32(k.link(port).Attrs().Index), attr(kind, []byte{value})))
	})
}

func (k kernel) SetSTP(bridge string, yes bool) error {
	value := uint32(0)
	if yes {
		value = 1
	}
	return k.request(func(c *conn) error {
		return c.set(unix.RTM_NEWLINK, 0, linkMsg(int32(k.link(bridge).Attrs().Index)), linkInfo("bridge", attr(nl.IFLA_BR_STP_STATE, u32(value))))
	})
}

// request calls f with a socket in the namespace.
func (k kernel) request(f func(*conn) error) error {
	return within(int(k.ns), func() error {
		var n atomic.Uint64
		c, err := dial(make([]byte, readSize), &n)
		if err != nil {
			return err
		}
		defer c.close()
		return f(c)
	})
}

func (k kernel) DeleteNamespace(name string) error {
	path := k.dir + "/" + name
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		return err
	}
	return os.Remove(path)
}

func (k kernel) AddNamespace(name string) error {
	path := k.dir + "/" + name
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	return unix.Mount("/proc/self/fd/"+strconv.Itoa(int(newNS(k.t))), path, "none", unix.MS_BIND, "")
}

func (k kernel) AddDevice(name string, o hostops.Other) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, o.MTU
	switch o.Kind {
	case hostops.KindBridge:
		return k.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	case hostops.KindTunnel:
		dev := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: int(o.VNI), Port: int(o.Port), Learning: true}
		if o.V6 {
			dev.SrcAddr, dev.UDPCSum = hosttest.Underlays()[1].Prefix.Addr().AsSlice(), true
		}
		return k.nl.LinkAdd(dev)
	}
	return k.nl.LinkAdd(veth(name, o.MTU))
}

func (k kernel) Speak(port string, mac cluster.MAC) error {
	k.t.Helper()
	peer := k.link(port + "p")
	must(k.t, k.nl.LinkSetUp(peer))
	carries(k.t, k.ns, port)
	return within(int(k.ns), func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return send(fd, message(mac, "here I am"), peer.Attrs().Index)
	})
}
