package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tamper is the stage that does what Lab.Tamper asks, in the namespace that it
// was started in.
func tamper(verb string, args []string) (exit int) {
	out, err := tampering(verb, args)
	if err == nil && out != nil {
		err = json.NewEncoder(os.Stdout).Encode(out)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", verb, err)
		return 1
	}
	return 0
}

// tampers maps verbs on one device to what they do.
var tampers = map[string]func(netlink.Link) error{
	"link-del":       netlink.LinkDel,
	"link-down":      netlink.LinkSetDown,
	"link-up":        netlink.LinkSetUp,
	"link-nomaster":  netlink.LinkSetNoMaster,
	"link-unisolate": func(l netlink.Link) error { return netlink.LinkSetIsolated(l, false) },
}

func tampering(verb string, args []string) (out any, err error) {
	switch {
	case verb == "links":
		return links()
	case verb == "nft-flush":
		c, err := nftables.New()
		if err != nil {
			return nil, err
		}
		c.FlushRuleset()
		return nil, c.Flush()
	case verb == "drops":
		return drops()
	case verb == "forward-drop":
		return nil, dropForwarded()
	case verb == "store-drop", verb == "store-pass":
		return nil, dropStore(verb == "store-drop")
	case len(args) == 0:
		return nil, fmt.Errorf("what to tamper with is missing")
	case strings.HasPrefix(verb, "disk-"):
		return nil, tamperDisk(verb, args)
	case verb == "netns-add", verb == "netns-del":
		return nil, tamperNetns(verb, args)
	case verb == "sysctl" && len(args) == 2:
		return nil, os.WriteFile(filepath.Join("/proc/sys/net", args[0]), []byte(args[1]), 0)
	case verb == "link-add-bridge":
		return nil, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: args[0]}})
	case verb == "link-add-tap" && len(args) == 2:
		return nil, addTap(args[0], args[1])
	case verb == "link-add-vxlan" && len(args) == 3:
		vni, err1 := strconv.Atoi(args[1])
		port, err2 := strconv.Atoi(args[2])
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("%q, %q: want numbers", args[1], args[2])
		}
		return nil, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: args[0]}, VxlanId: vni, Port: port, Learning: true, SrcAddr: net.IPv6loopback})
	}
	link, err := netlink.LinkByName(args[0])
	if err != nil {
		return nil, err
	}
	if do := tampers[verb]; do != nil {
		return nil, do(link)
	}
	return tamperingWith(verb, link, args[1:])
}

func tamperingWith(verb string, link netlink.Link, args []string) (out any, err error) {
	switch {
	case verb == "flood":
		return flood(link)
	case verb == "link-mtu" && len(args) == 1:
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return nil, err
		}
		return nil, netlink.LinkSetMTU(link, n)
	case (verb == "addr-add" || verb == "addr-del") && len(args) == 1:
		a, err := netlink.ParseAddr(args[0])
		if err != nil {
			return nil, err
		}
		if verb == "addr-del" {
			return nil, netlink.AddrDel(link, a)
		}
		return nil, netlink.AddrAdd(link, a)
	case (verb == "fdb-add" || verb == "fdb-del") && len(args) == 2:
		mac, err := net.ParseMAC(args[0])
		if err != nil {
			return nil, err
		}
		entry := &netlink.Neigh{LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF,
			State: netlink.NUD_PERMANENT | netlink.NUD_NOARP, HardwareAddr: mac, IP: net.ParseIP(args[1])}
		if verb == "fdb-del" {
			return nil, netlink.NeighDel(entry)
		}
		return nil, netlink.NeighAppend(entry)
	}
	return nil, fmt.Errorf("unknown words %q", args)
}

// tamperNetns makes network namespaces with names, or takes them away.
func tamperNetns(verb string, names []string) error {
	runtime.LockOSThread() // and the process ends with it
	for _, name := range names {
		path := filepath.Join(netnsDir, name)
		if verb == "netns-del" {
			if err := errors.Join(unix.Unmount(path, unix.MNT_DETACH), os.Remove(path)); err != nil {
				return err
			}
			continue
		}
		if err := errors.Join(os.MkdirAll(netnsDir, 0o755), os.WriteFile(path, nil, 0o444), unix.Unshare(unix.CLONE_NEWNET),
			unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")); err != nil {
			return fmt.Errorf("make network namespace %s: %w", name, err)
		}
	}
	return nil
}

// dropForwarded has the packet filter drop what it is to forward, as Docker does it:
// "iptables -P FORWARD DROP" and the same of ip6tables.
func dropForwarded() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	policy := nftables.ChainPolicyDrop
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		c.AddChain(&nftables.Chain{Name: "FORWARD", Table: c.AddTable(&nftables.Table{Name: "filter", Family: family}), Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &policy})
	}
	return c.Flush()
}

// dropStore has the host reach no server's store, and all else, or ends that.
func dropStore(on bool) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Name: "no-store", Family: nftables.TableFamilyINet})
	if !on {
		c.DelTable(table)
		return c.Flush()
	}
	chain := c.AddChain(&nftables.Chain{Name: "output", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(2379)},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	return c.Flush()
}

// addTap makes a tap device that stays when nobody holds it, in a bridge.
func addTap(name, bridge string) error {
	b, err := netlink.LinkByName(bridge)
	if err != nil {
		return err
	}
	tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP}
	if err := netlink.LinkAdd(tap); err != nil {
		return err
	}
	if err := netlink.LinkSetMaster(tap, b); err != nil {
		return err
	}
	return netlink.LinkSetUp(tap)
}

func drops() (map[string]uint64, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyBridge)
	if err != nil {
		return nil, err
	}
	counts := map[string]uint64{}
	for _, chain := range chains {
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			text, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			for _, e := range r.Exprs {
				if n, ok := e.(*expr.Counter); ok {
					counts[text] += n.Packets
				}
			}
		}
	}
	return counts, nil
}

func links() ([]string, error) {
	list, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	names := make([]string, len(list))
	for i, l := range list {
		names[i] = l.Attrs().Name
	}
	return names, nil
}

func flood(link netlink.Link) ([]string, error) {
	entries, err := netlink.NeighList(link.Attrs().Index, unix.AF_BRIDGE)
	if err != nil {
		return nil, err
	}
	peers := []string{}
	for _, e := range entries {
		if ip, ok := netip.AddrFromSlice(e.IP); ok && e.HardwareAddr.String() == "00:00:00:00:00:00" {
			peers = append(peers, ip.Unmap().String())
		}
	}
	return peers, nil
}
