package linux

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
)

// fdb changes one forwarding table entry.
func fdb(v *device, proto, flags int, state uint16, kind uint8, mac cluster.MAC, dst netip.Addr, more ...nl.NetlinkRequestData) *step {
	h := &ndMsg{family: unix.AF_BRIDGE, index: v.index, state: state, flags: kind}
	data := []nl.NetlinkRequestData{h, attr(unix.NDA_LLADDR, mac[:])}
	if dst.IsValid() {
		data = append(data, attr(unix.NDA_DST, dst.AsSlice()))
	}
	return ask(proto, flags, append(data, more...)...)
}

// by names the device that an entry's frames leave by.
func by(underlay int32) nl.NetlinkRequestData { return attr(unix.NDA_IFINDEX, u32(uint32(underlay))) }

// floodState makes an entry for the MAC of zeros one of the flood list.
const floodState = unix.NUD_PERMANENT | unix.NUD_NOARP

// addPeer adds a flood list entry. What is sent to a group names the device.
func addPeer(v *device, peer netip.Addr) *step {
	var more []nl.NetlinkRequestData
	if peer.IsMulticast() {
		more = append(more, by(v.underlay))
	}
	return fdb(v, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_APPEND, floodState, unix.NTF_SELF, cluster.MAC{}, peer, more...)
}

// removePeer removes a flood list entry.
func removePeer(v *device, peer netip.Addr, more ...nl.NetlinkRequestData) *step {
	return fdb(v, unix.RTM_DELNEIGH, 0, floodState, unix.NTF_SELF, cluster.MAC{}, peer, more...)
}

// removeGroup removes the flood list entry of a group. It may be the kernel's,
// which names no device, or addPeer's.
func (d *Driver) removeGroup(v *device, group netip.Addr) error {
	if err := ignore(d.conn.alone(removePeer(v, group, by(v.underlay))), unix.ENOENT); err != nil {
		return err
	}
	return ignore(d.conn.alone(removePeer(v, group)), unix.ENOENT)
}

// forget deletes what the tunnel and the bridge have learned of the MACs at a peer.
// What cannot be deleted because it is gone was forgotten otherwise. The bridge
// comes last: it must not be left with an entry, learned anew meanwhile, for a MAC
// that the tunnel then would not know, nor find by flooding once the peer is out of
// its flood list.
func (d *Driver) forget(v *device, peer netip.Addr) error {
	h := nl.NewIfInfomsg(unix.AF_BRIDGE)
	h.Index = v.index
	msgs, err := d.conn.list(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, h)
	if err != nil {
		return err
	}
	var failed []error
	for _, m := range msgs {
		index, e, ok := parseNeigh(m)
		if !ok || index != v.index || !e.self || e.dst != peer || e.static || e.mac == (cluster.MAC{}) {
			continue
		}
		failed = append(failed,
			ignore(d.conn.alone(fdb(v, unix.RTM_DELNEIGH, 0, 0, unix.NTF_SELF, e.mac, netip.Addr{})), unix.ENOENT),
			ignore(d.conn.alone(fdb(v, unix.RTM_DELNEIGH, 0, 0, unix.NTF_MASTER, e.mac, netip.Addr{})), unix.ENOENT))
	}
	return errors.Join(failed...)
}

// Of an entry for both tables the bridge reads "static" and the tunnel "static
// and no flood list": NUD_PERMANENT would mean a MAC of the host's own to the bridge.
const (
	fdbState  = unix.NUD_NOARP | unix.NUD_REACHABLE
	fdbTables = unix.NTF_SELF | unix.NTF_MASTER
)

// setFDB sets an entry in the tunnel's table and the bridge's by one request.
//
// One that yields is for the bridge as if it had learned it from outside: it does not
// age, and goes to any port where the MAC is heard.
func (d *Driver) setFDB(v *device, mac cluster.MAC, peer netip.Addr, yields bool) *step {
	kind := uint8(fdbTables | ntfSticky)
	if yields {
		kind = fdbTables | unix.NTF_EXT_LEARNED
	}
	set := fdb(v, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, fdbState, kind, mac, peer)
	return set.settle(func(answer error) error {
		if !errors.Is(answer, unix.ENOSPC) {
			return answer
		}
		// Learned MACs fill the tunnel's table, whose limit counts ours too.
		if err := d.flushLearned(v); err != nil {
			return fmt.Errorf("make room: %w", err)
		}
		return d.conn.alone(set)
	})
}

// flushLearned makes a tunnel forget what it learned (kernel 6.7). It floods
// and learns again.
func (d *Driver) flushLearned(v *device) error {
	mask := make([]byte, 2)
	putNative16(mask, unix.NUD_NOARP) // with the state 0: what is not static
	h := &ndMsg{family: unix.AF_BRIDGE, index: v.index, flags: unix.NTF_SELF}
	return d.conn.set(unix.RTM_DELNEIGH, nlmBulk, h, attr(ndaStateMask, mask))
}

// removeFDB removes an entry from both tables. The kernel stops at the first
// that does not have it.
func (d *Driver) removeFDB(v *device, mac cluster.MAC) *step {
	remove := func(tables uint8) *step {
		return fdb(v, unix.RTM_DELNEIGH, 0, fdbState, tables, mac, netip.Addr{})
	}
	return remove(fdbTables).settle(func(answer error) error {
		if !errors.Is(answer, unix.ENOENT) {
			return answer
		}
		return errors.Join(ignore(d.conn.alone(remove(unix.NTF_MASTER)), unix.ENOENT), ignore(d.conn.alone(remove(unix.NTF_SELF)), unix.ENOENT))
	})
}

// ndMsg is struct ndmsg.
type ndMsg struct {
	family uint8
	index  int32
	state  uint16
	flags  uint8
}

// Len is that of Serialize's result.
func (m *ndMsg) Len() int { return unix.SizeofNdMsg }

// Serialize implements nl.NetlinkRequestData.
func (m *ndMsg) Serialize() []byte {
	b := []byte{m.family, 0, 0, 0}
	b = append(b, u32(uint32(m.index))...)
	b = append(b, byte(0), byte(0), m.flags, 0)
	putNative16(b[8:], m.state)
	return b
}
