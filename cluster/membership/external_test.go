package membership_test

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// TestRoles: what the records say of nodes and users reaches the etcd, again after
// it failed.
func TestRoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := mvcc.NewMemory(mvcc.Config{})
		s := store.New(kv, cluster.Identity{Role: cluster.Operator})
		commit := func(c store.Change) {
			t.Helper()
			if _, err := s.Commit(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		node := &cluster.Node{ID: "1", Datacenter: "dc1", State: cluster.NodeActive, Agent: true, Joined: cluster.At(time.Now())}
		var c store.Change
		store.Create(&c, cluster.KeyNode("a"), node)
		store.Create(&c, cluster.KeyServer("s1"), &cluster.Server{Datacenter: "dc1", Address: "192.0.2.1:2378", Joined: cluster.At(time.Now())})
		commit(c)
		var got map[string][]string
		fails := 0
		r := membership.NewRoles(membership.RolesConfig{Store: s, Set: func(_ context.Context, want cluster.Accounts) (int, error) {
			if fails > 0 {
				fails--
				return 0, errors.New("no etcd")
			}
			got = want.Users
			return 1, nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		settle := func(what string, want map[string][]string) {
			t.Helper()
			time.Sleep(10 * time.Second) //nolint:forbidigo // a bubble's
			synctest.Wait()
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s: %s", what, d)
			}
		}
		own, server := cluster.NodeRole("a"), []string{cluster.RoleServer}
		settle("at first", map[string][]string{"node:a": {own, cluster.RoleNodes}, "server:s1": server})
		fails = 3
		var left store.Change
		node.State = cluster.NodeLeft
		store.Set(&left, cluster.KeyNode("a"), node, nil, 0)
		commit(left)
		settle("removed", map[string][]string{"node:a": {own}, "server:s1": server})
		if _, err := kv.Txn(t.Context(), mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Put(cluster.KeyNode("a"), []byte("{"))}}); err != nil {
			t.Fatal(err)
		}
		settle("unreadable", map[string][]string{"server:s1": server})
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestStoreDialer: with a CA of the store it is that which is trusted, and only by
// the names that it certifies.
func TestStoreDialer(t *testing.T) {
	ours, theirs := newCA(t), newCA(t)
	me := credential(t, ours, "node:a")
	store := credential(t, theirs, "server:etcd") // of 127.0.0.1, and any name: it is not ours
	serve := func(c membership.Credential) *tls.Config {
		pair, err := tls.X509KeyPair(c.Cert, c.Key)
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}
	}
	beside := me
	beside.StoreCA = theirs.CertPEM()
	for name, tt := range map[string]struct {
		as     membership.Credential
		server membership.Credential
		host   string
		ok     bool
	}{
		"the store":              {beside, store, "127.0.0.1", true},
		"the store by another":   {beside, store, "192.0.2.1", false},
		"a server of ours there": {beside, credential(t, ours, "server:s1"), "127.0.0.1", false},
		"ours":                   {me, credential(t, ours, "server:s1"), "192.0.2.1", true},
		"ours is not theirs":     {me, store, "127.0.0.1", false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := membership.StoreDialer(tt.as.Load)
			if err != nil {
				t.Fatal(err)
			}
			cfg.ServerName = tt.host
			if err := handshake(t, cfg, serve(tt.server)); (err == nil) != tt.ok {
				t.Errorf("%v; want it trusted: %v", err, tt.ok)
			}
		})
	}
	beside.StoreCA = []byte("none")
	if _, err := membership.StoreDialer(beside.Load); !errors.Is(err, membership.ErrNoCertificate) {
		t.Errorf("no CA: %v", err)
	}
}

// TestExternal: who joins is known to the etcd before it is told so, and names are
// not given twice.
func TestExternal(t *testing.T) {
	var known sync.Map // of subjects
	var serves atomic.Bool
	h := newHouse(t, func(c *membership.ServiceConfig) {
		c.External = &membership.External{Endpoints: []string{"192.0.2.7:2379"}, CA: func() ([]byte, error) { return []byte("their CA"), nil },
			Admit: func(context.Context) error {
				if !serves.Load() {
					return errors.New("no etcd")
				}
				return nil
			},
			Known: func(_ context.Context, s cluster.Subject) (bool, error) {
				_, ok := known.Load(s.String())
				return ok, nil
			}}
	})
	tok, m := h.token(9, time.Now().Add(time.Hour)), newMachine(t)
	code := func(err error) membership.Code {
		if r, ok := errors.AsType[*membership.Refusal](err); ok {
			return r.Code
		}
		return ""
	}
	if _, _, err := membership.Join(t.Context(), h.address, tok, m.request(t, "b", "id-b")); code(err) != membership.CodeUnavailable {
		t.Errorf("joined, and the etcd does not know it: %v", err)
	}
	serves.Store(true)
	answer, _, err := membership.Join(t.Context(), h.address, tok, m.request(t, "b", "id-b"))
	if err != nil {
		t.Fatal(err)
	}
	got := membership.JoinAnswer{Endpoints: answer.Endpoints, StoreCA: answer.StoreCA, Servers: answer.Servers}
	if d := cmp.Diff(membership.JoinAnswer{Endpoints: []string{"192.0.2.7:2379"}, StoreCA: "their CA", Servers: []string{"192.0.2.1:2379"}}, got); d != "" {
		t.Error(d)
	}
	it, err := store.Get[*cluster.Node](t.Context(), h.records, cluster.KeyNode("b"))
	if err != nil {
		t.Fatal(err)
	}
	var c store.Change
	it.Value.State = cluster.NodeLeft
	store.Put(&c, it, it.Value)
	h.commit(c)
	if _, _, err := membership.Join(t.Context(), h.address, tok, newMachine(t).request(t, "b", "another")); code(err) != membership.CodeTaken {
		t.Errorf("the name of a removed node was given again: %v", err)
	}
	known.Store("user:late", true)
	if _, err := membership.NewUser(t.Context(), h.address, h.admin, "late", cluster.UserViewer); code(err) != membership.CodeTaken {
		t.Errorf("the name of a revoked user was given again: %v", err)
	}
	if _, err := membership.NewUser(t.Context(), h.address, h.admin, "new", cluster.UserViewer); err != nil {
		t.Error(err)
	}
}
