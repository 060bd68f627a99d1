package lab

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// router is the lab's internet, in the supervisor's network namespace: a link
// to each host, and the filter that cuts them.
type router struct {
	mtu     int
	filter  *filter // nil until the first cut
	detour  *detour // nil until something is impaired
	segment int     // a bridge that all links are ports of; 0: none

	mu   sync.Mutex
	made int // links so far, for their names
}

func newRouter(mtu int, segment bool) (*router, error) {
	if err := quietIPv6(); err != nil {
		return nil, err
	}
	if err := checkKernel(); err != nil {
		return nil, err
	}
	for _, s := range []string{"ipv6/conf/all/forwarding", "ipv4/conf/all/forwarding"} {
		if err := sysctl(s, "1"); err != nil {
			return nil, fmt.Errorf("%w: %w: /proc/sys must be writable; in a container, run it privileged", err, ErrRefused)
		}
	}
	// Loose ends of other machines' defaults: cut hosts would notice them.
	for _, s := range []string{"ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"} {
		if err := sysctl(s, "0"); err != nil {
			return nil, err
		}
	}
	r := &router{mtu: mtu}
	if segment {
		if err := r.makeSegment(); err != nil {
			return nil, fmt.Errorf("make segment: %w", err)
		}
	}
	return r, up("lo")
}

// makeSegment makes the bridge that holds the router's addresses in place of its
// links. It does not snoop: multicast goes to all.
func (r *router) makeSegment() error {
	const name = "segment"
	snooping := false
	b := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: r.mtu, TxQLen: -1}, MulticastSnooping: &snooping}
	if err := netlink.LinkAdd(b); err != nil {
		return err
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	r.segment = l.Attrs().Index
	return netlink.LinkSetUp(l)
}

// checkKernel asks for one impossible device of each kind, of which a kernel
// that has it says something else than one that has not.
func checkKernel() error {
	multicast := net.HardwareAddr{1, 0, 0, 0, 0, 1}
	for _, kind := range []netlink.Link{
		&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "probe", HardwareAddr: multicast}},
		&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "probe", HardwareAddr: multicast}, PeerName: "probe2"},
		&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, VxlanId: 1 << 24},
	} {
		err := netlink.LinkAdd(kind)
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
			return fmt.Errorf("make %s device: %w: %w: the kernel lacks it or may not load it; as root: modprobe %s", kind.Type(), err, ErrRefused, kind.Type())
		}
		if err == nil {
			return fmt.Errorf("probe for %s devices: the kernel made one that cannot be", kind.Type())
		}
	}
	c, err := nftables.New()
	if err == nil {
		_, err = c.ListTablesOfFamily(nftables.TableFamilyINet)
	}
	if err != nil {
		return fmt.Errorf("list nf_tables: %w: %w: the kernel lacks it or may not load it; as root: modprobe nf_tables", err, ErrRefused)
	}
	return nil
}

func up(name string) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("set device %s up: %w", name, err)
	}
	return nil
}

// ready waits until a device can be reached: until the kernel has taken note of
// its carrier, which it may put off for a second (asking makes recent kernels do
// it at once), and has joined the multicast groups of its IPv6 addresses, by
// which neighbours find them. Without it the first packets are lost.
func ready(index int) error {
	deadline := time.Now().Add(3 * time.Second)
	for {
		l, err := netlink.LinkByIndex(index)
		if err != nil {
			return fmt.Errorf("wait for device %d: %w", index, err)
		}
		addrs, err := addressesOf(l, netlink.FAMILY_V6)
		if err != nil {
			return fmt.Errorf("wait for addresses of device %s: %w", l.Attrs().Name, err)
		}
		tentative := slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 })
		if l.Attrs().OperState == netlink.OperUp && !tentative {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wait for device %s: it is %s, with addresses %v", l.Attrs().Name, l.Attrs().OperState, addrs)
		}
		<-time.After(time.Millisecond)
	}
}

// plug lays a cable to the namespace and returns the index of our end. Its end
// is u0, down and without address.
func (r *router) plug(namespace *os.File, addresses []netip.Prefix) (int, error) {
	r.mu.Lock()
	r.made++
	name := fmt.Sprintf("r%d", r.made)
	r.mu.Unlock()
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, MTU: r.mtu, TxQLen: -1, Flags: net.FlagUp},
		PeerName:  UnderlayDevice, PeerNamespace: netlink.NsFd(int(namespace.Fd())), PeerTxQLen: -1,
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return 0, fmt.Errorf("make underlay link %s: %w", name, err)
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("make underlay link %s: %w", name, err)
	}
	if r.segment != 0 {
		if err := netlink.LinkSetMasterByIndex(l, r.segment); err != nil {
			return 0, fmt.Errorf("plug underlay link %s into the segment: %w", name, err)
		}
	}
	return l.Attrs().Index, r.address(l.Attrs().Index, addresses)
}

func (r *router) unplug(device int) error {
	err := netlink.LinkDel(deviceByIndex(device))
	if err != nil && !errors.Is(err, unix.ENODEV) { // it went with the host's namespace
		return fmt.Errorf("remove underlay link %d: %w", device, err)
	}
	return nil
}

func (r *router) address(device int, addresses []netip.Prefix) error {
	device = cmp.Or(r.segment, device)
	for _, a := range addresses {
		if err := addAddress(device, a); err != nil {
			return err
		}
	}
	return nil
}

func (r *router) unaddress(device int, addresses []netip.Prefix) error {
	device = cmp.Or(r.segment, device)
	for _, a := range addresses {
		if err := removeAddress(device, a); err != nil {
			return err
		}
	}
	return nil
}

func deviceByIndex(i int) netlink.Link {
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: i}}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// addAddress adds an address. It is not marked as exempt from duplicate address
// detection, which quietIPv6 has turned off: so the kernel shows by the mark
// "tentative" that it is not done with it yet.
func addAddress(device int, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if err := netlink.AddrAdd(deviceByIndex(device), a); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add address %s: %w", p, err)
	}
	return nil
}

// addressesOf lists a device's addresses; a list that changed under the reading
// is read again.
func addressesOf(l netlink.Link, family int) ([]netlink.Addr, error) {
	for {
		addrs, err := netlink.AddrList(l, family)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return addrs, err
		}
	}
}

func removeAddress(device int, p netip.Prefix) error {
	err := netlink.AddrDel(deviceByIndex(device), &netlink.Addr{IPNet: ipNet(p)})
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove address %s: %w", p, err)
	}
	return nil
}

// filter is the router's table: a set of (from device, to device), whose
// packets are dropped.
type filter struct {
	conn *nftables.Conn
	set  *nftables.Set
}

// setChunk is how many set elements fit into one netlink transaction by far.
const setChunk = 500

// drop closes exactly these directions. More than setChunk take several
// transactions.
func (r *router) drop(closed []link) error {
	if r.filter == nil {
		if len(closed) == 0 {
			return nil
		}
		if r.segment != 0 {
			return fmt.Errorf("cut underlay: the hosts are on one segment, with no router between them: %w", ErrRefused)
		}
		f, err := newFilter()
		if err != nil {
			return fmt.Errorf("cut underlay: make filter: %w", err)
		}
		r.filter = f
	}
	var elements []nftables.SetElement
	for _, l := range closed {
		key := append(binaryutil.NativeEndian.PutUint32(uint32(l.in)), binaryutil.NativeEndian.PutUint32(uint32(l.out))...)
		elements = append(elements, nftables.SetElement{Key: key})
	}
	f := r.filter
	f.conn.FlushSet(f.set)
	for {
		n := min(len(elements), setChunk)
		if n > 0 {
			if err := f.conn.SetAddElements(f.set, elements[:n]); err != nil {
				return fmt.Errorf("cut underlay: %w", err)
			}
		}
		if err := f.conn.Flush(); err != nil {
			return fmt.Errorf("cut underlay: %w", err)
		}
		if elements = elements[n:]; len(elements) == 0 {
			return nil
		}
	}
}

func newFilter() (*filter, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "lab"})
	key, err := nftables.ConcatSetType(nftables.TypeIFIndex, nftables.TypeIFIndex)
	if err != nil {
		return nil, err
	}
	set := &nftables.Set{Table: t, Name: "cut", KeyType: key, Concatenation: true}
	if err := c.AddSet(set, nil); err != nil {
		return nil, err
	}
	accept := nftables.ChainPolicyAccept
	chain := c.AddChain(&nftables.Chain{
		Table: t, Name: "forward", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &accept,
	})
	c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: unix.NFT_REG32_00},
		&expr.Meta{Key: expr.MetaKeyOIF, Register: unix.NFT_REG32_01},
		&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: set.Name, SetID: set.ID},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	return &filter{c, set}, c.Flush()
}
