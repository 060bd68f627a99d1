package store

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/enginetest"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
	"github.com/meshvpc/meshvpc/cluster/engine/external"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// server is a real etcd that is stopped, started and put back to old data.
type server struct {
	t    *testing.T
	cfg  etcd.Config
	stop func()
	cli  *clientv3.Client
	kv   mvcc.KV
}

func newServer(t *testing.T) *server {
	t.Helper()
	ports := enginetest.FreePorts(t, 2)
	s := &server{t: t, cfg: etcd.Config{
		Name: "test", DataDir: filepath.Join(t.TempDir(), "data"), ListenClient: ports[:1], ListenPeer: ports[1:], NoSync: true,
		Timings: etcd.Timings{Tick: 10 * time.Millisecond, Election: 100 * time.Millisecond},
	}}
	s.start()
	t.Cleanup(func() { s.stop() })
	s.connect("http://" + ports[0].String())
	return s
}

// onEngines runs a test on an embedded etcd, and on a stock one in its own process
// as a server of ours, which has no more than its role there.
func onEngines(t *testing.T, test func(t *testing.T, s *server)) {
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		test(t, newServer(t))
	})
	t.Run("external", func(t *testing.T) {
		t.Parallel()
		e := enginetest.StartExternal(t)
		root := e.Secured(t)
		if _, err := external.NewAccounts(root).Set(t.Context(), cluster.AccountsOf(nil, nil, []string{"s1"})); err != nil {
			t.Fatal(err)
		}
		s := &server{t: t}
		cert, key := e.Credential(t, "server:s1")
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		as := e.TLS(t, "", "")
		as.Certificates = []tls.Certificate{pair}
		s.dial(client.Config{Endpoints: []string{e.Endpoint}, TLS: as})
		test(t, s)
	})
}

// connect makes the client, until the test ends.
func (s *server) connect(endpoints ...string) {
	s.t.Helper()
	s.dial(client.Config{Endpoints: endpoints})
}

func (s *server) dial(cfg client.Config) {
	s.t.Helper()
	cli, err := client.Dial(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := cli.Close(); err != nil {
			s.t.Error(err)
		}
	})
	s.cli, s.kv = cli, client.New(cli)
}

func (s *server) start() {
	s.t.Helper()
	e, err := etcd.New(s.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	s.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Errorf("stop etcd: %v", err)
		}
		s.stop = func() {}
	}
	select {
	case <-e.Ready():
	case err := <-ended:
		cancel()
		s.stop = func() {}
		s.t.Fatalf("start etcd: %v", err)
	}
}

func (s *server) write(n int, keys ...string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	for _, key := range keys {
		for {
			if _, err := s.kv.Txn(ctx, mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Put(key, []byte(live(n)))}}); err == nil {
				break
			} else if ctx.Err() != nil {
				s.t.Fatal(err)
			}
		}
	}
}

// content is what the store holds below prefixLive.
func (s *server) content() string {
	s.t.Helper()
	keys, _, err := New(s.kv, operator).Read(s.t.Context(), prefixLive)
	if err != nil {
		s.t.Fatal(err)
	}
	v := NewView()
	v.apply(prefixLive, batch{list: true, keys: keys})
	return v.content(prefixLive)
}

// await pulls until the View is what the store holds. Meanwhile every View
// must be one of was, if there are any.
func (s *server) await(m *Mirror, was ...string) {
	s.t.Helper()
	want := s.content()
	late := time.After(20 * time.Second)
	for {
		got := m.Pull().content(prefixLive)
		if got == want {
			return
		}
		known := len(was) == 0
		for _, w := range was {
			known = known || got == w
		}
		if !known {
			s.t.Fatalf("the view never was:\n%s", got)
		}
		select {
		case <-m.Changed():
		case <-late:
			s.t.Fatalf("view is\n%swant\n%s", got, want)
		}
	}
}

// TestMirrorOfEtcd is what TestMirrorRecovers does in a bubble, against a real
// server and through a real client.
func TestMirrorOfEtcd(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	m := NewMirror(MirrorConfig{Store: New(s.kv, operator), VerifyEvery: 2 * time.Second, MaxBackoff: 200 * time.Millisecond})
	m.Follow(prefixLive)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	lists := func(what string, want int) {
		t.Helper()
		if got := m.Pull().Lists(prefixLive); got != want {
			t.Errorf("%s: listed %d times, want %d", what, got, want)
		}
	}

	s.write(1, liveA, liveB)
	s.await(m)
	s.write(2, liveA)
	s.await(m)
	lists("events", 1)

	s.stop()
	s.start()
	s.write(3, liveB)
	s.await(m)
	lists("restart on the same data", 1)

	s.stop()
	old := filepath.Join(t.TempDir(), "old")
	if err := os.CopyFS(old, os.DirFS(s.cfg.DataDir)); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.write(4, liveA)
	s.write(5, liveA, prefixLive+"c")
	s.await(m)
	before := s.content()
	lists("second restart", 1)

	// Put back, and written to until its revision has passed ours.
	s.stop()
	s.cfg.DataDir = old
	s.start()
	revision := m.Pull().Revision(prefixLive)
	was := []string{before, s.content()}
	for n := 10; ; n++ {
		s.write(n, cluster.KeyServer("s"), liveB)
		was = append(was, s.content())
		r, err := s.kv.Range(t.Context(), mvcc.RangeRequest{Key: liveA})
		if err != nil {
			t.Fatal(err)
		}
		if r.Revision > revision+3 {
			break
		}
	}
	s.await(m, was...)
	lists("restored", 2)
	s.write(20, liveA)
	s.await(m)

	// Compacted while the connection was lost.
	s.stop()
	s.start()
	s.write(30, liveA, liveB)
	r, err := s.kv.Range(t.Context(), mvcc.RangeRequest{Key: liveA})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.cli.Compact(t.Context(), r.Revision); err != nil {
		t.Fatal(err)
	}
	s.write(31, liveB)
	s.await(m)
	if _, err := m.Pull().Stale(); err != nil {
		select {
		case <-m.Changed():
		case <-time.After(10 * time.Second):
		}
		if _, err := m.Pull().Stale(); err != nil {
			t.Errorf("still stale: %v", err)
		}
	}
}

// TestVerifyOfEtcd: what a real server tells by a watch is what it answers when
// asked for the past, of keys on leases, too, in one page and in two.
func TestVerifyOfEtcd(t *testing.T) { onEngines(t, testVerify) }

func testVerify(t *testing.T, s *server) {
	id, _, err := s.kv.Grant(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	f, v, st := NewFeed(prefixLive), NewView(), New(s.kv, operator)
	s.write(1, liveA, liveB)
	if err := f.Begin(t.Context(), st, v); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	watch := s.kv.Watch(ctx, f.Watch())
	for n := range checkPage + 5 {
		key := fmt.Sprint(prefixLive, n)
		resp, err := s.kv.Txn(t.Context(), mvcc.TxnRequest{Then: []mvcc.Op{
			{Kind: mvcc.OpPut, Key: key, Value: []byte(live(n)), Lease: id},
			mvcc.Put(liveA, nil),
			mvcc.Delete(liveB),
		}})
		if err != nil {
			t.Fatal(err)
		}
		for v.Revision(prefixLive) < resp.Revision {
			if err := f.Hear(v, <-watch); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Verify(t.Context(), st); err != nil {
			t.Fatalf("after %d writes: %v", n+1, err)
		}
	}
}

// Two candidates on a real server: one leads, the other follows it.
func TestCampaignOnEtcd(t *testing.T) { onEngines(t, testCampaign) }

func testCampaign(t *testing.T, s *server) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	a, err := Campaign(ctx, New(s.kv, controller), "a", lasting(2*time.Second), nil)
	if err != nil {
		t.Fatal(err)
	}
	won := make(chan *Leadership)
	go func() {
		b, err := Campaign(ctx, New(s.kv, controller), "b", lasting(2*time.Second), nil)
		if err != nil {
			t.Error(err)
		}
		won <- b
	}()
	mustCommit(t, a.Store, assign(cluster.AssignedMember))
	select {
	case <-won:
		t.Fatal("two leaders")
	case <-a.Done():
		t.Fatal("a lost its office")
	case <-time.After(3 * time.Second): // longer than the lease
	}
	resign(t, a)
	b := <-won
	if b == nil {
		return
	}
	if _, err := a.Store.Commit(ctx, assign(cluster.AssignedLeaving)); err != ErrFenced {
		t.Errorf("the former leader's write gave %v, want ErrFenced", err)
	}
	mustCommit(t, b.Store, assign(cluster.AssignedLeaving))
	resign(t, b)
}
