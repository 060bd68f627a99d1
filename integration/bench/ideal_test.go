//go:build linux

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Of the ideal agent's network.
const (
	idealPrefix = "/ideal/members/"
	idealDevice = "vx1"
	idealPort   = 8472
	idealVNI    = 1
	idealLease  = 3600 // seconds; nobody renews it
)

// idealMember is the ideal agent's record; its key names the overlay address.
type idealMember struct {
	Underlay netip.Addr `json:"underlay"`
	MAC      string     `json:"mac"`
}

func newIdealMember(underlay netip.Addr) idealMember {
	u := underlay.As4()
	return idealMember{underlay, net.HardwareAddr{2, 0x11, u[0], u[1], u[2], u[3]}.String()}
}

func (m idealMember) json() string {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // of two strings
	}
	return string(b)
}

// runIdeal is the least that an agent can do: store URL, underlay address,
// underlay device, overlay address.
func runIdeal(args []string) error {
	if len(args) != 5 {
		return fmt.Errorf("%s: want URL UNDERLAY DEVICE OVERLAY", idealWord)
	}
	underlay, overlay := netip.MustParseAddr(args[1]), netip.MustParseAddr(args[3])
	mine := newIdealMember(underlay)
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	a := &idealAgent{h: h, known: map[string]idealMember{}, own: idealPrefix + overlay.String()}
	var device errgroup.Group // while the store is being dialled
	device.Go(func() error { return a.makeDevice(args[2], underlay, overlay, mine.MAC) })

	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{args[0]}, TLS: shownBy(args[4])})
	if err != nil {
		return err
	}
	ctx := context.Background()
	lease, err := cli.Grant(ctx, idealLease)
	if err != nil {
		return err
	}
	if err := device.Wait(); err != nil {
		return err
	}
	r, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.Version(a.own), "=", 0)).
		Then(clientv3.OpPut(a.own, mine.json(), clientv3.WithLease(lease.ID)), clientv3.OpGet(idealPrefix, clientv3.WithPrefix())).Commit()
	if err != nil {
		return err
	}
	if !r.Succeeded {
		return fmt.Errorf("overlay address %s is taken", overlay)
	}
	changes := cli.Watch(ctx, idealPrefix, clientv3.WithPrefix(), clientv3.WithRev(r.Header.Revision+1))
	for _, kv := range r.Responses[1].GetResponseRange().Kvs {
		if err := a.apply(string(kv.Key), kv.Value, false); err != nil {
			return err
		}
	}
	for c := range changes {
		for _, e := range c.Events {
			if err := a.apply(string(e.Kv.Key), e.Kv.Value, e.Type == clientv3.EventTypeDelete); err != nil {
				return err
			}
		}
	}
	return nil
}

type idealAgent struct {
	h     *netlink.Handle
	index int
	own   string
	known map[string]idealMember
}

func (a *idealAgent) makeDevice(name string, underlay, overlay netip.Addr, mac string) error {
	u, err := a.h.LinkByName(name)
	if err != nil {
		return err
	}
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	v := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: idealDevice, MTU: 1450, HardwareAddr: hw},
		VxlanId: idealVNI, Port: idealPort, SrcAddr: underlay.AsSlice(), VtepDevIndex: u.Attrs().Index}
	if err := a.h.LinkAdd(v); err != nil {
		return err
	}
	if err := a.h.AddrAdd(v, &netlink.Addr{IPNet: host32(overlay)}); err != nil {
		return err
	}
	a.index = v.Index
	return a.h.LinkSetUp(v)
}

func host32(a netip.Addr) *net.IPNet { return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)} }

func (a *idealAgent) apply(key string, value []byte, deleted bool) error {
	if key == a.own {
		return nil
	}
	m := a.known[key]
	if deleted {
		delete(a.known, key)
	} else {
		if err := json.Unmarshal(value, &m); err != nil {
			return err
		}
		a.known[key] = m
	}
	mac, err := net.ParseMAC(m.MAC)
	if err != nil {
		return err
	}
	overlay, err := netip.ParseAddr(strings.TrimPrefix(key, idealPrefix))
	if err != nil {
		return err
	}
	ip := net.IP(overlay.AsSlice())
	arp := &netlink.Neigh{LinkIndex: a.index, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST, IP: ip, HardwareAddr: mac}
	fdb := &netlink.Neigh{LinkIndex: a.index, State: netlink.NUD_PERMANENT, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF,
		IP: m.Underlay.AsSlice(), HardwareAddr: mac}
	route := &netlink.Route{LinkIndex: a.index, Dst: host32(overlay), Scope: netlink.SCOPE_LINK}
	steps := []func() error{
		func() error { return a.h.NeighSet(arp) },
		func() error { return a.h.NeighSet(fdb) },
		func() error { return a.h.RouteReplace(route) },
	}
	if deleted {
		steps = []func() error{
			func() error { return a.h.RouteDel(route) },
			func() error { return a.h.NeighDel(fdb) },
			func() error { return a.h.NeighDel(arp) },
		}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("apply %s: %w", key, err)
		}
	}
	return nil
}
