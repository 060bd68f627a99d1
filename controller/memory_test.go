package controller

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// leads is who has the leader's key.
func (r *rig) leads() string {
	r.t.Helper()
	if held := get[*cluster.Leader](r, cluster.KeyLeader); held != nil {
		return held.Name
	}
	return ""
}

// wantLead wants a candidate to lead.
func (r *rig) wantLead(want, when string) {
	r.t.Helper()
	if got := r.leads(); got != want {
		r.t.Errorf("%s: %q leads, want %s", when, got, want)
	}
}

// TestLostLeader: a candidate ends the lead of one whose host is lost, long before its
// lease ends, and goes on with what it has seen: it collects no evidence. If that one
// leads all the same, it is not done again soon.
func TestLostLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := served(t) // a leads, and is well all the time
		r.put(cluster.KeyNode("a"), node("a"))
		r.put(cluster.KeyEndpointHold("blue", "db1"), &cluster.Hold{})
		r.start("h3", r.mem)
		pass(10 * time.Second)

		all := []string{"h1", "h3", "w"}
		r.suspect("a h2", 500*time.Millisecond, all...)
		r.wantLead("a", "for as long as evidence has to hold")
		r.suspect("a h2", 2*time.Second, all...)
		r.wantLead("h3", "a is lost")
		r.delete(cluster.KeyEndpointHold("blue", "db1"))
		r.suspect("a h2", 500*time.Millisecond, all...)
		if get[*cluster.Fence](r, cluster.KeyFence("h2")) == nil {
			t.Error("h2 is not fenced: the new leader does not know that it is lost")
		}

		r.suspect("h3", 2*time.Second, "h1", "h2", "w")
		r.wantLead("a", "h3 is lost")
		r.suspect("a", 2*time.Second, all...)
		r.wantLead("a", "h3 did so just now")
		r.suspect("a", vacateEvery, all...)
		r.wantLead("h3", "it did so long ago")
	})
}

// TestWellLeader: nobody ends the lead of a leader that some places hear, nor, with
// whatever evidence, a candidate that has seen nothing yet.
func TestWellLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := served(t)
		r.put(cluster.KeyNode("a"), node("a"))
		pass(10 * time.Second)
		r.start("h3", r.mem)
		r.suspect("a", 4*time.Second, "h1", "h2", "w")
		r.wantLead("a", "the candidate has just begun")
		pass(10 * time.Second)
		r.suspect("a", 10*time.Second, "w")
		r.wantLead("a", "its own datacenter hears it")
	})
}
