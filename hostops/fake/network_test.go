package fake_test

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/fake"
)

// TestPing breaks one thing at a time; each alone loses the ping, in whichever
// direction it is broken, and mending it brings it back.
func TestPing(t *testing.T) {
	n := fake.NewNetwork()
	var hosts []*fake.Host
	var drivers []*fake.Driver
	var ops []*hostops.Host
	local := []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")}
	vtep := []netip.Prefix{netip.MustParsePrefix("10.100.0.1/16"), netip.MustParsePrefix("10.100.0.2/16")}
	mend := func() {
		t.Helper()
		for i, o := range ops {
			r := o.Reconcile(t.Context(), hostops.Desired{VPCs: []hostops.VPC{{
				Name: "blue", VNI: 7, MTU: 1400, VTEP: vtep[i],
				Tunnels: []hostops.Tunnel{{Local: local[i], Device: "u0", Port: 4789, Peers: []hostops.Peer{{Node: "x", Underlay: local[1-i], VTEP: vtep[1-i].Addr()}}}},
			}}}, true)
			if !r.Ready["blue"] {
				t.Fatalf("host %d: %+v", i, r)
			}
		}
	}
	for i := range local {
		h := n.NewHost(hostops.Address{Device: "u0", Prefix: netip.PrefixFrom(local[i], 64), MTU: 1500, Up: true})
		d, err := h.Open()
		must(t, err)
		o, err := hostops.New(hostops.Config{Driver: d})
		must(t, err)
		hosts, drivers, ops = append(hosts, h), append(drivers, d), append(ops, o)
	}
	ping := func(size int) error {
		var err error
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err = hostops.Ping(ctx, drivers[0], hostops.Echo{VPC: "blue", To: vtep[1].Addr(), Size: size})
		})
		return err
	}
	mac := func(i int) cluster.MAC { return hostops.VTEPMAC(vtep[i].Addr()) }
	mend()
	must(t, ping(0))
	must(t, ping(1400))
	must(t, hosts[0].RemovePeer("mv6-7", local[1]))
	must(t, ping(0)) // what is for a VTEP does not flood
	if err := ping(1401); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("oversized ping: %v, want EMSGSIZE", err)
	}
	deny := hostops.Deny{Target: hostops.Target{VPC: "blue", Object: "filter"}, VNI: 7}
	for i, h := range hosts {
		for name, breakIt := range map[string]func() error{
			"tunnel down":    func() error { return h.SetUp("mv6-7", false) },
			"tunnel deleted": func() error { return h.DeleteDevice("mv6-7") },
			"peer removed": func() error {
				return errors.Join(h.RemovePeer("mv6-7", local[1-i]), h.RemoveFDB("mv6-7", mac(1-i), true))
			},
			"FDB entry elsewhere": func() error { return h.SetFDB("mv6-7", mac(1-i), netip.MustParseAddr("2001:db8::9")) },
			"neighbour elsewhere": func() error { return h.SetNeighbour("vpc-blue", vtep[1-i].Addr(), mac(i)) },
			"out of the bridge":   func() error { return h.SetMaster("mv6-7", "") },
			"bridge down":         func() error { return h.SetUp("blue", false) },
			"port down":           func() error { return h.SetUp("mn-7", false) },
			"address removed":     func() error { return h.RemoveAddress("vpc-blue", vtep[i]) },
			"filter entry absent": func() error { deny.Sources = local[1-i : 2-i]; return drivers[i].Apply(t.Context(), deny) },
			"cut":                 func() error { n.Cut(local[i], local[1-i]); return nil },
		} {
			must(t, breakIt())
			if err := ping(0); err == nil {
				t.Errorf("host %d, %s: ping was answered", i, name)
			}
			n.Heal()
			mend()
			if err := ping(0); err != nil {
				t.Errorf("host %d, %s, mended: %v", i, name, err)
			}
		}
	}
	must(t, hosts[1].DeleteNamespace("vpc-blue"))
	if err := ping(0); !errors.Is(err, hostops.ErrNoAnswer) {
		t.Errorf("ping of a host without namespace: %v, want ErrNoAnswer", err)
	}
	must(t, hosts[1].WipeFilter())
	mend()
	must(t, ping(0))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
