package mvcc

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// DefaultMinTTL is the shortest lease that etcd gives with its default timings.
const DefaultMinTTL = 2 * time.Second

// Config says how a Memory behaves. The zero value is usable.
type Config struct {
	// ClusterID stands in every header; default 1.
	ClusterID uint64
	// MinTTL is the shortest lease; default DefaultMinTTL.
	MinTTL time.Duration
	// Progress is how often an idle watch tells its revision; default never.
	Progress time.Duration
	// Now is the clock of leases; default time.Now. With a clock of its own a
	// Memory starts no timer: leases end at the next call or Tick.
	Now func() time.Time
}

// Memory is a KV in this process, with faults to order. It owns no goroutine
// but one for each watch, which ends with the watch's context, so there is
// nothing to close. Within a testing/synctest bubble it must be made there.
type Memory struct {
	progress time.Duration
	minTTL   time.Duration
	now      func() time.Time
	timed    bool // leases end by timer

	mu        sync.Mutex
	state     *State
	lessor    Lessor
	clusterID uint64
	lastLease LeaseID
	watches   map[*watch]struct{}
	timer     *time.Timer
	up        chan struct{} // while down: closed when up again
}

var _ KV = (*Memory)(nil)

// NewMemory makes an empty store.
func NewMemory(cfg Config) *Memory {
	m := &Memory{
		progress:  cfg.Progress,
		minTTL:    cfg.MinTTL,
		now:       cfg.Now,
		timed:     cfg.Now == nil,
		state:     NewState(),
		clusterID: cfg.ClusterID,
		watches:   make(map[*watch]struct{}),
	}
	if m.clusterID == 0 {
		m.clusterID = 1
	}
	if m.minTTL == 0 {
		m.minTTL = DefaultMinTTL
	}
	if m.now == nil {
		m.now = time.Now
	}
	return m
}

// begin locks m for one call, once it is up.
func (m *Memory) begin(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		m.mu.Lock()
		if m.up == nil {
			m.expire()
			return nil
		}
		up := m.up
		m.mu.Unlock()
		select {
		case <-up:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		}
	}
}

// Range implements KV.
func (m *Memory) Range(ctx context.Context, r RangeRequest) (RangeResponse, error) {
	if err := m.begin(ctx); err != nil {
		return RangeResponse{}, err
	}
	defer m.mu.Unlock()
	resp, err := m.state.Range(r)
	if err != nil {
		return RangeResponse{}, err
	}
	resp.ClusterID = m.clusterID
	return resp, nil
}

// Txn implements KV.
func (m *Memory) Txn(ctx context.Context, t TxnRequest) (TxnResponse, error) {
	if err := m.begin(ctx); err != nil {
		return TxnResponse{}, err
	}
	defer m.mu.Unlock()
	before := m.state.Revision()
	resp, err := m.state.Txn(t)
	if err != nil {
		return TxnResponse{}, err
	}
	m.notify(before)
	resp.ClusterID = m.clusterID
	return resp, nil
}

// Grant implements KV. As in etcd the TTL is at least the configured one, in
// whole seconds.
func (m *Memory) Grant(ctx context.Context, ttl time.Duration) (LeaseID, time.Duration, error) {
	if err := m.begin(ctx); err != nil {
		return 0, 0, err
	}
	defer m.mu.Unlock()
	ttl = max(m.minTTL, (ttl + time.Second - 1).Truncate(time.Second))
	m.lastLease++
	if err := m.state.Grant(m.lastLease, ttl); err != nil {
		return 0, 0, err
	}
	m.lessor.Grant(m.lastLease, ttl, m.now())
	m.arm()
	return m.lastLease, ttl, nil
}

// KeepAlive implements KV.
func (m *Memory) KeepAlive(ctx context.Context, id LeaseID) (time.Duration, error) {
	if err := m.begin(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	return m.lessor.Renew(id, m.now())
}

// Revoke implements KV.
func (m *Memory) Revoke(ctx context.Context, id LeaseID) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	return m.revoke(id)
}

func (m *Memory) revoke(id LeaseID) error {
	before := m.state.Revision()
	if err := m.state.Revoke(id); err != nil {
		return err
	}
	m.lessor.Remove(id)
	m.notify(before)
	return nil
}

// Tick ends the leases that are over. Only a Memory with a clock of its own
// needs it.
func (m *Memory) Tick() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.up == nil {
		m.expire()
		m.arm()
	}
}

func (m *Memory) expire() {
	for _, id := range m.lessor.Expired(m.now()) {
		if m.revoke(id) != nil {
			m.lessor.Remove(id) // the store never had it
		}
	}
}

// arm sets the timer for the next lease to end. A lease renewed meanwhile
// makes it fire early, which only sets it again.
func (m *Memory) arm() {
	next, ok := m.lessor.Next()
	if !m.timed || !ok {
		return
	}
	if d := next.Sub(m.now()); m.timer == nil {
		m.timer = time.AfterFunc(d, m.Tick)
	} else {
		m.timer.Reset(d)
	}
}
