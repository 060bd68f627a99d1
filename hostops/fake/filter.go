package fake

import (
	"net/netip"
	"syscall"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

func (h *Host) applyFilter(op hostops.Op) error {
	f := &h.state.Filter
	switch op := op.(type) {
	case hostops.CreateFilter:
		*f = hostops.Filter{Exists: true, Port: op.Port, Shields: f.Shields, Seals: f.Seals, Bindings: f.Bindings, Gated: f.Gated,
			Wards: f.Wards, Uplinks: f.Uplinks, Budgets: f.Budgets, NoBudgets: f.NoBudgets, NoShields: f.NoShields,
			VNIs: map[cluster.VNI]struct{}{}}
		return nil
	case hostops.DeleteFilter:
		*f = hostops.Filter{}
		return nil
	case hostops.Shield:
		if f.Shields == nil {
			f.Shields = map[cluster.VNI]netip.Prefix{}
		}
		f.Exists = true
		f.Shields[op.VNI] = op.Network
		return nil
	case hostops.Seal:
		if _, ok := h.state.Devices[op.Object]; !ok {
			return syscall.ENODEV
		}
		if f.Seals == nil {
			f.Seals = map[string]struct{}{}
		}
		f.Exists = true
		f.Seals[op.Object] = struct{}{}
		return nil
	case hostops.GuardUplinks:
		f.Exists, f.Uplinks = true, op.Port
		return nil
	case hostops.UnguardUplinks:
		f.Uplinks = 0
		return nil
	case hostops.SetWard:
		if f.NoShields {
			return hostops.ErrUnsupported
		}
		if f.Wards == nil {
			f.Wards = map[string]hostops.Ward{}
		}
		f.Exists = true
		f.Wards[op.Object] = op.Ward
		return nil
	case hostops.RemoveWard:
		delete(f.Wards, op.Object)
		return nil
	case hostops.Unseal:
		delete(f.Seals, op.Object)
		return nil
	case hostops.Bind:
		if f.NoShields {
			return hostops.ErrUnsupported
		}
		if f.Bindings == nil {
			f.Bindings = map[string]hostops.Binding{}
		}
		f.Exists = true
		f.Bindings[op.Object] = op.Binding
		return nil
	case hostops.Unbind:
		for _, device := range op.Devices {
			delete(f.Bindings, device)
		}
		return nil
	case hostops.Gate:
		if f.NoShields {
			return hostops.ErrUnsupported
		}
		if f.Gated == nil {
			f.Gated = map[string]struct{}{}
		}
		f.Exists = true
		f.Gated[op.Object] = struct{}{}
		return nil
	case hostops.Ungate:
		for _, device := range op.Devices {
			delete(f.Gated, device)
		}
		return nil
	case hostops.LimitFlood:
		if f.NoShields || h.unlimited {
			f.NoBudgets = true
			return hostops.ErrUnsupported
		}
		if f.Budgets == nil {
			f.Budgets = map[cluster.VNI]hostops.Budget{}
		}
		f.Exists = true
		f.Budgets[op.VNI] = op.Budget
		delete(h.floods, op.VNI)
		return nil
	case hostops.UnlimitFlood:
		delete(f.Budgets, op.VNI)
		delete(h.floods, op.VNI)
		return nil
	case hostops.Unshield:
		delete(f.Shields, op.VNI)
		return nil
	case hostops.Unfence:
		f.Unfence(op.Sources...)
		return nil
	case hostops.Deny:
		f.Deny(op.VNI, op.Sources...)
		return nil
	case hostops.Unguard:
		delete(f.VNIs, op.VNI)
		return nil
	}
	if f.Port == 0 {
		return syscall.ENOENT
	}
	if f.Sources == nil {
		f.Sources = map[cluster.VNI]hostops.AddrSet{}
	}
	switch op := op.(type) {
	case hostops.Allow:
		if f.Sources[op.VNI] == nil {
			f.Sources[op.VNI] = h.net.addrs.NewTable()
		}
		f.Allow(op.VNI, op.Sources...)
	case hostops.Admit:
		for _, s := range op.Sources {
			f.Allow(s.VNI, s.Addr)
			f.VNIs[s.VNI] = struct{}{}
		}
	case hostops.Fence:
		f.Fence(op.Sources...)
	case hostops.Guard:
		f.VNIs[op.VNI] = struct{}{}
	default:
		return hostops.ErrUnsupported
	}
	return nil
}
