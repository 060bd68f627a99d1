package linux

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

var _ hostops.Listener = (*Driver)(nil)

// listener follows what bridges learn, by a socket of its own: that changes as often
// as tenants like. Its buffer is small, so that they cost little: what has no room is
// lost, and the bridges are read again, at most once in listenAgain.
type listener struct {
	events  *source             // nil until somebody listens
	bridges map[string]*hearing // by name
	hears   chan struct{}
	end     chan struct{} // closed by Close
	lost    bool          // events since the bridges were read
}

const (
	listenBuffer = 256 << 10 // bytes: some hundred events
	listenAgain  = time.Second
)

// hearing is what one bridge has learned. at says at which port, by its index, ports
// of workloads and tunnels alike.
type hearing struct {
	at    map[cluster.MAC]int32
	heard shared[cluster.MAC, hostops.Heard]
	next  uint64
	read  bool // once: what was learned by then is from before
}

// Listen implements hostops.Listener.
func (d *Driver) Listen(ctx context.Context, bridges []string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	l := &d.listener
	for name := range l.bridges {
		if !slices.Contains(bridges, name) {
			delete(l.bridges, name)
		}
	}
	if len(bridges) > 0 && l.events == nil {
		if err := within(d.ns, d.openListener); err != nil {
			return err
		}
	}
	for _, name := range bridges {
		if l.bridges[name] != nil {
			continue
		}
		h := &hearing{at: map[cluster.MAC]int32{}}
		l.bridges[name] = h
		if d.devices == nil {
			continue // Observe reads it
		}
		if err := d.readBridge(name, h); err != nil {
			return err
		}
	}
	return nil
}

// openListener runs in the host's namespace.
func (d *Driver) openListener() error {
	only, err := bridgeEntries()
	if err != nil {
		return err
	}
	s, err := subscribe(d.buf, unix.NETLINK_ROUTE, 1<<(unix.RTNLGRP_NEIGH-1), only)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, listenBuffer); err != nil {
		s.close()
		return fmt.Errorf("bound event socket: %w", err)
	}
	d.listener.events = s
	d.wg.Go(func() { d.listen(s) })
	return nil
}

// listen takes in events soon after they come, and later after some were lost.
func (d *Driver) listen(s *source) {
	for s.wait() {
		pause := settle
		d.mu.Lock()
		if d.drain() {
			d.signal()
		}
		if d.listener.lost {
			pause = listenAgain
		}
		d.takeHeard(false)
		d.mu.Unlock()
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-d.listener.end:
			t.Stop()
			return
		}
	}
}

// Heard implements hostops.Listener.
func (d *Driver) Heard(bridge string) *hostops.Table[cluster.MAC, hostops.Heard] {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.listener.bridges[bridge]
	if h == nil {
		return nil
	}
	return hostops.TableOf(h.heard.share())
}

// heardBy is what a bridge that is listened to has learned, nil of any other device.
func (d *Driver) heardBy(v *device) *hostops.Table[cluster.MAC, hostops.Heard] {
	if h := d.listener.bridges[v.name]; h != nil && v.kind == "bridge" {
		return hostops.TableOf(h.heard.share())
	}
	return nil
}

// Hears implements hostops.Listener.
func (d *Driver) Hears() <-chan struct{} { return d.listener.hears }

// takeHeard applies the waiting events, after those of devices, and reads again what
// some of were lost. What our own operations did signals no change.
func (d *Driver) takeHeard(own bool) {
	l := &d.listener
	if l.events == nil || d.devices == nil {
		return
	}
	heard, changed := false, false
	lost := l.events.drain(func(m *unix.NlMsghdr, b []byte) {
		x, y := d.hearEvent(m.Type == unix.RTM_NEWNEIGH, b)
		heard, changed = heard || x, changed || y
	})
	if lost && !l.lost {
		l.lost = true // and the next time, which comes later, the bridges are read
	} else if l.lost {
		l.lost, heard = false, true
		if err := d.readBridges(); err != nil {
			d.log.Warn("cannot read what bridges have learned: " + err.Error())
			l.lost = true
		}
	}
	if changed && !own {
		d.signal()
	}
	if heard {
		select {
		case l.hears <- struct{}{}:
		default:
		}
	}
}

// hearEvent applies a message about a bridge's entry, and reports what it changed of
// what is heard, and else.
func (d *Driver) hearEvent(there bool, b []byte) (heard, changed bool) {
	index, e, ok := parseNeigh(b)
	if !ok || e.self || e.permanent {
		return false, false
	}
	bridge := d.devices[e.master]
	if bridge == nil {
		return false, false
	}
	h := d.listener.bridges[bridge.name]
	if h == nil {
		return false, false
	}
	return d.hear(h, there, index, e)
}

// hear applies what is told of one entry: a bridge has one for each MAC.
func (d *Driver) hear(h *hearing, there bool, index int32, e fdbEntry) (heard, changed bool) {
	was, had := h.at[e.mac]
	if !there && (!had || was != index) {
		return false, false
	}
	port := d.devices[index]
	_, ours := port.mine()
	yields := there && ours && port.tunnel && e.extern && !e.sticky
	learned := there && !ours && port != nil && !e.static
	if old := d.devices[was]; had && old != nil && old.tunnel && (was != index || !yields) {
		changed = old.yield(e.mac, false)
	}
	if yields {
		h.at[e.mac] = index
		changed = port.yield(e.mac, true) || changed
	}
	switch old, known := h.heard.m[e.mac]; {
	case learned:
		h.at[e.mac] = index
		if !known || was != index || old.Port != port.name {
			h.next++
			heard = h.heard.set(e.mac, hostops.Heard{Port: port.name, Count: h.next})
		}
	case known:
		heard = h.heard.remove(e.mac)
	}
	if !yields && !learned {
		delete(h.at, e.mac)
	}
	return heard, changed
}

// mine is ours of a device that may not be there.
func (d *device) mine() (cluster.VNI, bool) {
	if d == nil {
		return 0, false
	}
	return d.ours()
}

// yield notes whether the bridge would give the port's entry of a MAC up.
func (d *device) yield(mac cluster.MAC, yes bool) (changed bool) {
	if yes {
		changed = d.yielding.set(mac, struct{}{})
	} else {
		changed = d.yielding.remove(mac)
	}
	return d.merge(mac) || changed
}

func (d *Driver) readBridges() error {
	for name, h := range d.listener.bridges {
		if err := d.readBridge(name, h); err != nil {
			return err
		}
	}
	return nil
}

// readBridge reads what a bridge has learned; what is not among that it has forgotten.
func (d *Driver) readBridge(name string, h *hearing) error {
	bridge, before := d.devices.byName(name), !h.read
	h.read = true
	if bridge == nil {
		h.at, h.heard = map[cluster.MAC]int32{}, shared[cluster.MAC, hostops.Heard]{}
		return nil
	}
	msgs, err := d.conn.list(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, nl.NewIfInfomsg(unix.AF_BRIDGE), attr(unix.IFLA_MASTER, u32(uint32(bridge.index))))
	if err != nil {
		return wrap("list what bridge "+name+" has learned", err)
	}
	gone := maps.Clone(h.at)
	for _, m := range msgs {
		if index, e, ok := parseNeigh(m); ok && !e.self && !e.permanent && e.master == bridge.index {
			d.hear(h, true, index, e)
			delete(gone, e.mac)
		}
	}
	for mac, index := range gone {
		d.hear(h, false, index, fdbEntry{mac: mac})
	}
	for mac, was := range maps.Clone(h.heard.m) {
		if before {
			h.heard.set(mac, hostops.Heard{Port: was.Port})
		}
	}
	return nil
}

// bridgeEntries lets events about entries of bridges pass, and none of a tunnel's own
// table.
func bridgeEntries() ([]unix.SockFilter, error) {
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: unix.SizeofNlMsghdr, Size: 1},                  // ndm_family
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.AF_BRIDGE, SkipTrue: 3}, //
		bpf.LoadAbsolute{Off: unix.SizeofNlMsghdr + 10, Size: 1},             // ndm_flags
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: unix.NTF_SELF, SkipTrue: 1},   //
		bpf.RetConstant{Val: 1 << 18},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, fmt.Errorf("assemble event filter: %w", err)
	}
	return sockFilter(raw), nil
}

func sockFilter(raw []bpf.RawInstruction) []unix.SockFilter {
	out := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		out[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return out
}
