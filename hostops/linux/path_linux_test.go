package linux

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/meshvpc/meshvpc/hostops"
)

// TestNarrow searches every size there is in few rounds.
func TestNarrow(t *testing.T) {
	for _, want := range []int{1480, 1550, 9070} {
		for mtu := leastPath; mtu <= want; mtu++ {
			passes, fails, rounds := 0, want+1, 0
			for sizes := append(between(leastPath, want), leastPath); len(sizes) > 0; sizes = between(passes, fails) {
				rounds++
				sizes = append(sizes, want)
				var answered []int
				for _, s := range sizes {
					if s <= mtu {
						answered = append(answered, s)
					}
				}
				passes, fails = narrow(passes, fails, sizes, answered)
			}
			if passes != mtu || rounds > 3 {
				t.Fatalf("MTU %d of %d: found %d in %d rounds", mtu, want, passes, rounds)
			}
		}
	}
	// What was lost below a size that passes is no bound.
	if passes, fails := narrow(0, 1501, []int{600, 700, 800, 1500}, []int{600, 800}); passes != 800 || fails != 1500 {
		t.Errorf("narrow: %d, %d", passes, fails)
	}
}

func TestPathMTU(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%v", v6), func(t *testing.T) {
			hosts := newUnderlay(t, 2, 1500)
			from, to := hosts[0].v4, hosts[1].v4
			if v6 {
				from, to = hosts[0].v6, hosts[1].v6
			}
			find := func(from, to netip.Addr, want int) (size int, err error) {
				t.Helper()
				must(t, within(int(hosts[0].ns), func() error {
					size, err = PathMTU(t.Context(), from, to, want)
					return nil
				}))
				return size, err
			}
			if size, err := find(from, to, 1500); size != 1500 || err != nil {
				t.Errorf("all is open: %d, %v", size, err)
			}
			if size, err := find(netip.Addr{}, to, 1520); size != 1500 || err != nil {
				t.Errorf("this host's device is too small: %d, %v", size, err)
			}
			u0, err := hosts[1].nl.LinkByName("u0")
			must(t, err)
			must(t, hosts[1].nl.LinkSetMTU(u0, 1403))
			const tag = 4 // bytes of a VLAN tag, which a veth has room for beyond its MTU
			if size, err := find(from, to, 1500); size != 1403+tag || err != nil {
				t.Errorf("the peer's device is too small: %d, %v", size, err)
			}
			if _, err := find(from, to.Next(), 1500); !errors.Is(err, hostops.ErrNoAnswer) {
				t.Errorf("nobody there: %v", err)
			}
			if _, err := find(to.Next(), to, 1500); err == nil || errors.Is(err, hostops.ErrNoAnswer) {
				t.Errorf("an address that is not this host's: %v", err)
			}
		})
	}
}

func TestTunnelsOfOthers(t *testing.T) {
	h := newUnderlay(t, 1, 1500)[0]
	must(t, h.nl.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "flannel"}, VxlanId: 7, Port: 4789}))
	var got []Tunnel
	must(t, within(int(h.ns), func() (err error) {
		got, err = Tunnels()
		return err
	}))
	if len(got) != 1 || got[0] != (Tunnel{"flannel", 7, 4789, false}) {
		t.Errorf("got %+v", got)
	}
}
