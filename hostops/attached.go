package hostops

import (
	"context"
	"maps"
	"slices"
)

// endpointsOf finds whose port an object is.
func endpointsOf(desired Desired) map[Target]string {
	out := map[Target]string{}
	for _, v := range desired.VPCs {
		for _, p := range v.Ports {
			out[Target{v.Name, p.Device}] = p.Endpoint
		}
	}
	return out
}

// attached tells which ports have neither open operations nor problems.
func attached(desired Desired, actual State, open []Op, problems []Problem) map[string]map[string]bool {
	not := map[Target]bool{}
	for _, op := range open {
		not[op.On()] = true
	}
	failed := map[wanted]bool{}
	for _, p := range problems {
		failed[wanted{p.VPC, p.Endpoint}] = true
	}
	out := map[string]map[string]bool{}
	for _, v := range desired.VPCs {
		if len(v.Ports) == 0 {
			continue
		}
		bridge := actual.Devices[v.Name]
		whole := bridge.Kind == KindBridge && bridge.Owner == v.VNI && bridge.Up && !actual.Filter.Foreign
		out[v.Name] = make(map[string]bool, len(v.Ports))
		for _, p := range v.Ports {
			on := Target{v.Name, p.Device}
			out[v.Name][p.Endpoint] = whole && !not[on] && !failed[wanted{v.Name, p.Endpoint}] &&
				actual.Devices[p.Device].Master == v.Name
		}
	}
	return out
}

// spacesOf lists the paths of the namespaces of all ports.
func spacesOf(desired Desired) (paths []string) {
	for _, v := range desired.VPCs {
		for _, p := range v.Ports {
			if p.Kind == PortNetns {
				paths = append(paths, p.Namespace)
			}
		}
	}
	return paths
}

// look tells what the paths of workloads' namespaces lead to, as of the last full
// pass: between those the kernel's events tell of ports that went with theirs. One
// that was gone, or is to be another by now, is looked at each time.
func (h *Host) look(ctx context.Context, desired Desired, full bool) map[string]Space {
	if full {
		h.spaces = h.driver.Spaces(ctx, spacesOf(desired))
		return h.spaces
	}
	var again []string
	for _, v := range desired.VPCs {
		for _, p := range v.Ports {
			if s, known := h.spaces[p.Namespace]; known && s.gone(p) {
				again = append(again, p.Namespace)
			}
		}
	}
	if len(again) > 0 {
		maps.Copy(h.spaces, h.driver.Spaces(ctx, again))
	}
	return h.spaces
}

// gone reports whether s is not the namespace of a port.
func (s Space) gone(p Port) bool { return s.Inode == 0 || p.Inode != 0 && p.Inode != s.Inode }

// portOn is the port of v's that is on a device.
func (v VPC) portOn(device string) (Port, bool) {
	i := slices.IndexFunc(v.Ports, func(p Port) bool { return p.Device == device })
	if i < 0 {
		return Port{}, false
	}
	return v.Ports[i], true
}

// concernsPort reports whether op takes a port on a device away.
func concernsPort(op Op, device string) bool {
	switch op := op.(type) {
	case DeleteDevice:
		return op.Object == device
	case GiveBack:
		return op.Object == device
	case Unbind:
		return slices.Contains(op.Devices, device)
	case Ungate:
		return slices.Contains(op.Devices, device)
	}
	return false
}
