package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/hostops"
)

// fault lets something go wrong from time to time.
func (w *World) fault() {
	if w.operator.resting {
		return
	}
	w.in(w.upTo(4*time.Second), w.fault)
	n, c := pick(w, w.nodes), pick(w, w.candidates)
	for_ := w.upTo(20 * time.Second) // how long it lasts, where it does
	what := w.rand.IntN(18)
	if w.cfg.Gentle {
		what = pick(w, []int{0, 2, 3, 4, 5, 6, 7, 16})
	}
	switch what {
	case 0:
		w.trace("agent of %s crashes", n.name)
		n.kill()
		w.in(for_, n.start)
	case 1:
		w.trace("power of %s fails", n.name)
		n.powerCycle()
	case 2:
		w.trace("%s loses the store", n.name)
		n.link.cut = true
		w.in(for_, func() { n.link.cut = false })
	case 3:
		w.trace("%s loses the store", c)
		c.link.cut = true
		w.in(for_, func() { c.link.cut = false })
	case 4:
		w.trace("%s crashes", c)
		c.crash()
	case 5:
		w.trace("%s freezes", c)
		c.frozen = true
		w.in(for_, func() {
			c.frozen = false
			c.wake()
		})
	case 6:
		w.trace("the store is down")
		w.setDown(true)
		w.in(for_, func() { w.setDown(false) })
	case 7:
		w.trace("the store is compacted")
		if err := w.kv.Compact(w.kv.Revision()); err != nil && !w.down {
			w.trace("compaction: %v", err)
		}
	case 8:
		w.snapshots = append(w.snapshots, w.kv.Snapshot())
	case 9:
		if len(w.snapshots) > 0 && w.chance(0.5) && !w.down {
			w.trace("the store goes back in time")
			w.restore(pick(w, w.snapshots))
		}
	case 10:
		w.trace("%s gets another address", n.name)
		if err := n.host.SetAddresses("u0", n.nextAddress()); err != nil {
			w.fail("readdress %s: %v", n.name, err)
		}
		n.wake()
	case 11:
		m := pick(w, w.nodes)
		w.trace("cut from %s to %s", n.name, m.name)
		w.net.Cut(n.underlay(), m.underlay())
	case 12:
		d := w.upTo(2*time.Hour) - time.Hour
		w.trace("clock of %s jumps by %s", n.name, d)
		n.skew += d
	case 16, 17:
		lie := netip.MustParseAddr("2001:db8:ffff::1") // a stranger's
		if m := pick(w, w.nodes); m != n {
			lie = m.underlay()
		}
		w.trace("%s says that it is at %s", n.name, lie)
		n.say(lie)
		w.in(for_, func() { n.say(netip.Addr{}) })
	case 13, 14:
		w.tamper(n)
	default:
		w.mistake()
	}
}

// restore lets another history begin: its revision may be any, also the one that
// the store has now.
func (w *World) restore(s *mvcc.State) {
	w.kv.Restore(s)
	w.seen, w.answers, w.claims = w.kv.Revision(), nil, nil
	for _, f := range w.followers { // the store's processes start anew
		f.disconnect()
	}
	w.written()
}

func (w *World) setDown(down bool) {
	w.down = down
	w.kv.SetDown(down)
}

// tamper changes a kernel behind its agent's back.
func (w *World) tamper(n *node) {
	var err error
	what := "its filter is wiped"
	s := n.host.State()
	devices := n.host.Devices()
	d := pick(w, devices)
	switch w.rand.IntN(9) {
	case 0:
		err = n.host.WipeFilter()
	case 7:
		if s.Devices[d].Kind == hostops.KindTunnel {
			flag, yes := pick(w, []string{"flood", "learning", "hairpin"}), w.chance(0.5)
			what, err = fmt.Sprintf("%s of %s: %v", flag, d, yes), n.host.SetFlag(d, flag, yes)
		}
	case 8:
		if s.Devices[d].Master != "" {
			what, err = d+" is taken out of its bridge", n.host.SetMaster(d, "")
		}
	case 1, 2:
		if d != "u0" {
			what, err = d+" is deleted", n.host.DeleteDevice(d)
		}
	case 3:
		if d != "u0" {
			what, err = d+" is down", n.host.SetUp(d, false)
		}
	case 4:
		if d != "u0" {
			what, err = "MTU of "+d, n.host.SetMTU(d, 1280)
		}
	case 5:
		if peers := slices.SortedFunc(s.Devices[d].Flood.Keys(), netip.Addr.Compare); len(peers) > 0 {
			what, err = "a peer of "+d+" is removed", n.host.RemovePeer(d, peers[0])
		}
	case 6:
		if ns := n.host.Namespaces(); len(ns) > 0 {
			name := pick(w, ns)
			what, err = name+" is deleted", n.host.DeleteNamespace(name)
		}
	}
	w.trace("tampering with %s: %s (%v)", n.name, what, err)
	n.wake()
}

// mistake deletes or spoils what is in the store.
func (w *World) mistake() {
	if w.down {
		return
	}
	all, err := w.kv.Range(w.ctx, mvcc.Prefix(cluster.Root))
	if err != nil || len(all.Keys) == 0 {
		return
	}
	key := pick(w, all.Keys).Key
	op := mvcc.Delete(key)
	switch w.rand.IntN(6) {
	case 0:
		op = mvcc.Put(key, []byte("garbage"))
	case 1:
		prefix := pick(w, []string{cluster.PrefixVPCs, cluster.PrefixHosts, cluster.PrefixAlloc, cluster.PrefixStat})
		op = mvcc.Op{Kind: mvcc.OpDelete, Key: prefix, End: mvcc.PrefixEnd(prefix)}
	}
	w.trace("somebody writes past all rules: %v %s %s", op.Kind, op.Key, op.Value)
	if _, err := w.kv.Txn(w.ctx, mvcc.TxnRequest{Then: []mvcc.Op{op}}); err != nil {
		w.fail("mistake: %v", err)
	}
	w.written()
}

// mend ends everything that lasts.
func (w *World) mend() {
	w.setDown(false)
	w.net.Heal()
	for _, n := range w.nodes {
		n.link.cut = false
		n.say(netip.Addr{})
		n.start()
		n.wake()
	}
	for _, c := range w.candidates {
		c.link.cut, c.frozen = false, false
		c.wake()
	}
	// What is garbage in the store and nobody's to rebuild is taken away.
	all, err := w.kv.Range(w.ctx, mvcc.Prefix(cluster.Root))
	if err != nil {
		w.fail("mend: %v", err)
		return
	}
	for _, kv := range all.Keys {
		k, err := cluster.ParseKey(kv.Key)
		if err == nil {
			_, err = cluster.Decode(kv.Key, kv.Value)
		}
		if err != nil && slices.Contains([]cluster.Kind{cluster.KindVPCSpec, cluster.KindNode, cluster.KindConfig}, k.Kind) {
			if _, err := w.kv.Txn(w.ctx, mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Delete(kv.Key)}}); err != nil {
				w.fail("mend: %v", err)
			}
			w.written()
		}
	}
}
