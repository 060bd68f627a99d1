package controller

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestAlive: a candidate that waits is as alive as the leader, and both say so as
// often as asked though nothing happens.
func TestAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var leads, waits atomic.Int64
		r.alive = func() { leads.Add(1) }
		r.start("a", r.mem)
		pass(time.Second)
		r.alive = func() { waits.Add(1) }
		r.start("b", r.mem)
		pass(time.Second)
		if leads.Load() == 0 || waits.Load() == 0 {
			t.Errorf("alive %d and %d times at first, want both", leads.Load(), waits.Load())
		}
		for who, calls := range map[string]*atomic.Int64{"leader": &leads, "candidate": &waits} {
			before := calls.Load()
			pass(20 * time.Second)
			if n := calls.Load() - before; n < 10 || n > 40 {
				t.Errorf("the %s is alive %d times in 20 s at rest; want once in 2 s, and for what happens", who, n)
			}
		}
	})
}
