//go:build linux

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/meshvpc/meshvpc/integration/lab"
	"github.com/vishvananda/netlink"
)

// helper is what the test binary does when run inside a lab, as "meshvpc":
// os.Args[1] says what.
func helper() (handled bool, exit int) {
	if len(os.Args) < 3 {
		return false, 0
	}
	var err error
	switch arg := os.Args[2]; os.Args[1] {
	case "say":
		fmt.Println(arg)
	case "start":
		err = startAndWait(arg)
	case "bridge":
		err = makeBridge(arg)
	case "mesh":
		err = makeMesh(arg, os.Args[3:])
	default:
		return false, 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return true, 1
	}
	return true, 0
}

// startAndWait starts a lab tied to this process, and waits to be killed.
func startAndWait(name string) error {
	if _, err := lab.Start(context.Background(), lab.Config{Name: name}); err != nil {
		return err
	}
	fmt.Println("up")
	select {}
}

// makeBridge makes a bridge, as a VPC would have it, with MTU 1430.
func makeBridge(name string) error {
	b := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1430}}
	return errors.Join(netlink.LinkAdd(b), netlink.LinkSetUp(b))
}

// makeMesh makes a bridge with one VXLAN tunnel port to the others.
func makeMesh(name string, peers []string) error {
	if err := makeBridge(name); err != nil {
		return err
	}
	bridge, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	u0, err := netlink.LinkByName("u0")
	if err != nil {
		return err
	}
	local := netip.MustParseAddr(peers[0])
	v := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "mv", MTU: 1430}, VxlanId: 42, VtepDevIndex: u0.Attrs().Index, SrcAddr: local.AsSlice(), Port: 4789, Learning: true}
	if err := netlink.LinkAdd(v); err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetMaster(v, bridge), netlink.LinkSetIsolated(v, true), netlink.LinkSetUp(v)); err != nil {
		return err
	}
	for _, p := range peers[1:] {
		entry := &netlink.Neigh{
			LinkIndex: v.Index, Family: 7, State: netlink.NUD_PERMANENT | netlink.NUD_NOARP, Flags: netlink.NTF_SELF,
			HardwareAddr: make([]byte, 6), IP: netip.MustParseAddr(p).AsSlice(),
		}
		if err := netlink.NeighAppend(entry); err != nil {
			return err
		}
	}
	return nil
}
