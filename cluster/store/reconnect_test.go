package store

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// busy is a KV that counts what is asked of it in each second since it was
// last told to begin, and what of that was answered.
type busy struct {
	db *mvcc.Memory

	mu       sync.Mutex
	refusing bool
	lists    int
	since    time.Time
	asked    []int
	answered []int
}

// begin counts from now on. A store that is refusing is like a server that is
// gone, else one that is down is like a server without quorum.
func (b *busy) begin(down, refusing bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refusing, b.since, b.asked, b.answered = refusing, time.Now(), nil, nil
	b.db.SetDown(down)
}

// counted is what was counted since begin, and how often a prefix was read
// whole since ever.
func (b *busy) counted() (asked, answered []int, lists int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.asked), slices.Clone(b.answered), b.lists
}

func (b *busy) count(to *[]int) {
	n := int(time.Since(b.since) / time.Second)
	for len(*to) <= n {
		*to = append(*to, 0)
	}
	(*to)[n]++
}

// ask is one call, of which do is the work.
func (b *busy) ask(do func() error) error {
	b.mu.Lock()
	b.count(&b.asked)
	refusing := b.refusing
	b.mu.Unlock()
	if refusing {
		return mvcc.ErrUnavailable
	}
	err := do()
	if err == nil {
		b.mu.Lock()
		b.count(&b.answered)
		b.mu.Unlock()
	}
	return err
}

func (b *busy) Range(ctx context.Context, r mvcc.RangeRequest) (resp mvcc.RangeResponse, err error) {
	if r.End != "" && r.Revision == 0 { // what a check reads has a revision
		b.mu.Lock()
		b.lists++
		b.mu.Unlock()
	}
	err = b.ask(func() error { resp, err = b.db.Range(ctx, r); return err })
	return resp, err
}

func (b *busy) Txn(ctx context.Context, r mvcc.TxnRequest) (resp mvcc.TxnResponse, err error) {
	err = b.ask(func() error { resp, err = b.db.Txn(ctx, r); return err })
	return resp, err
}

func (b *busy) Watch(ctx context.Context, r mvcc.WatchRequest) (out <-chan mvcc.WatchResponse) {
	if err := b.ask(func() error { out = b.db.Watch(ctx, r); return nil }); err != nil {
		refused := make(chan mvcc.WatchResponse, 1)
		refused <- mvcc.WatchResponse{Err: err}
		close(refused)
		return refused
	}
	return out
}

func (b *busy) Grant(ctx context.Context, ttl time.Duration) (id mvcc.LeaseID, in time.Duration, err error) {
	err = b.ask(func() error { id, in, err = b.db.Grant(ctx, ttl); return err })
	return id, in, err
}

func (b *busy) KeepAlive(ctx context.Context, id mvcc.LeaseID) (ttl time.Duration, err error) {
	err = b.ask(func() error { ttl, err = b.db.KeepAlive(ctx, id); return err })
	return ttl, err
}

func (b *busy) Revoke(ctx context.Context, id mvcc.LeaseID) error {
	return b.ask(func() error { return b.db.Revoke(ctx, id) })
}

// TestReconnectWithoutStorm: a thousand agents lose their store for half a
// minute and come back. They do not ask much while it is away, nor all at once
// when it is there, and read nothing again that they had.
func TestReconnectWithoutStorm(t *testing.T) {
	const (
		agents = 1000
		outage = 30 * time.Second
		within = 10 * time.Second
		// Each of an agent's four feeds asks once whether the store still is the
		// same one and watches, and the lease is renewed: so many a second if all
		// of that were spread evenly over the longest pause, 5 s.
		even = agents * (4*2 + 1) / 5
	)
	follow := func(i int) []string { // as the agent does
		name := fmt.Sprint("n", i)
		return []string{cluster.KeyConfig, cluster.KeyNode(name), cluster.PrefixHost(name), cluster.PrefixVPC("vpc1")}
	}
	for name, tt := range map[string]struct {
		refusing bool
		most     int // answered in one second after the outage
	}{
		"server gone": {refusing: true, most: even * 5 / 4},
		"quorum lost": {most: even * 8 / 3}, // calls that hang are all answered at once
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := &busy{db: mvcc.NewMemory(mvcc.Config{}), since: time.Now()}
				keys := []string{cluster.KeyConfig, cluster.KeyVPCNet("vpc1")}
				mirrors, leases := make([]*Mirror, agents), make([]*Lease, agents)
				ctx, cancel := context.WithCancel(t.Context())
				var running sync.WaitGroup
				defer running.Wait()
				defer cancel()
				for i := range agents {
					name := fmt.Sprint("n", i)
					keys = append(keys, cluster.KeyNode(name), cluster.KeyHostVPC(name, "vpc1"))
					s := New(kv, cluster.Identity{Role: cluster.Agent, Name: name})
					mirrors[i], leases[i] = NewMirror(MirrorConfig{Store: s}), NewLease(s, 15*time.Second)
					mirrors[i].Follow(follow(i)...)
				}
				for _, k := range keys {
					putRaw(t, kv.db, k, live(1))
				}
				for i := range agents {
					running.Go(func() { _ = mirrors[i].Run(ctx) })
					running.Go(func() { _ = leases[i].Run(ctx) })
					time.Sleep(time.Millisecond)
				}
				time.Sleep(time.Minute)
				ids := make([]mvcc.LeaseID, agents)
				for i, l := range leases {
					ids[i], _ = l.ID()
				}
				_, _, lists := kv.counted()

				kv.begin(true, tt.refusing)
				time.Sleep(outage)
				away, _, _ := kv.counted()
				kv.begin(false, false)
				time.Sleep(within)
				_, back, again := kv.counted()
				t.Logf("asked in each second while away: %v", away)
				t.Logf("answered in each second when back: %v", back)
				if most := slices.Max(away); most > 5*agents {
					t.Errorf("asked %d times in a second while away, want at most 5 for each agent", most)
				}
				if most := slices.Max(away[1:]); most > 2*agents {
					t.Errorf("asked %d times in a second after the first while away, want at most 2 for each agent", most)
				}
				if most := slices.Max(back); most > tt.most {
					t.Errorf("answered %d times in a second after the outage, want at most %d", most, tt.most)
				}
				if again != lists {
					t.Errorf("%d prefixes were listed anew", again-lists)
				}
				for _, k := range keys {
					putRaw(t, kv.db, k, live(2))
				}
				synctest.Wait()
				db := kv.db.Snapshot()
				for i, m := range mirrors {
					v := m.Pull()
					if since, err := v.Stale(); err != nil {
						t.Fatalf("agent %d has been without contact since %v: %v", i, since, err)
					}
					for _, p := range follow(i) {
						if r, err := db.Range(rangeOf(p)); err != nil || v.content(p) != text(r.Keys) {
							t.Fatalf("agent %d holds %q of %s, want %q: %v", i, v.content(p), p, text(r.Keys), err)
						}
					}
					if id, ok := leases[i].ID(); !ok || id != ids[i] {
						t.Fatalf("agent %d has lease %d, had %d", i, id, ids[i])
					}
				}
			})
		})
	}
}
