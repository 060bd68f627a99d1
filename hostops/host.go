package hostops

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
)

// Config is what New needs.
type Config struct {
	Driver Driver      // required; the caller closes it
	Log    *zap.Logger // nil: none
}

// Host makes one host equal to a desired state, pass by pass. It is for one
// goroutine at a time.
type Host struct {
	driver Driver
	log    *zap.Logger
	last   map[string]VPC // as of each VPC's last converged pass
	// attached are the ports that were in place after the last pass, and spaces
	// what their paths led to when they were last looked at.
	attached map[string]map[string]Port // by VPC and device
	spaces   map[string]Space
	fenced   []netip.Addr // as of the last pass
}

// New wraps errors of cfg; it starts nothing.
func New(cfg Config) (*Host, error) {
	if cfg.Driver == nil {
		return nil, errors.New("make host: no driver")
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return &Host{driver: cfg.Driver, log: cfg.Log.Named("hostops")}, nil
}

// Report is what one pass did.
type Report struct {
	// Applied are the operations that succeeded, in order.
	Applied []Op
	// Repairs counts those of Applied that no change of the desired state
	// asked for: somebody had tampered.
	Repairs int
	// Repaired are Repairs by VPC; "" is the host.
	Repaired map[string]int
	// Problems are why something desired is not so.
	Problems []Problem
	// Ready tells for each desired VPC whether all of it is in place.
	Ready map[string]bool
	// Ports are, for each desired VPC, its bridge's ports that are no part of the
	// VPC itself, those of its workloads and strangers': who uses it.
	Ports map[string][]string
	// Attached tells, for each desired VPC and each of its endpoints that has a
	// port, whether all of the port is in place. Ready says nothing of ports.
	Attached map[string]map[string]bool
	// Own tells for each desired VPC which peers with a tunnel of their own are
	// sent to and received from exactly as desired.
	Own map[string]map[string]bool
	// Fenced: the host drops all from and to whom it is to, and nobody else.
	Fenced bool
}

// rounds bounds how often one pass plans. The first plan does the work, the
// second shows that it is done; more are needed only if others interfere.
const rounds = 3

// Reconcile makes the host equal to desired. It never returns an error: what
// fails is in the report, and what does not depend on it is done. full reads
// the host anew instead of trusting its events.
func (h *Host) Reconcile(ctx context.Context, desired Desired, full bool) Report {
	var r Report
	var failed []Problem
	for n := range rounds {
		state, err := h.driver.Observe(ctx, full && n == 0)
		if err != nil {
			r.Problems = append(failed, Problem{Reason: fmt.Sprintf("observe host: %v", err)})
			r.Ready = ready(desired, nil, r.Problems)
			return r
		}
		state.Spaces = h.look(ctx, desired, full && n == 0)
		r.Ports = ports(desired, state)
		r.Own = own(desired, state)
		ops, problems := Plan(desired, state)
		if len(ops) == 0 || n == rounds-1 {
			if len(ops) == 0 {
				failed = nil // a later plan made good what failed
			}
			r.Problems = append(problems, failed...)
			r.Ready = ready(desired, ops, r.Problems)
			r.Attached = attached(desired, state, ops, r.Problems)
			r.Fenced = fenced(state, ops)
			h.fenced = wantFenced(desired, state)
			break
		}
		var done []Op
		done, failed = h.apply(ctx, desired, ops)
		r.Applied = concat(r.Applied, done)
		for _, op := range h.repairs(desired, done) {
			if r.Repaired == nil {
				r.Repaired = map[string]int{}
			}
			r.Repaired[op.On().VPC]++
			r.Repairs++
		}
		if ctx.Err() != nil {
			r.Problems = append(problems, failed...)
			r.Ready = ready(desired, ops, r.Problems)
			r.Attached = attached(desired, state, ops, r.Problems)
			return r
		}
	}
	h.remember(desired, r.Ready, r.Attached)
	h.forget(desired)
	return r
}

// ports lists who uses each desired VPC.
func ports(desired Desired, actual State) map[string][]string {
	workloads, own := map[string][]string{}, vipDevices(desired)
	for name, d := range actual.Devices {
		if d.Use != UseVPC && d.Master != "" && !own[name] {
			workloads[d.Master] = append(workloads[d.Master], name)
		}
	}
	used := map[string][]string{}
	for _, v := range desired.VPCs {
		d := actual.Devices[v.Name]
		if all := slices.Concat(d.Ports, workloads[v.Name]); d.Owner == v.VNI && len(all) > 0 {
			slices.Sort(all)
			used[v.Name] = all
		}
	}
	return used
}

// own looks at the peers that have a tunnel of their own.
func own(desired Desired, actual State) map[string]map[string]bool {
	out := map[string]map[string]bool{}
	for _, v := range desired.VPCs {
		for _, t := range v.Tunnels {
			if t.Pair == 0 {
				continue
			}
			if out[v.Name] == nil {
				out[v.Name] = map[string]bool{}
			}
			for _, p := range t.Peers {
				out[v.Name][p.Node] = true
			}
		}
		if out[v.Name] == nil {
			continue
		}
		for _, t := range v.Tunnels {
			for _, p := range t.Peers {
				if out[v.Name][p.Node] && !inPlace(v, t, p, actual) {
					out[v.Name][p.Node] = false
				}
			}
		}
	}
	return out
}

// inPlace reports whether a tunnel does for one peer what it should.
func inPlace(v VPC, t Tunnel, p Peer, actual State) bool {
	d := actual.Devices[v.nameOf(t)]
	passes := actual.Filter.Sources[v.vniOf(t)].Has(p.Underlay)
	floods := d.Flood.Has(p.Underlay)
	return d.Kind == KindTunnel && d.Owner == v.VNI && d.VNI == v.vniOf(t) && d.Up && d.Master == v.Name && d.Isolated &&
		d.Silent == t.ReceiveOnly && passes && (t.ToGroup || floods != p.ReceiveOnly)
}

// Plan returns what Reconcile would do now, and does none of it.
func (h *Host) Plan(ctx context.Context, desired Desired) ([]Op, []Problem, error) {
	state, err := h.driver.Observe(ctx, true)
	if err != nil {
		return nil, nil, fmt.Errorf("observe host: %w", err)
	}
	state.Spaces = h.driver.Spaces(ctx, spacesOf(desired))
	ops, problems := Plan(desired, state)
	return ops, problems, nil
}

// apply goes on after a failure with all that does not depend on what failed.
func (h *Host) apply(ctx context.Context, desired Desired, ops []Op) (done []Op, failed []Problem) {
	objects, vpcs := map[Target]bool{}, map[string]bool{}
	noFilter := false
	var endpoints map[Target]string // when something failed
	skip := func(op Op) bool {
		on := op.On()
		return objects[on] || (on.VPC != "" && (vpcs[on.VPC] || noFilter))
	}
	done = make([]Op, 0, len(ops))
	debug := h.log.Core().Enabled(zap.DebugLevel)
	for batch := range batches(ops, skip) {
		for i, err := range h.together(ctx, batch) {
			op, on := batch[i], batch[i].On()
			if err == nil {
				if pair, is := op.(CreatePair); is {
					delete(h.spaces, pair.Namespace) // it may have been another before
				}
				if debug {
					h.log.Debug("applied", zap.Stringer("op", op), zap.String("vpc", on.VPC))
				}
				done = append(done, op)
				continue
			}
			h.log.Warn("cannot apply", zap.Stringer("op", op), zap.String("vpc", on.VPC), zap.Error(err))
			if endpoints == nil {
				endpoints = endpointsOf(desired)
			}
			failed = append(failed, Problem{VPC: on.VPC, Endpoint: endpoints[on], Gone: errors.Is(err, ErrGone), Reason: err.Error()})
			switch op.(type) {
			case AddPeer, RemovePeer, Forget, SetFDB, RemoveFDB, AddAddress, RemoveAddress, StripAddress, SetNeighbour, RemoveNeighbour, Deny, Shield, Unshield, Unbind, Ungate, Announce,
				SetAnswer, RemoveAnswer, DenyPlaces, UnguardPlaces, LimitFlood, UnlimitFlood, Fence, Unfence:
			case CreateFilter: // no tunnel without it
				noFilter = true
			case CreateBridge, Seal, Allow, Guard, Admit, SetSending, SetStatic, AllowPlaces, GuardPlaces:
				vpcs[on.VPC] = true
			default:
				objects[on] = true
			}
		}
		if len(failed) > 0 && ctx.Err() != nil {
			break
		}
	}
	h.tell(done)
	return done, failed
}

// together performs a batch, one by one if the driver knows no better.
func (h *Host) together(ctx context.Context, batch []Op) []error {
	if d, ok := h.driver.(Batcher); ok {
		return d.ApplyBatch(ctx, batch)
	}
	errs := make([]error, len(batch))
	for i, op := range batch {
		errs[i] = h.driver.Apply(ctx, op)
	}
	return errs
}

// tell logs one line for each VPC that was changed: a peer takes four
// operations, and a host that comes into a mesh some hundreds. Each has its own
// line where somebody asks for it.
func (h *Host) tell(done []Op) {
	for vpc, ops := range byVPC(done) {
		h.log.Info("applied", zap.String("vpc", vpc), zap.Int("ops", len(ops)), zap.Stringer("op", ops[len(ops)-1]))
	}
}

// byVPC yields runs of operations on the same VPC.
func byVPC(ops []Op) iter.Seq2[string, []Op] {
	return func(yield func(string, []Op) bool) {
		for len(ops) > 0 {
			vpc, n := ops[0].On().VPC, 1
			for n < len(ops) && ops[n].On().VPC == vpc {
				n++
			}
			if !yield(vpc, ops[:n]) {
				return
			}
			ops = ops[n:]
		}
	}
}

// repairs picks the operations of done that no change since the last converged
// pass explains.
func (h *Host) repairs(desired Desired, done []Op) []Op {
	if h.last == nil || len(done) == 0 {
		return nil
	}
	now := make(map[string]VPC, len(desired.VPCs))
	same := len(desired.VPCs) == len(h.last) // the set of VPCs
	for _, v := range desired.VPCs {
		now[v.Name] = v
		same = same && h.last[v.Name].VNI == v.VNI
	}
	var out []Op
	for vpc, ops := range byVPC(done) {
		if _, had := h.last[vpc]; vpc != "" && !had {
			continue
		}
		for _, op := range ops {
			if is, repair := h.fences(op); is {
				if repair {
					out = append(out, op)
				}
				continue
			}
			if (vpc == "" && same && !h.wanted(op)) || (vpc != "" && h.repair(op, now[vpc])) {
				out = append(out, op)
			}
		}
	}
	return out
}

// wanted reports whether op removes what the last state wanted: a change.
func (h *Host) wanted(op Op) bool {
	_, uplinks := op.(UnguardUplinks)
	for _, v := range h.last {
		if uplinks && v.Gateway != nil && v.Gateway.NAT {
			return true
		}
		if slices.ContainsFunc(v.Ports, func(p Port) bool { return concernsPort(op, p.Device) }) {
			return true
		}
		if v.Gateway != nil && (op.On().Object == GatewayPortOf(v.VNI) && !v.Gateway.Active || op.On().Object == UplinkOf(v.VNI)) {
			return true
		}
		for _, t := range v.Tunnels {
			vni := v.vniOf(t)
			switch op := op.(type) {
			case DeleteDevice:
				if op.Object == v.nameOf(t) {
					return true
				}
			case Unguard:
				if op.VNI == vni {
					return true
				}
			case Deny:
				if op.VNI == vni {
					return true
				}
			}
		}
	}
	return false
}

// repair reports whether op undoes tampering with a VPC.
func (h *Host) repair(op Op, now VPC) bool {
	on := op.On()
	last, ok := h.last[on.VPC]
	if !ok {
		return false
	}
	if port, is := now.portOn(on.Object); is {
		was, had := h.attached[on.VPC][on.Object]
		_, announces := op.(Announce)
		return had && !announces && reflect.DeepEqual(was, port) && equalBasics(last, now)
	}
	switch op := op.(type) {
	case AddPeer:
		return last.floods(on.Object, op.Peer)
	case RemovePeer:
		return !last.floods(on.Object, op.Peer) && slices.EqualFunc(last.concerned(op), now.concerned(op), equalShape)
	case Forget:
		return false
	case SetFDB:
		return last.tells(on.Object, func(p Peer) bool { return p.Underlay == op.Peer && VTEPMAC(p.VTEP) == op.MAC }) ||
			last.leads(op)
	case RemoveFDB:
		return !last.tells(on.Object, func(p Peer) bool { return VTEPMAC(p.VTEP) == op.MAC }) && !last.has(op.MAC, netip.Addr.IsValid)
	case SetAnswer:
		return last.answers()[op.Address] == op.MAC
	case RemoveAnswer:
		return !has(last.answers(), op.Address)
	case AllowPlaces, DenyPlaces:
		return last.Static && slices.EqualFunc(last.Places, now.Places, samePlace) && slices.EqualFunc(last.Tunnels, now.Tunnels, samePeers)
	case SetNeighbour:
		return last.tells("", func(p Peer) bool { return p.VTEP == op.Address })
	case RemoveNeighbour:
		return !last.tells("", func(p Peer) bool { return p.VTEP == op.Address })
	case Allow:
		return slices.ContainsFunc(op.Sources, func(a netip.Addr) bool { return last.passes(op.VNI, a) })
	case Admit:
		return slices.ContainsFunc(op.Sources, func(s Source) bool { return last.passes(s.VNI, s.Addr) })
	case Deny:
		return slices.ContainsFunc(op.Sources, func(a netip.Addr) bool { return !last.passes(op.VNI, a) })
	}
	return equalBasics(last, now) && slices.EqualFunc(last.concerned(op), now.concerned(op), equalShape)
}

func (v VPC) floods(name string, to netip.Addr) bool {
	return slices.ContainsFunc(v.Tunnels, func(t Tunnel) bool { return v.nameOf(t) == name && t.floods(to) })
}

func (v VPC) passes(vni cluster.VNI, source netip.Addr) bool {
	return slices.ContainsFunc(v.Tunnels, func(t Tunnel) bool {
		return v.vniOf(t) == vni && slices.ContainsFunc(t.Peers, func(p Peer) bool { return p.Underlay == source })
	})
}

// tells reports whether one of the VTEPs that a tunnel, or "" any, tells the
// place of is so.
func (v VPC) tells(name string, is func(Peer) bool) bool {
	return slices.ContainsFunc(v.Tunnels, func(t Tunnel) bool {
		return (name == "" || v.nameOf(t) == name) && slices.ContainsFunc(t.Peers, func(p Peer) bool { return t.tells(p) && is(p) })
	})
}

// concerned are the tunnels that op is about.
func (v VPC) concerned(op Op) []Tunnel {
	var ts []Tunnel
	guard, _ := op.(Guard)
	object := op.On().Object
	pair, isPair := pairOf(object) // names are many to make, and numbers are not
	for _, t := range v.Tunnels {
		if isPair && t.Pair == pair || !isPair && t.Pair == 0 && v.nameOf(t) == object || guard.VNI != 0 && guard.VNI == v.vniOf(t) {
			ts = append(ts, t)
		}
	}
	return ts
}

// pairOf is the VNI of the pair whose tunnel has a name.
func pairOf(name string) (cluster.VNI, bool) {
	digits, ok := strings.CutPrefix(name, pairPrefix)
	if !ok {
		return 0, false
	}
	v, err := cluster.ParseVNI(digits)
	return v, err == nil
}

func equalBasics(a, b VPC) bool {
	return a.Name == b.Name && a.VNI == b.VNI && a.MTU == b.MTU && a.VTEP == b.VTEP && a.Static == b.Static && equalGateways(a.Gateway, b.Gateway)
}

// leads reports whether the host had been told what op tells it.
func (v VPC) leads(op SetFDB) bool {
	p, ok := v.place(op.MAC)
	return ok && p.At == op.Peer && p.Yields == op.Yields
}

func samePlace(a, b Place) bool { return a.MAC == b.MAC && a.At == b.At }

func samePeers(t, u Tunnel) bool { return t.Pair == u.Pair && slices.Equal(t.Peers, u.Peers) }

// equalShape compares all but the peers.
func equalShape(t, u Tunnel) bool {
	return t.Pair == u.Pair && t.Local == u.Local && t.Device == u.Device && t.Port == u.Port &&
		t.Group == u.Group && t.ReceiveOnly == u.ReceiveOnly
}

// remember keeps what has converged, to tell tampering from change.
func (h *Host) remember(desired Desired, ready map[string]bool, attached map[string]map[string]bool) {
	for _, v := range desired.VPCs {
		in := make(map[string]Port, len(v.Ports))
		for _, p := range v.Ports {
			if attached[v.Name][p.Endpoint] {
				in[p.Device] = p
			}
		}
		if h.attached == nil {
			h.attached = map[string]map[string]Port{}
		}
		h.attached[v.Name] = in
	}
	if h.last == nil {
		h.last = map[string]VPC{}
	}
	for _, v := range desired.VPCs {
		if ready[v.Name] {
			v.Tunnels = slices.Clone(v.Tunnels)
			h.last[v.Name] = v
		}
	}
}

// forget drops what is known of VPCs that are not wanted any more.
func (h *Host) forget(desired Desired) {
	wanted := make(map[string]bool, len(desired.VPCs))
	for _, v := range desired.VPCs {
		wanted[v.Name] = true
	}
	maps.DeleteFunc(h.last, func(name string, _ VPC) bool { return !wanted[name] })
	maps.DeleteFunc(h.attached, func(name string, _ map[string]Port) bool { return !wanted[name] })
}

// ready tells which VPCs have neither open operations nor problems, but for those
// of workloads' ports.
func ready(desired Desired, open []Op, problems []Problem) map[string]bool {
	not := map[string]bool{}
	if len(open) > 0 {
		endpoints := endpointsOf(desired)
		for _, op := range open {
			if _, is := endpoints[op.On()]; !is {
				not[op.On().VPC] = true
			}
		}
	}
	for _, p := range problems {
		if p.Endpoint == "" {
			not[p.VPC] = true
		}
	}
	out := make(map[string]bool, len(desired.VPCs))
	for _, v := range desired.VPCs {
		out[v.Name] = !not[v.Name] && !hostWide(problems)
	}
	return out
}

func hostWide(problems []Problem) bool {
	return slices.ContainsFunc(problems, func(p Problem) bool { return p.VPC == "" })
}
