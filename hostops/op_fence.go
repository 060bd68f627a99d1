package hostops

import (
	"net/netip"
	"slices"
)

// The operations on the filter that are about whole hosts.
type (
	// Fence drops what comes from these addresses to the filter's port, whatever its
	// VNI and whoever may send by that, and what goes from there to them.
	Fence struct {
		Target
		Sources []netip.Addr
	}
	// Unfence takes Fence back.
	Unfence struct {
		Target
		Sources []netip.Addr
	}
)

func (o Fence) String() string   { return "fence " + addrs(o.Sources) + ": drop all from and to there" }
func (o Unfence) String() string { return "stop fencing " + addrs(o.Sources) }

// Fence drops all that is from or to these addresses.
func (f *Filter) Fence(as ...netip.Addr) {
	if f.Fenced == nil {
		f.Fenced = Addrs()
	}
	for _, a := range as {
		f.Fenced.Set(a, struct{}{})
	}
}

// Unfence takes Fence back.
func (f *Filter) Unfence(as ...netip.Addr) {
	for _, a := range as {
		f.Fenced.Delete(a)
	}
	if f.Fenced.Len() == 0 {
		f.Fenced = nil
	}
}

// wantFenced is who is to be fenced: those that are kept, too.
func wantFenced(desired Desired, actual State) []netip.Addr {
	if !desired.KeepFenced || actual.Filter.Fenced.Len() == 0 {
		return desired.Fenced
	}
	all := slices.AppendSeq(slices.Clone(desired.Fenced), actual.Filter.Fenced.Keys())
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// fences plans whom nothing is taken from: before all else that passes the filter.
// A drop at output stands for taking the peer out of each flood list and FDB: it is
// one entry whatever the host carries, it holds for what a tunnel has learned, too,
// and nothing of the tunnels has to be made anew when the fence goes.
func (p *planner) fences() {
	f := p.actual.Filter
	if f.Foreign || f.Port == 0 { // without a filter there is no tunnel
		return
	}
	missing, extra := difference(p.desired.Fenced, f.Fenced)
	if len(missing) > 0 {
		p.add(Fence{Target{"", "filter"}, missing})
	}
	if len(extra) > 0 {
		p.remove(Unfence{Target{"", "filter"}, extra})
	}
}

// fenced reports whether a host whose state has these operations open drops all
// that it is to.
func fenced(actual State, open []Op) bool {
	return !actual.Filter.Foreign && !slices.ContainsFunc(open, func(op Op) bool {
		switch op.(type) {
		case CreateFilter, Fence, Unfence:
			return true
		}
		return false
	})
}

// fences reports whether op is about fences, and then whether it undoes tampering:
// last are those that were wanted by then.
func (h *Host) fences(op Op) (is, repair bool) {
	switch op := op.(type) {
	case Fence:
		return true, slices.ContainsFunc(op.Sources, func(a netip.Addr) bool { return slices.Contains(h.fenced, a) })
	case Unfence:
		return true, slices.ContainsFunc(op.Sources, func(a netip.Addr) bool { return !slices.Contains(h.fenced, a) })
	}
	return false, false
}
