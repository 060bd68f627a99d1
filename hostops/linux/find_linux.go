package linux

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// Find implements hostops.Finder: one request, and one more for what is behind a
// tunnel; no table is dumped.
func (d *Driver) Find(ctx context.Context, vpc string, mac cluster.MAC) (hostops.Sighting, error) {
	var s hostops.Sighting
	if err := ctx.Err(); err != nil {
		return s, fmt.Errorf("find %s: %w", mac, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.drain() { // of a port that came a moment ago
		d.signal()
	}
	bridge := d.devices.byName(vpc)
	if bridge == nil {
		return s, fmt.Errorf("find %s: there is no bridge %s", mac, vpc)
	}
	at, _, err := d.entryOf(&ndMsg{family: unix.AF_BRIDGE}, mac, attr(unix.NDA_MASTER, u32(uint32(bridge.index))))
	if err != nil {
		return s, fmt.Errorf("find %s in bridge %s: %w", mac, vpc, err)
	}
	port := d.devices[at]
	if at == 0 || port == nil || port == bridge { // the last: it is the bridge's own
		return s, nil
	}
	s.Device = port.name
	if hostops.Kind(port.kind) != hostops.KindTunnel {
		return s, nil
	}
	if _, s.Peer, err = d.entryOf(&ndMsg{family: unix.AF_BRIDGE, index: at, flags: unix.NTF_SELF}, mac); err != nil {
		return s, fmt.Errorf("find %s in tunnel %s: %w", mac, port.name, err)
	}
	if !s.Peer.IsValid() { // forgotten between the two
		s.Device = ""
	}
	return s, nil
}

// entryOf asks for one entry of a table: the device that it names, 0 if there is none,
// and the peer.
func (d *Driver) entryOf(table *ndMsg, mac cluster.MAC, more ...nl.NetlinkRequestData) (index int32, peer netip.Addr, err error) {
	msgs, err := d.conn.do(unix.RTM_GETNEIGH, 0, unix.RTM_NEWNEIGH, append([]nl.NetlinkRequestData{table, attr(unix.NDA_LLADDR, mac[:])}, more...)...)
	if errors.Is(err, unix.ENOENT) {
		return 0, peer, nil
	}
	if err != nil {
		return 0, peer, err
	}
	for _, m := range msgs {
		if i, e, ok := parseNeigh(m); ok && e.mac == mac {
			return i, e.dst, nil
		}
	}
	return 0, peer, nil
}
