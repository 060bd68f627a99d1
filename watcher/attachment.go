package watcher

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// portID names an endpoint of a VPC on this host.
type portID struct{ vpc, endpoint string }

// attachment is a workload that this host was asked to attach: it stays, whatever
// becomes of the host or the store, until it is detached or its target has ended.
// What Own points to is never changed in place.
type attachment struct {
	Kind hostops.PortKind `json:"kind"`
	// Target is the path of the workload's network namespace, or the name of a
	// device on the host. A VIP has none.
	Target string `json:"target"`
	Inner  string `json:"inner,omitempty"` // name of the device in the namespace
	// NoGateway: the namespace has default routes of its own, or none.
	NoGateway bool `json:"no_gateway,omitempty"`

	Owner   int    `json:"owner,omitempty"` // of a tap
	Trusted bool   `json:"trusted,omitempty"`
	Standby bool   `json:"standby,omitempty"` // it does not ask to be the owner
	Create  bool   `json:"create,omitempty"`
	Ours    bool   `json:"ours,omitempty"` // this host had the endpoint made
	For     string `json:"for,omitempty"`
	// Inode, of the namespace, and BootID are of a target below /proc: what is
	// there later is another process's.
	Inode  uint64 `json:"inode,omitempty"`
	BootID string `json:"boot_id,omitempty"`
	// Created is the endpoint's: one with another is another endpoint.
	Created cluster.Time         `json:"created,omitzero"`
	Own     *cluster.EndpointOwn `json:"own,omitempty"` // in force here; nil: none yet
	// Failover: the endpoint can move without anybody's word.
	Failover bool `json:"failover,omitempty"`
	// Workload is what is started here when this host is its owner.
	Workload workloadSpec `json:"workload,omitzero"`
	// Strict: its port is gated, because the endpoint is exclusive strict, or was so in
	// the term StrictIn, which Own is of still.
	Strict   bool `json:"strict,omitempty"`
	StrictIn term `json:"strict_in,omitzero"`

	made  bool   // there was no such endpoint when it was asked for
	kept  bool   // the cache file has had it
	lost  string // why there is no target at the moment
	hold  string // why the own record does not count at the moment
	bound string // the node that the spec names
	gone  bool   // the owner that Own names is no member any more
	read  bool   // Own is what the store has, as read since the start
	shut  string // why its port is mute whatever Own says, see shutPorts
	mod   int64  // revision of the record that Own is; 0: it is not what the store has
	// proved is the last term in which the store has granted it, see grants.
	proved term
	until  time.Time // what was this host's is served on until then, see lingers; zero: it is not
}

// term is a time in which an endpoint has one owner: they are ordered, and only
// grow, for one endpoint.
type term struct {
	Era   int64 `json:"era"`
	Epoch int64 `json:"epoch"`
}

func termOf(o *cluster.EndpointOwn) term {
	if o == nil {
		return term{}
	}
	return term{o.Era, o.Epoch}
}

func (t term) before(u term) bool { return t.Era < u.Era || t.Era == u.Era && t.Epoch < u.Epoch }

// released is the last term of an endpoint that this host has ended.
type released struct {
	term
	Created cluster.Time `json:"created,omitzero"` // of the endpoint, as in attachment

	kept bool // the cache file has had it
}

// sameTarget reports whether two attachments are of the same workload, in the
// same manner.
func (a attachment) sameTarget(b attachment) bool {
	return a.Kind == b.Kind && a.Target == b.Target && a.Inner == b.Inner && a.Owner == b.Owner && a.Trusted == b.Trusted && a.NoGateway == b.NoGateway
}

// collides reports whether two endpoints cannot be attached so at once.
func (a attachment) collides(b attachment) bool {
	if a.Kind == hostops.PortNetns || b.Kind == hostops.PortNetns {
		return a.Kind == b.Kind && a.Target == b.Target && a.Inner == b.Inner
	}
	return a.Target == b.Target
}

// String is what it is attached to, for people.
func (a attachment) String() string {
	if a.Kind == hostops.PortVIP {
		return "the VPC's own network namespace"
	}
	if a.Kind == hostops.PortNetns {
		return fmt.Sprintf("%s in the network namespace %s", a.Inner, a.Target)
	}
	return fmt.Sprintf("the %s %s", a.Kind, a.Target)
}

// device is the port's name on the host.
func (a attachment) device(vpc, endpoint string) string {
	if a.Kind == hostops.PortNetns || a.Kind == hostops.PortVIP {
		return hostops.EndpointPortOf(vpc, endpoint)
	}
	return a.Target
}

// serves reports whether this host is the endpoint's owner, in a term that it
// has not ended, nor is to end.
func (v *vpc) serves(endpoint, me string) bool {
	return v.owns(endpoint, me) && v.Attachments[endpoint].Own.To == ""
}

// owns reports whether this host is the endpoint's owner, in a term that it has not
// ended.
func (v *vpc) owns(endpoint, me string) bool {
	o := v.Attachments[endpoint].Own
	r, ended := v.Released[endpoint]
	return o != nil && o.State == cluster.OwnAssigned && o.Node == me && (!ended || r.before(termOf(o)))
}

// attach takes an attachment into memory; one of that endpoint is replaced.
func (v *vpc) attach(endpoint string, a attachment) {
	if v.Attachments == nil {
		v.Attachments = map[string]attachment{}
	}
	v.Attachments[endpoint] = a
	delete(v.Deletes, endpoint)
	v.portsRead = nil
}

// end forgets an attachment, whose port goes by that. A term in which this host
// was the owner is over; one that the controller is about to begin is ended when
// it is known.
func (v *vpc) end(endpoint, me string, now time.Time) {
	a, ok := v.Attachments[endpoint]
	if !ok {
		return
	}
	delete(v.Attachments, endpoint)
	if !v.release(endpoint, me, a.Own, a.Created) {
		v.expect(endpoint, now)
	}
}

// expect watches an endpoint that may yet become this host's, though nothing is
// attached.
func (v *vpc) expect(endpoint string, now time.Time) {
	if v.expected == nil {
		v.expected = map[string]time.Time{}
	}
	v.expected[endpoint] = now.Add(expectFor)
}

// expectFor is how long an endpoint that was asked for is watched after nobody
// wants it any more. A full look at the host finds what comes later.
const expectFor = 2 * time.Minute

// release ends the term of an own record, if this host is the owner in it, and
// reports whether it is.
func (v *vpc) release(endpoint, me string, o *cluster.EndpointOwn, created cluster.Time) bool {
	if o == nil || o.Node != me {
		return false
	}
	if v.Released == nil {
		v.Released = map[string]released{}
	}
	v.portsRead = nil
	if r, ok := v.Released[endpoint]; !ok || r.before(termOf(o)) {
		v.Released[endpoint] = released{term: termOf(o), Created: created}
	}
	return true
}

// forgetPorts drops all that concerns endpoints: the VPC is being taken down here.
func (v *vpc) forgetPorts() {
	v.Attachments, v.Released, v.Deletes, v.expected = nil, nil, nil, nil
}

// ports are the workloads' ports that the VPC should have here, sorted by device.
// One whose target is gone has none, and one without a MAC cannot have any yet.
func (v *vpc) ports(vpc, me string) []hostops.Port {
	var ps []hostops.Port
	for name, a := range v.Attachments {
		if a.Own == nil || a.lost != "" {
			continue
		}
		p := hostops.Port{
			Endpoint: name, Kind: a.Kind, Device: a.device(vpc, name), MAC: a.Own.MAC, Addresses: v.addressesOf(a.Own),
			Owner: a.Owner, Trusted: a.Trusted, Gated: a.Strict, Standby: !v.serves(name, me) && a.until.IsZero() || a.shut != "" || !v.mayServe(name),
		}
		p.Router = v.routes(name, a)
		p.Trusted = p.Trusted || p.Router
		if a.Kind == hostops.PortNetns {
			p.Namespace, p.Inode, p.Inner = a.Target, a.Inode, a.Inner
			p.Gateways, p.Routes = v.gatewaysOf(a), v.Gateway.Routes.List()
		}
		ps = append(ps, p)
	}
	slices.SortFunc(ps, func(a, b hostops.Port) int { return strings.Compare(a.Device, b.Device) })
	return ps
}

// validatePorts holds what was read from the cache to what could have been
// accepted.
func (v *vpc) validatePorts() error {
	for _, name := range slices.Concat(slices.Collect(maps.Keys(v.Released)), slices.Collect(maps.Keys(v.Deletes))) {
		if err := cluster.CheckNodeName(name); err != nil {
			return err
		}
	}
	if err := v.validateWorkloads(); err != nil {
		return err
	}
	for name, a := range v.Attachments {
		if err := a.validate(name); err != nil {
			return fmt.Errorf("attachment of %s: %w", cluster.CleanText(name), err)
		}
	}
	return nil
}

func (a attachment) validate(endpoint string) error {
	if err := cluster.CheckNodeName(endpoint); err != nil {
		return err
	}
	switch a.Kind {
	case hostops.PortNetns:
		if !filepath.IsAbs(a.Target) || filepath.Clean(a.Target) != a.Target {
			return fmt.Errorf("%w namespace %q: want a clean, absolute path", cluster.ErrInvalid, cluster.CleanText(a.Target))
		}
		if err := checkDevice(a.Inner); err != nil {
			return err
		}
	case hostops.PortVIP:
		if a.Target != "" {
			return fmt.Errorf("%w target %q of a VIP: want none", cluster.ErrInvalid, cluster.CleanText(a.Target))
		}
	case hostops.PortTap, hostops.PortDevice:
		if err := checkDevice(a.Target); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%w kind of port %q", cluster.ErrInvalid, cluster.CleanText(string(a.Kind)))
	}
	if a.Own == nil {
		return nil
	}
	if !a.Own.MAC.Unicast() {
		return fmt.Errorf("%w MAC %s", cluster.ErrInvalid, a.Own.MAC)
	}
	return a.Own.Validate()
}

// checkDevice wants what a kernel takes for a device's name.
func checkDevice(s string) error {
	if s == "" || s == "." || s == ".." || len(s) > 15 || cluster.CleanText(s) != s || strings.ContainsAny(s, " /:%") {
		return fmt.Errorf("%w device name %q: want 1 to 15 characters, and none of space, /, : and %%", cluster.ErrInvalid, cluster.CleanText(s))
	}
	return nil
}
