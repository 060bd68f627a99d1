package linux

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
)

// neighbourEvent applies one message about the port's neighbours.
func (sp *space) neighbourEvent(there bool, b []byte) (changed bool) {
	a, mac, ok := parseNeighbour(b, sp.index)
	switch {
	case !a.IsValid():
		return false
	case there && ok:
		return sp.neighbours.set(a, mac)
	}
	return sp.neighbours.remove(a)
}

// parseNeighbour reads a neighbour of the device with this index; a is not
// valid if it is something else. ok: it was told for good, and not learned.
func parseNeighbour(b []byte, index int32) (a netip.Addr, mac cluster.MAC, ok bool) {
	if len(b) < unix.SizeofNdMsg || (b[0] != unix.AF_INET && b[0] != unix.AF_INET6) || int32(native32(b[4:])) != index || b[10]&unix.NTF_PROXY != 0 {
		return a, mac, false
	}
	attrs(b[unix.SizeofNdMsg:], func(kind int, data []byte) {
		switch kind {
		case unix.NDA_DST:
			a = addr(data)
		case unix.NDA_LLADDR:
			if len(data) == len(mac) {
				mac = cluster.MAC(data)
			}
		}
	})
	return a, mac, binary.NativeEndian.Uint16(b[8:])&unix.NUD_PERMANENT != 0
}

// readNeighbours reads all neighbours of the port.
func (sp *space) readNeighbours() error {
	msgs, err := sp.conn.list(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, &ndMsg{index: sp.index})
	if err != nil {
		return wrap("list neighbours", err)
	}
	sp.neighbours, sp.neighboursRead = shared[netip.Addr, cluster.MAC]{}, true
	for _, m := range msgs {
		sp.neighbourEvent(true, m)
	}
	return nil
}

// neighbour tells the inner end an address's MAC for good, or takes it back if
// mac is nil.
func (d *Driver) neighbour(namespace string, a netip.Addr, mac *cluster.MAC) (*step, error) {
	sp := d.spaces[namespace]
	if sp == nil || sp.index == 0 {
		return nil, ignoreGone(mac != nil)
	}
	h := &ndMsg{family: unix.AF_INET6, index: sp.index, state: unix.NUD_PERMANENT}
	if a.Is4() {
		h.family = unix.AF_INET
	}
	dst := attr(unix.NDA_DST, a.AsSlice())
	var s *step
	if mac != nil {
		s = ask(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, h, dst, attr(unix.NDA_LLADDR, mac[:]))
	} else {
		s = ask(unix.RTM_DELNEIGH, 0, h, dst).but(unix.ENOENT, unix.ENODEV)
	}
	s.space = namespace
	return s, nil
}
