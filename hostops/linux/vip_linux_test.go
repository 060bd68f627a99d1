package linux

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/hosttest"
)

// onVIPs is a mesh of two hosts with a workload on each, of which the first has a
// gateway, that other hosts have, too, and serves two VIPs. One server in the VPC's
// namespace listens on all its addresses.
func onVIPs(t *testing.T) (hosts []*host, vpcs []hostops.VPC, clients []hostops.Port) {
	t.Helper()
	hosts = newUnderlay(t, 2, 1500)
	for i, h := range hosts {
		v := mesh(hosts, i, "blue", 10000, false)
		v.Gateway = hosttest.MakeGateway(v)
		h.reconcile(false, v)
		c := hosttest.MakePort(v, i, h.room("a"))
		c.Gateways = nil
		v.Ports = []hostops.Port{c}
		for n := range 2 {
			p := hosttest.MakeVIP(v, n)
			p.Standby = i != 0
			v.Ports = append(v.Ports, p)
		}
		slices.SortFunc(v.Ports, func(a, b hostops.Port) int { return strings.Compare(a.Device, b.Device) })
		vpcs, clients = append(vpcs, v), append(clients, c)
		h.attach(v)
	}
	return hosts, vpcs, clients
}

// TestVIPsAnswer: what runs in the VPC's namespace answers at VIPs, from the same host
// and from another, though a gateway of the same network is there that speaks with
// local workloads only; and at the host's own address in the VPC it does not.
func TestVIPsAnswer(t *testing.T) {
	hosts, vpcs, clients := onVIPs(t)
	listen(t, hosts[0].dir+"/vpc-blue", netip.IPv6Unspecified())
	for _, p := range vpcs[0].Ports {
		if p.Kind != hostops.PortVIP {
			continue
		}
		for _, a := range p.Addresses {
			for _, c := range clients {
				connect(t, c.Namespace, a.Addr())
			}
		}
	}
	inNS(t, hosts[1].dir+"/vpc-blue", func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(vtep(0).Addr(), listenPort).String(), 300*time.Millisecond)
		if err == nil {
			c.Close()
			t.Error("what runs in the namespace is reached at the VTEP's address")
		}
		return nil
	})
	for i, h := range hosts {
		if r := h.reconcile(true, vpcs[i]); len(r.Applied) > 0 {
			t.Errorf("host %d: applied %v", i, r.Applied)
		}
	}
}

// TestSourcesAreRepaired: whoever takes a rule or a route away by which a VIP's answers
// leave, finds it made anew.
func TestSourcesAreRepaired(t *testing.T) {
	hosts, vpcs, clients := onVIPs(t)
	h := hosts[0]
	in := kernel{t: t, dir: h.dir}.inside("vpc-blue")
	defer in.Close()
	listen(t, h.dir+"/vpc-blue", netip.IPv6Unspecified())
	for name, spoil := range map[string]func() (n int, err error){
		"rules": func() (n int, err error) {
			rules, err := in.RuleList(netlink.FAMILY_ALL)
			if err != nil {
				return 0, err
			}
			for _, r := range rules {
				if r.Priority == sourcePriority {
					if err := in.RuleDel(&r); err != nil {
						return n, err
					}
					n++
				}
			}
			return n, nil
		},
		"routes": func() (n int, err error) {
			routes, err := in.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return 0, err
			}
			for _, r := range routes {
				if r.Table&sourceTables == sourceTables {
					if err := in.RouteDel(&r); err != nil {
						return n, err
					}
					n++
				}
			}
			return n, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := spoil()
			must(t, err)
			if n != 4 { // two VIPs, two families
				t.Fatalf("%d are there, want 4", n)
			}
			if r := h.reconcile(false, vpcs[0]); r.Repairs == 0 {
				t.Errorf("no repair was counted, applied %v", r.Applied)
			}
			for _, p := range vpcs[0].Ports {
				if p.Kind == hostops.PortVIP {
					for _, a := range p.Addresses {
						connect(t, clients[1].Namespace, a.Addr())
					}
				}
			}
		})
	}
}
