package linux

import (
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestForeignEntries: an entry in a tunnel's FDB that sends a tenant's frames
// elsewhere is removed, in whichever of its forms it was made.
func TestForeignEntries(t *testing.T) {
	hosts, vpcs := meshed(t, 2, true)
	h := hosts[0]
	tunnel, err := h.nl.LinkByName("mv6-10000")
	must(t, err)
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 0x77}
	for name, e := range map[string]netlink.Neigh{
		"to a peer":     {State: netlink.NUD_PERMANENT, IP: hosts[1].v6.AsSlice()},
		"to a stranger": {State: netlink.NUD_PERMANENT | netlink.NUD_NOARP, IP: net.ParseIP("2001:db8:9::9")},
	} {
		t.Run(name, func(t *testing.T) {
			select {
			case <-h.driver.Changed():
			default:
			}
			e.Family, e.LinkIndex, e.Flags, e.HardwareAddr = unix.AF_BRIDGE, tunnel.Attrs().Index, netlink.NTF_SELF, mac
			must(t, h.nl.NeighSet(&e))
			select {
			case <-h.driver.Changed():
			case <-time.After(2 * time.Second):
				t.Error("not noticed")
			}
			if r := h.reconcile(false, vpcs[0]); r.Repairs == 0 {
				t.Error("no repair was counted")
			}
			list, err := h.nl.NeighList(e.LinkIndex, unix.AF_BRIDGE)
			must(t, err)
			for _, got := range list {
				if got.HardwareAddr.String() == mac.String() {
					t.Errorf("it is still there: %+v", got)
				}
			}
		})
	}
}
