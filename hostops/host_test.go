package hostops_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/hosttest"
)

// failing refuses the operations that begin with one of some texts.
type failing struct {
	hostops.Driver
	refuse []string
	tried  []string
}

var errRefused = errors.New("operation not permitted")

func (f *failing) Apply(ctx context.Context, op hostops.Op) error {
	f.tried = append(f.tried, op.String())
	if slices.ContainsFunc(f.refuse, func(s string) bool { return strings.HasPrefix(op.String(), s) }) {
		return errRefused
	}
	return f.Driver.Apply(ctx, op)
}

// TestFailureStaysWithItsObject: what fails is a problem of its VPC, what would
// be unsafe without it is left out, and everything else is done.
func TestFailureStaysWithItsObject(t *testing.T) {
	for name, tt := range map[string]struct {
		refuse []string
		never  []string // operations that may not be tried
		ready  []string
		still  []string // devices that are there all the same
	}{
		"isolation": {
			refuse: []string{"isolate port mv4-10000"}, never: []string{"bring up mv4-10000"},
			ready: []string{"netb"}, still: []string{"mv6-10000", "mv4-10001"},
		},
		"guard": {
			refuse: []string{"guard VNI 10000"}, never: []string{"create tunnel mv4-10000", "create tunnel mv6-10000"},
			ready: []string{"netb"}, still: []string{"neta", "mv4-10001"},
		},
		"filter": {
			refuse: []string{"create filter"}, never: []string{"create tunnel"},
		},
		"one peer": {
			refuse: []string{"add peer 203.0.113.10 to mv4-10000"},
			ready:  []string{"netb"}, still: []string{"mv4-10000", "mv6-10000"},
		},
		"seal": {
			refuse: []string{"seal bridge neta"}, never: []string{"bring up neta", "add port mn-10000", "create tunnel mv4-10000"},
			ready: []string{"netb"},
		},
		"bridge": {
			refuse: []string{"create bridge neta"}, never: []string{"create tunnel mv4-10000"},
			ready: []string{"netb"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			fh, d := newHost(t)
			f := &failing{Driver: d, refuse: tt.refuse}
			h := mustHost(t, f)
			r := h.Reconcile(t.Context(), hostops.Desired{VPCs: []hostops.VPC{hosttest.MakeVPC(0), hosttest.MakeVPC(1)}}, false)
			var ready []string
			for _, v := range []string{"neta", "netb"} {
				if r.Ready[v] {
					ready = append(ready, v)
				}
			}
			if diff := cmp.Diff(tt.ready, ready); diff != "" {
				t.Errorf("ready (-want +got):\n%s", diff)
			}
			if len(r.Problems) == 0 || !strings.Contains(r.Problems[0].Reason, errRefused.Error()) {
				t.Errorf("problems: %v", r.Problems)
			}
			for _, op := range f.tried {
				if slices.ContainsFunc(tt.never, func(s string) bool { return strings.HasPrefix(op, s) }) {
					t.Errorf("tried %q", op)
				}
			}
			for _, name := range tt.still {
				if !slices.Contains(fh.Devices(), name) {
					t.Errorf("device %s is not there", name)
				}
			}
			f.refuse = nil
			r = h.Reconcile(t.Context(), hostops.Desired{VPCs: []hostops.VPC{hosttest.MakeVPC(0), hosttest.MakeVPC(1)}}, false)
			if !r.Ready["neta"] || !r.Ready["netb"] || len(r.Problems) > 0 {
				t.Errorf("after the cause is gone: %v, ready %v", r.Problems, r.Ready)
			}
			if n := fh.Loops(); n > 0 {
				t.Errorf("%d loops", n)
			}
		})
	}
}

func mustHost(t testing.TB, d hostops.Driver) *hostops.Host {
	t.Helper()
	h, err := hostops.New(hostops.Config{Driver: d})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestRepairs: they are told apart from changes that were asked for.
func TestRepairs(t *testing.T) {
	fh, d := newHost(t)
	h := mustHost(t, d)
	pass := func(vpcs ...hostops.VPC) hostops.Report {
		t.Helper()
		r := h.Reconcile(t.Context(), hostops.Desired{VPCs: vpcs}, false)
		if len(r.Problems) > 0 {
			t.Fatal(r.Problems)
		}
		return r
	}
	a, b := hosttest.MakeVPC(0), hosttest.MakeVPC(1)
	for _, step := range []struct {
		name   string
		tamper func() error
		want   []hostops.VPC
		n      map[string]int
	}{
		{"first", nil, []hostops.VPC{a}, nil},
		{"another VPC", nil, []hostops.VPC{a, b}, nil},
		{"a peer more", nil, []hostops.VPC{withPeer(hosttest.MakeVPC(0), 7), b}, nil},
		{"peers back", nil, []hostops.VPC{a, b}, nil},
		{"tampering", func() error { return fh.SetMTU("mv4-10000", 1280) }, []hostops.VPC{a, b}, map[string]int{"neta": 1}},
		{"tampering and a peer more", func() error { return fh.RemovePeer("mv4-10001", hosttest.Peer(0, false)) },
			[]hostops.VPC{a, withPeer(hosttest.MakeVPC(1), 7)}, map[string]int{"netb": 1}},
		{"a VPC less", nil, []hostops.VPC{a}, nil},
	} {
		if step.tamper != nil {
			if err := step.tamper(); err != nil {
				t.Fatal(err)
			}
		}
		r := pass(step.want...)
		if diff := cmp.Diff(step.n, r.Repaired); diff != "" {
			t.Errorf("%s: repaired (-want +got):\n%s", step.name, diff)
		}
	}
	leftover := hostops.CreateBridge{Target: hostops.Target{Object: "old"}, Owner: 99}
	if err := d.Apply(t.Context(), leftover); err != nil {
		t.Fatal(err)
	}
	if r := pass(a); r.Repairs != 1 || slices.Contains(fh.Devices(), "old") {
		t.Errorf("a leftover with our mark: repairs %d, devices %v", r.Repairs, fh.Devices())
	}
}

// TestObserveFails: nothing is ready when the host cannot be read.
func TestObserveFails(t *testing.T) {
	_, d := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := mustHost(t, d).Reconcile(ctx, hostops.Desired{VPCs: []hostops.VPC{hosttest.MakeVPC(0)}}, false)
	if r.Ready["neta"] || len(r.Problems) != 1 || !strings.HasPrefix(r.Problems[0].Reason, "observe host: ") {
		t.Errorf("report: %+v", r)
	}
}
