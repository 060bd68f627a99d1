package linux

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// Names of the sets for static VPCs.
const (
	setPlaced  = "placed_vnis"
	setPlaces4 = "places4"
	setPlaces6 = "places6"
)

// The flags of a static tunnel's port.
const (
	suppressFlag = portFlags(1 << nl.IFLA_BRPORT_NEIGH_SUPPRESS)
	staticFlags  = portFlags(1<<nl.IFLA_BRPORT_MCAST_FLOOD|1<<nl.IFLA_BRPORT_BCAST_FLOOD) | suppressFlag
)

// static reports whether a tunnel's port is as SetStatic leaves it.
func (l *link) static() bool {
	return hostops.Kind(l.kind) == hostops.KindTunnel && l.master != 0 && l.flags&(plainFlags|suppressFlag) == staticFlags
}

// setStatic has a bridge forget what it learned at a port, too.
func setStatic(v *device) *step {
	return portStep(v.index,
		attr(nl.IFLA_BRPORT_LEARNING, flag(false)), attr(nl.IFLA_BRPORT_UNICAST_FLOOD, flag(false)),
		attr(nl.IFLA_BRPORT_MCAST_FLOOD, flag(true)), attr(nl.IFLA_BRPORT_BCAST_FLOOD, flag(true)),
		attr(nl.IFLA_BRPORT_NEIGH_SUPPRESS, flag(true)), attr(nl.IFLA_BRPORT_FLUSH, nil))
}

// answer has a bridge answer for an address: the kernel does that from its
// neighbours if their MACs are behind a port that suppresses questions. No mac takes
// it back.
func answer(v *device, a netip.Addr, mac *cluster.MAC) *step {
	h := &ndMsg{family: unix.AF_INET6, index: v.index, state: unix.NUD_PERMANENT}
	if a.Is4() {
		h.family = unix.AF_INET
	}
	dst := attr(unix.NDA_DST, a.AsSlice())
	if mac == nil {
		return ask(unix.RTM_DELNEIGH, 0, h, dst).but(unix.ENOENT)
	}
	return ask(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, h, dst, attr(unix.NDA_LLADDR, mac[:]))
}

// answerEvent applies a message about a neighbour of a bridge of ours.
func (ds devices) answerEvent(there bool, b []byte) bool {
	if len(b) < unix.SizeofNdMsg {
		return false
	}
	d := ds[int32(native32(b[4:]))]
	if d == nil || d.kind != "bridge" {
		return false
	}
	if _, ours := d.ours(); !ours {
		return false
	}
	a, mac, ok := parseNeighbour(b, d.index)
	switch {
	case !a.IsValid():
		return false
	case there && ok:
		return d.answers.set(a, mac)
	}
	return d.answers.remove(a)
}

// readAnswers reads what the bridges answer with.
func (ds devices) readAnswers(c *conn) error {
	msgs, err := c.list(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, &ndMsg{})
	if err != nil {
		return wrap("list neighbours", err)
	}
	for _, m := range msgs {
		ds.answerEvent(true, m)
	}
	return nil
}

func placeSet(v6 bool) *nftables.Set {
	name, kind := setPlaces4, nftables.TypeIPAddr
	if v6 {
		name, kind = setPlaces6, nftables.TypeIP6Addr
	}
	key := nftables.MustConcatSetType(kind, nftables.TypeInteger, nftables.TypeEtherAddr)
	return &nftables.Set{Table: table(), Name: name, KeyType: key, Concatenation: true}
}

// placeKey is a sourceKey and the MAC, which fills two registers.
func placeKey(v cluster.VNI, p hostops.Placed) []byte {
	return append(append(sourceKey(v, p.From), p.MAC[:]...), 0, 0)
}

// parsePlace reads a placeKey.
func parsePlace(key []byte) (v cluster.VNI, p hostops.Placed, ok bool) {
	n := len(key) - 12
	if n != 4 && n != 16 {
		return 0, p, false
	}
	p.From, _ = netip.AddrFromSlice(key[:n])
	p.MAC = cluster.MAC(key[n+4 : n+10])
	return cluster.VNI(binary.BigEndian.Uint32(key[n:]) >> 8), p, true
}

// fromPlace drops what is of one of the placed VNIs and from a MAC that is not where
// it comes from. It is as fromPeer; the MAC is the inner frame's source.
func fromPlace(port uint16, version byte, offset, length uint32, places string) []expr.Any {
	const source = unix.NFT_REG32_00
	const innerSource = 8 + 8 + 6 // behind the headers of UDP and VXLAN, and the destination
	vni := source + length/4
	return append(append(ofVNI(port, version, setPlaced, offset, length), loadVNI(vni)...),
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: innerSource, Len: 6, DestRegister: vni + 1},
		&expr.Lookup{SourceRegister: source, SetName: places, Invert: true},
		&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})
}

// places allows places or denies them.
func (f *filter) places(v cluster.VNI, ps []hostops.Placed, allow bool) error {
	var es [2][]nftables.SetElement
	var news []hostops.Placed // deleting what is not there would fail the transaction
	for _, p := range ps {
		if f.state.Places[v].Has(p) == allow {
			continue
		}
		i := 0
		if p.From.Is6() {
			i = 1
		}
		es[i] = append(es[i], nftables.SetElement{Key: placeKey(v, p)})
		news = append(news, p)
	}
	if len(news) == 0 {
		return nil
	}
	if err := errors.Join(f.change(placeSet(false), es[0], allow), f.change(placeSet(true), es[1], allow)); err != nil {
		return err
	}
	if err := f.flush(); err != nil {
		return err
	}
	if allow {
		f.state.Place(v, news...)
	} else {
		f.state.Unplace(v, news...)
	}
	return nil
}

// readPlaces reads the sets for static VPCs.
func (f *filter) readPlaces(s *hostops.Filter) error {
	f.requests.Add(3)
	if err := f.readList(placed(), s); err != nil {
		return err
	}
	for _, v6 := range []bool{false, true} {
		elems, err := f.cc.GetSetElements(placeSet(v6))
		if err != nil {
			return err
		}
		for _, e := range elems {
			if v, p, ok := parsePlace(e.Key); ok {
				s.Place(v, p)
			}
		}
	}
	return nil
}
