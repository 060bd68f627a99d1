package mvcc

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func describe(kv KeyValue) string {
	s := fmt.Sprintf("%s=%s@%d/%d/%d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version)
	if kv.Lease != 0 {
		s += fmt.Sprintf("~%d", kv.Lease)
	}
	return s
}

func (m *Memory) mustPut(t *testing.T, key, value string) int64 {
	t.Helper()
	resp, err := m.Txn(t.Context(), TxnRequest{Then: []Op{put(key, value)}})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Revision
}

// seen gives what is on a watch once nothing else runs: events as
// "key=value@mod" or "-key@mod", progress as "@revision", an error, "closed",
// or nothing.
func seen(c <-chan WatchResponse) string {
	synctest.Wait()
	select {
	case resp, ok := <-c:
		if !ok {
			return "closed"
		}
		if resp.Err != nil {
			return fmt.Sprintf("%v %d", resp.Err, resp.Compacted)
		}
		s := ""
		for _, e := range resp.Events {
			if e.Deleted {
				s += fmt.Sprintf("-%s@%d ", e.KV.Key, e.KV.ModRevision)
			} else {
				s += fmt.Sprintf("%s=%s@%d ", e.KV.Key, e.KV.Value, e.KV.ModRevision)
			}
		}
		return s + fmt.Sprintf("@%d", resp.Revision)
	default:
		return ""
	}
}

func wantSeen(t *testing.T, c <-chan WatchResponse, want string) {
	t.Helper()
	if got := seen(c); got != want {
		t.Errorf("watch gave %q, want %q", got, want)
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(Config{ClusterID: 5})
		m.mustPut(t, "a/1", "x") // 2
		m.mustPut(t, "b", "x")   // 3
		ctx, cancel := context.WithCancel(t.Context())
		now := m.Watch(ctx, WatchRequest{Key: "a/", End: "a0"})
		past := m.Watch(ctx, WatchRequest{Key: "a/", End: "a0", From: 1})
		future := m.Watch(ctx, WatchRequest{Key: "a/", End: "a0", From: 6})
		all := m.Watch(ctx, WatchRequest{End: "\x00", From: 3})
		wantSeen(t, now, "")
		wantSeen(t, past, "a/1=x@2 @3")
		m.mustPut(t, "b", "y") // 4
		if _, err := m.Txn(ctx, TxnRequest{Then: []Op{put("a/2", "y"), Delete("a/1")}}); err != nil {
			t.Fatal(err) // 5
		}
		wantSeen(t, now, "a/2=y@5 -a/1@5 @5")
		wantSeen(t, past, "a/2=y@5 -a/1@5 @5")
		wantSeen(t, future, "")
		m.mustPut(t, "a/3", "z") // 6
		wantSeen(t, now, "a/3=z@6 @6")
		wantSeen(t, future, "a/3=z@6 @6")
		m.mustPut(t, "a/4", "z") // 7
		wantSeen(t, now, "a/4=z@7 @7")
		wantSeen(t, future, "a/4=z@7 @7")
		wantSeen(t, all, "b=x@3 @3")
		wantSeen(t, all, "b=y@4 a/2=y@5 -a/1@5 a/3=z@6 a/4=z@7 @7")
		cancel()
		for _, c := range []<-chan WatchResponse{now, past, future, all} {
			wantSeen(t, c, "closed")
		}
		if len(m.watches) != 0 {
			t.Errorf("%d watches left", len(m.watches))
		}
	})
}

func TestWatchCompacted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(Config{})
		idle := m.Watch(t.Context(), WatchRequest{Key: "idle"})
		slow := m.Watch(t.Context(), WatchRequest{Key: "a"})
		for i := range 5 {
			m.mustPut(t, "a", fmt.Sprint(i)) // 2..6
			synctest.Wait()
		}
		if err := m.Compact(5); err != nil {
			t.Fatal(err)
		}
		wantSeen(t, slow, "a=0@2 @2")
		wantSeen(t, slow, ErrCompacted.Error()+" 5")
		wantSeen(t, slow, "closed")
		wantSeen(t, m.Watch(t.Context(), WatchRequest{Key: "a", From: 4}), ErrCompacted.Error()+" 5")
		wantSeen(t, m.Watch(t.Context(), WatchRequest{Key: "a", From: 5}), "a=3@5 a=4@6 @6")
		m.mustPut(t, "idle", "x")
		wantSeen(t, idle, "idle=x@7 @7")
	})
}

func TestWatchProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(Config{Progress: time.Minute})
		c := m.Watch(t.Context(), WatchRequest{Key: "a"})
		future := m.Watch(t.Context(), WatchRequest{Key: "a", From: 9})
		m.mustPut(t, "b", "x")
		time.Sleep(59 * time.Second)
		wantSeen(t, c, "")
		time.Sleep(time.Second)
		wantSeen(t, c, "@2")
		wantSeen(t, future, "")
	})
}

func TestRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(Config{})
		m.mustPut(t, "a", "1") // 2
		backup := m.Snapshot()
		had := m.Watch(t.Context(), WatchRequest{Key: "a"})
		idle := m.Watch(t.Context(), WatchRequest{Key: "idle"})
		m.mustPut(t, "a", "2") // 3
		wantSeen(t, had, "a=2@3 @3")
		m.mustPut(t, "a", "3") // 4
		wantSeen(t, had, "a=3@4 @4")
		m.Restore(m.Snapshot())
		wantSeen(t, had, "") // nothing twice

		m.Restore(backup)
		r, err := m.Range(t.Context(), RangeRequest{Key: "a"})
		if err != nil || text(r.Keys) != "a=1@2/2/1" || r.Revision != 2 {
			t.Fatalf("%q at %d, %v", text(r.Keys), r.Revision, err)
		}
		wantSeen(t, had, "")
		m.mustPut(t, "a", "4") // 3 again: the watch had a revision 3
		m.mustPut(t, "idle", "x")
		wantSeen(t, had, "")
		wantSeen(t, idle, "idle=x@4 @4")
		m.mustPut(t, "a", "5") // 5
		wantSeen(t, had, "a=5@5 @5")
		if backup.Revision() != 2 {
			t.Error("the snapshot went on with the store")
		}
	})
}

func TestDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(Config{})
		c := m.Watch(t.Context(), WatchRequest{Key: "a"})
		id, _, err := m.Grant(t.Context(), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		m.SetDown(true)
		m.SetDown(true)
		wantSeen(t, c, ErrNoLeader.Error()+" 0")
		wantSeen(t, c, "closed")
		wantSeen(t, m.Watch(t.Context(), WatchRequest{Key: "a"}), ErrNoLeader.Error()+" 0")

		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err = m.Txn(ctx, TxnRequest{Then: []Op{put("a", "lost")}})
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 20*time.Second {
			t.Errorf("txn while down: %v after %v", err, time.Since(start))
		}

		done := make(chan error)
		go func() {
			_, err := m.Txn(t.Context(), TxnRequest{Then: []Op{put("a", "1")}})
			done <- err
		}()
		synctest.Wait()
		m.SetDown(false)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if m.Revision() != 2 {
			t.Errorf("revision %d, want one put", m.Revision())
		}
		time.Sleep(9 * time.Second)
		if _, err := m.KeepAlive(t.Context(), id); err != nil {
			t.Errorf("the lease ended while down: %v", err)
		}
	})
}

func TestDropWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(Config{})
		c := m.Watch(t.Context(), WatchRequest{Key: "a"})
		m.DropWatches()
		wantSeen(t, c, ErrUnavailable.Error()+" 0")
		wantSeen(t, c, "closed")
		c = m.Watch(t.Context(), WatchRequest{Key: "a"})
		m.mustPut(t, "a", "1")
		wantSeen(t, c, "a=1@2 @2")
	})
}

func TestLeaseExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(Config{})
		id, ttl, err := m.Grant(t.Context(), 2500*time.Millisecond)
		if err != nil || ttl != 3*time.Second {
			t.Fatal(ttl, err)
		}
		if _, short, err := m.Grant(t.Context(), time.Millisecond); err != nil || short != DefaultMinTTL {
			t.Errorf("shortest lease %v, %v", short, err)
		}
		if _, err := m.Txn(t.Context(), TxnRequest{Then: []Op{leased("b", id), leased("a", id)}}); err != nil {
			t.Fatal(err)
		}
		c := m.Watch(t.Context(), WatchRequest{Key: "a", End: "z"})
		time.Sleep(2 * time.Second)
		if ttl, err := m.KeepAlive(t.Context(), id); err != nil || ttl != 3*time.Second {
			t.Fatal(ttl, err)
		}
		time.Sleep(3*time.Second - 1)
		wantSeen(t, c, "")
		time.Sleep(time.Nanosecond)
		wantSeen(t, c, "-a@3 -b@3 @3") // by timer: nobody called
		if _, err := m.KeepAlive(t.Context(), id); !errors.Is(err, ErrLeaseNotFound) {
			t.Errorf("kept alive when over: %v", err)
		}
		if err := m.Revoke(t.Context(), id); !errors.Is(err, ErrLeaseNotFound) {
			t.Errorf("revoked when over: %v", err)
		}
	})
}

func TestOwnClock(t *testing.T) {
	now := time.Unix(100, 0)
	m := NewMemory(Config{Now: func() time.Time { return now }})
	id, _, err := m.Grant(t.Context(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Txn(t.Context(), TxnRequest{Then: []Op{leased("a", id)}}); err != nil {
		t.Fatal(err)
	}
	now = now.Add(5 * time.Second)
	m.Tick()
	if m.Revision() != 3 || len(m.Snapshot().Leases()) != 0 {
		t.Errorf("revision %d, leases %v", m.Revision(), m.Snapshot().Leases())
	}
	if m.timer != nil {
		t.Error("a timer was started")
	}
}

func TestClusterID(t *testing.T) {
	m := NewMemory(Config{})
	m.SetClusterID(9)
	r, err := m.Range(t.Context(), RangeRequest{Key: "a"})
	if err != nil || r.ClusterID != 9 {
		t.Error(r.ClusterID, err)
	}
}

func TestEndedContext(t *testing.T) {
	m := NewMemory(Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Txn(ctx, TxnRequest{Then: []Op{put("a", "")}}); !errors.Is(err, context.Canceled) || m.Revision() != 1 {
		t.Errorf("%v, revision %d", err, m.Revision())
	}
}
