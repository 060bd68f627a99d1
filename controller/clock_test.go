package controller

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/meshvpc/meshvpc/allocator"
	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// clock is the time of a bubble as package time tells it: with a wall clock,
// which may be set, and a monotonic reading, which goes on.
type clock struct {
	begun time.Time
	set   atomic.Int64 // by how much, nanoseconds
}

// now gives a time a monotonic reading, which only time.Now can outside of
// bubbles: see the comment of time.Time's fields.
func (c *clock) now() time.Time {
	real := time.Now()
	wall := real.Add(time.Duration(c.set.Load()))
	since1885 := wall.Unix() - time.Date(1885, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	type fields struct {
		wall uint64
		ext  int64
		loc  *time.Location
	}
	*(*fields)(unsafe.Pointer(&wall)) = fields{1<<63 | uint64(since1885)<<30 | uint64(wall.Nanosecond()), int64(real.Sub(c.begun)) + 1, nil}
	return wall
}

// TestClockIsSet: an hour forth or back on the leader's clock ends no
// quarantine early and none late, changes no record and no leader.
func TestClockIsSet(t *testing.T) {
	for name, jump := range map[string]time.Duration{"forth": time.Hour, "back": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.startHosts()
				c := &clock{begun: time.Now()}
				ctl, err := New(Config{Store: store.New(r.mem, cluster.Identity{Role: cluster.Controller, Name: "a"}), Name: "a", Now: c.now, Ask: honest})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() {
					if err := ctl.Run(ctx); err != nil {
						t.Error(err)
					}
				})
				defer wg.Wait()
				defer cancel()
				r.join("h1", "192.0.2.1")
				r.join("h2", "192.0.2.2")
				r.vpc("blue", spec("all", "10.100.0.0/16"))
				pass(digestAfter + digestEvery)
				leads := func() int64 {
					t.Helper()
					it, err := store.Get[*cluster.Leader](t.Context(), r.op, cluster.KeyLeader)
					if err != nil {
						t.Fatal(err)
					}
					return it.Create
				}
				leader, revision := leads(), r.mem.Revision()
				c.set.Store(int64(jump))
				pass(5 * time.Minute)
				c.set.Store(0)
				pass(5 * time.Minute)
				if n := r.mem.Revision() - revision; n != 0 {
					t.Errorf("%d revisions while the clock was set; want none", n)
				}
				r.editNode("h2", func(n *cluster.Node) { n.State = cluster.NodeLeft })
				settle()
				rests := func() bool {
					a := get[*cluster.Allocation](r, cluster.PrefixAllocVTEP("blue")+"10.100.0.2")
					return a != nil && a.Released
				}
				c.set.Store(int64(jump))
				r.editNode("h1", func(n *cluster.Node) { n.Labels = map[string]string{"rack": "a1"} }) // look again
				pass(allocator.QuarantineTime / 2)
				if !rests() {
					t.Error("the address left its quarantine early")
				}
				pass(allocator.QuarantineTime/2 + time.Second)
				if rests() {
					t.Error("the address is in quarantine for too long")
				}
				if now := leads(); now != leader {
					t.Error("another term began")
				}
			})
		})
	}
}
