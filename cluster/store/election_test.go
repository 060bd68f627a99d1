package store

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

const electionTTL = 10 * time.Second

// candidate campaigns in the background; its leaderships arrive on won.
type candidate struct {
	kv  *faulty
	won chan *Leadership
	err chan error
}

func stand(t *testing.T, ctx context.Context, m *mvcc.Memory, name string) *candidate {
	t.Helper()
	c := &candidate{kv: &faulty{KV: m}, won: make(chan *Leadership, 1), err: make(chan error, 1)}
	go func() {
		l, err := Campaign(ctx, New(c.kv, controller), name, lasting(electionTTL), nil)
		if err != nil {
			c.err <- err
			return
		}
		c.won <- l
	}()
	return c
}

// leads reports whether c has been elected once nothing else runs.
func (c *candidate) leads() bool { synctest.Wait(); return len(c.won) == 1 }

func ended(l *Leadership) bool {
	synctest.Wait()
	select {
	case <-l.Done():
		return true
	default:
		return false
	}
}

func resign(t *testing.T, l *Leadership) {
	t.Helper()
	if err := l.Resign(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

func assign(state cluster.AssignmentState) Change {
	var c Change
	Set(&c, cluster.KeyHostVPC("a", "blue"), &cluster.HostVPC{State: state}, nil, 0)
	return c
}

// lasting is a TTL that is the same at all times.
func lasting(d time.Duration) func(context.Context) time.Duration {
	return func(context.Context) time.Duration { return d }
}

func TestCampaign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mvcc.NewMemory(mvcc.Config{})
		a := stand(t, t.Context(), m, "a")
		if !a.leads() {
			t.Fatal("the only candidate is not elected")
		}
		la := <-a.won
		b := stand(t, t.Context(), m, "b")
		time.Sleep(10 * electionTTL)
		if b.leads() || ended(la) {
			t.Fatal("a healthy leader lost its office")
		}
		if got := mustGet[*cluster.Leader](t, la.Store, cluster.KeyLeader).Value.Name; got != "a" {
			t.Errorf("leader is %q, want a", got)
		}
		mustCommit(t, la.Store, assign(cluster.AssignedMember))

		resign(t, la)
		if !b.leads() || !ended(la) {
			t.Fatal("a resigned and b was not elected at once")
		}
		if _, err := la.Store.Commit(t.Context(), assign(cluster.AssignedLeaving)); !errors.Is(err, ErrFenced) {
			t.Errorf("a write after resigning gave %v, want ErrFenced", err)
		}
		resign(t, la) // a second time does not touch the successor
		lb := <-b.won
		if ended(lb) {
			t.Error("the successor lost its office when the former leader resigned again")
		}
		mustCommit(t, lb.Store, assign(cluster.AssignedLeaving))
		resign(t, lb)
	})
}

// A leader that is cut off knows that it has lost before another can win.
func TestLeaderCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mvcc.NewMemory(mvcc.Config{})
		a := stand(t, t.Context(), m, "a")
		a.leads()
		la := <-a.won
		b := stand(t, t.Context(), m, "b")
		time.Sleep(7 * time.Second)
		a.kv.set(func() { a.kv.cut = true })
		start := time.Now()
		<-la.Done()
		lost := time.Since(start)
		if b.leads() {
			t.Errorf("b was elected before a gave up")
		}
		<-b.elected(t)
		won := time.Since(start)
		if lost > electionTTL || won < lost || won > electionTTL+time.Second {
			t.Errorf("a gave up after %v, b was elected after %v; want both within the TTL of %v, a first", lost, won, electionTTL)
		}
		a.kv.set(func() { a.kv.cut = false })
		resign(t, la)
	})
}

// elected closes when b was elected, and resigns it at the end.
func (c *candidate) elected(t *testing.T) <-chan struct{} {
	won := make(chan struct{})
	go func() {
		l := <-c.won
		close(won)
		t.Cleanup(func() { resign(t, l) })
	}()
	return won
}

// A frozen leader's write that arrives after another was elected is refused,
// however late, and nothing is changed by it.
func TestTwoLeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mvcc.NewMemory(mvcc.Config{})
		a := stand(t, t.Context(), m, "a")
		a.leads()
		la := <-a.won
		mustCommit(t, la.Store, assign(cluster.AssignedMember))
		b := stand(t, t.Context(), m, "b")
		synctest.Wait()

		a.kv.freeze()
		late := make(chan error)
		go func() {
			_, err := la.Store.Commit(t.Context(), assign(cluster.AssignedLeaving))
			late <- err
		}()
		lb := <-b.won
		if ended(la) {
			t.Fatal("a frozen leader cannot know that it has lost")
		}
		mustCommit(t, lb.Store, assign(cluster.AssignedMember))
		before := m.Revision()
		a.kv.thaw()
		if err := <-late; !errors.Is(err, ErrFenced) {
			t.Errorf("the frozen leader's write gave %v, want ErrFenced", err)
		}
		if m.Revision() != before {
			t.Error("the frozen leader's write changed the store")
		}
		if !ended(la) {
			t.Error("a thawed leader goes on after its lease ended")
		}
		resign(t, la)
		if ended(lb) {
			t.Error("the new leader lost its office to the thawed one")
		}
		resign(t, lb)
	})
}

func TestLeaderLosesItsKey(t *testing.T) {
	for name, lose := range map[string]func(m *mvcc.Memory, la *Leadership, before *mvcc.State){
		"key deleted by mistake": func(m *mvcc.Memory, la *Leadership, _ *mvcc.State) {
			_, _ = m.Txn(context.Background(), mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Delete(cluster.KeyLeader)}})
		},
		"lease revoked":                    func(m *mvcc.Memory, la *Leadership, _ *mvcc.State) { _ = m.Revoke(context.Background(), la.lease.id) },
		"store restored to before":         func(m *mvcc.Memory, _ *Leadership, before *mvcc.State) { m.Restore(before) },
		"key put without lease by mistake": func(m *mvcc.Memory, _ *Leadership, before *mvcc.State) { m.Restore(before); leaseless(m) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mvcc.NewMemory(mvcc.Config{})
				before := m.Snapshot()
				a := stand(t, t.Context(), m, "a")
				a.leads()
				la := <-a.won
				lose(m, la, before)
				start := time.Now()
				<-la.Done()
				if d := time.Since(start); d > electionTTL/2 {
					t.Errorf("the leader noticed after %v, want within half a TTL", d)
				}
				resign(t, la)
				b := stand(t, t.Context(), m, "b")
				if !b.leads() {
					t.Fatal("nobody can be elected any more")
				}
				resign(t, <-b.won)
			})
		})
	}
}

func leaseless(m *mvcc.Memory) {
	_, _ = m.Txn(context.Background(), mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Put(cluster.KeyLeader, []byte("garbage"))}})
}

// A campaign that goes wrong leaves no key behind that keeps others out.
func TestCampaignFails(t *testing.T) {
	t.Run("answer lost", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := mvcc.NewMemory(mvcc.Config{})
			kv := &faulty{KV: m, lose: true}
			if _, err := Campaign(t.Context(), New(kv, controller), "a", lasting(electionTTL), nil); !errors.Is(err, mvcc.ErrUnavailable) {
				t.Errorf("got %v, want ErrUnavailable", err)
			}
			b := stand(t, t.Context(), m, "b")
			if !b.leads() {
				t.Fatal("a key without a leader keeps others out")
			}
			resign(t, <-b.won)
		})
	})
	t.Run("not the controller", func(t *testing.T) {
		m := mvcc.NewMemory(mvcc.Config{})
		if _, err := Campaign(t.Context(), New(m, operator), "a", lasting(electionTTL), nil); !errors.Is(err, cluster.ErrInvalid) {
			t.Errorf("got %v, want ErrInvalid", err)
		}
	})
	t.Run("context ends while waiting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := mvcc.NewMemory(mvcc.Config{})
			a := stand(t, t.Context(), m, "a")
			a.leads()
			ctx, cancel := context.WithCancel(t.Context())
			b := stand(t, ctx, m, "b")
			synctest.Wait()
			cancel()
			if err := <-b.err; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want context.Canceled", err)
			}
			resign(t, <-a.won)
		})
	})
}

// While the store is down nobody is elected, and a leader's lease outlives
// that; it just may not call itself leader meanwhile.
func TestLeaderThroughOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mvcc.NewMemory(mvcc.Config{})
		a := stand(t, t.Context(), m, "a")
		a.leads()
		la := <-a.won
		m.SetDown(true)
		time.Sleep(electionTTL / 2)
		m.SetDown(false)
		time.Sleep(3 * electionTTL)
		if ended(la) {
			t.Error("an outage shorter than the TTL ended the leadership")
		}
		m.SetDown(true)
		start := time.Now()
		<-la.Done()
		if d := time.Since(start); d > electionTTL {
			t.Errorf("gave up after %v, want at most the TTL", d)
		}
		resign(t, la)
		m.SetDown(false)
	})
}
