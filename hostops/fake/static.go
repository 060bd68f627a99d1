package fake

import (
	"net/netip"
	"syscall"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// applyStatic performs what is for static VPCs; done is false for all else.
func (h *Host) applyStatic(op hostops.Op) (done bool, err error) {
	name, f := op.On().Object, &h.state.Filter
	switch op := op.(type) {
	case hostops.SetStatic:
		return true, h.setPort(op)
	case hostops.SetAnswer:
		return true, h.setAnswer(name, func(t *hostops.Table[netip.Addr, cluster.MAC]) { t.Set(op.Address, op.MAC) })
	case hostops.RemoveAnswer:
		if err := h.setAnswer(name, func(t *hostops.Table[netip.Addr, cluster.MAC]) { t.Delete(op.Address) }); err != syscall.ENODEV {
			return true, err
		}
	case hostops.DenyPlaces:
		f.Unplace(op.VNI, op.Places...)
	case hostops.UnguardPlaces:
		delete(f.Placed, op.VNI)
	case hostops.AllowPlaces:
		if f.Port == 0 {
			return true, syscall.ENOENT
		}
		f.Place(op.VNI, op.Places...)
	case hostops.GuardPlaces:
		if f.Port == 0 {
			return true, syscall.ENOENT
		}
		if f.Placed == nil {
			f.Placed = map[cluster.VNI]struct{}{}
		}
		f.Placed[op.VNI] = struct{}{}
	default:
		return false, nil
	}
	return true, nil
}

func (h *Host) setAnswer(bridge string, f func(*hostops.Table[netip.Addr, cluster.MAC])) error {
	d, ok := h.state.Devices[bridge]
	switch {
	case !ok:
		return syscall.ENODEV
	case d.Kind != hostops.KindBridge:
		return syscall.EOPNOTSUPP
	case d.Answers == nil:
		d.Answers = hostops.NewTable[netip.Addr, cluster.MAC]()
		h.state.Devices[bridge] = d
	}
	f(d.Answers)
	return nil
}

// placed asks the filter whether frames from a MAC may come from there.
func (h *Host) placed(v cluster.VNI, mac cluster.MAC, from netip.Addr) bool {
	f := h.state.Filter
	if _, judged := f.Placed[v]; f.Port == 0 || !judged {
		return true
	}
	return f.Places[v].Has(hostops.Placed{MAC: mac, From: from})
}

// SetAnswer has a bridge answer for an address.
func (h *Host) SetAnswer(bridge string, a netip.Addr, mac cluster.MAC) error {
	return h.tamper(func() error {
		return h.setAnswer(bridge, func(t *hostops.Table[netip.Addr, cluster.MAC]) { t.Set(a, mac) })
	})
}

// RemoveAnswer takes an answer of a bridge back.
func (h *Host) RemoveAnswer(bridge string, a netip.Addr) error {
	return h.tamper(func() error {
		return h.setAnswer(bridge, func(t *hostops.Table[netip.Addr, cluster.MAC]) { t.Delete(a) })
	})
}
