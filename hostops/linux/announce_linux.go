package linux

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// announce sends from the bridge's own device: to all of its ports that are up, and
// by each tunnel to all of its peers. Nothing comes in that way.
func (d *Driver) announce(op hostops.Announce) error {
	b := d.devices.byName(op.Bridge)
	if b == nil {
		return fmt.Errorf("bridge %s: %w", op.Bridge, unix.ENODEV)
	}
	return within(d.ns, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // receives nothing
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, frame := range announcements(op.MAC, op.Addresses) {
			if err := unix.Sendto(fd, frame, unix.MSG_DONTWAIT, &unix.SockaddrLinklayer{Ifindex: int(b.index), Halen: 6}); err != nil {
				return err
			}
		}
		return nil
	})
}

// announcements are the frames that tell where a workload is: for each IPv4 address
// a gratuitous ARP request (RFC 5944 §4.6), for each IPv6 address an unsolicited
// neighbour advertisement (RFC 4861 §7.2.6). Without addresses it is a RARP request,
// which only bridges look at.
func announcements(mac cluster.MAC, as []netip.Addr) (frames [][]byte) {
	all := cluster.MAC{255, 255, 255, 255, 255, 255}
	arp := func(kind uint16, op byte, target cluster.MAC, ip []byte) []byte {
		b := slices.Concat(all[:], mac[:], u16be(kind), []byte{0, 1, 8, 0, 6, 4, 0, op}, mac[:], ip, target[:], ip)
		return append(b, make([]byte, 18)...) // to the least length of a frame
	}
	for _, a := range as {
		if a.Is4() {
			frames = append(frames, arp(unix.ETH_P_ARP, 1, cluster.MAC{}, a.AsSlice()))
		} else {
			frames = append(frames, advertisement(mac, a))
		}
	}
	if len(frames) == 0 {
		const requestReverse = 3
		frames = append(frames, arp(unix.ETH_P_RARP, requestReverse, mac, make([]byte, 4)))
	}
	return frames
}

func advertisement(mac cluster.MAC, a netip.Addr) []byte {
	allNodes := netip.MustParseAddr("ff02::1")
	const override, targetLinkLayer = 0x20, 2
	na := slices.Concat([]byte{136, 0, 0, 0, override, 0, 0, 0}, a.AsSlice(), []byte{targetLinkLayer, 1}, mac[:])
	sum := slices.Concat(a.AsSlice(), allNodes.AsSlice(), []byte{0, 0, 0, byte(len(na)), 0, 0, 0, unix.IPPROTO_ICMPV6}, na)
	binary.BigEndian.PutUint16(na[2:], checksum(sum))
	header := []byte{0x60, 0, 0, 0, 0, byte(len(na)), unix.IPPROTO_ICMPV6, 255}
	return slices.Concat([]byte{0x33, 0x33, 0, 0, 0, 1}, mac[:], u16be(unix.ETH_P_IPV6), header, a.AsSlice(), allNodes.AsSlice(), na)
}
