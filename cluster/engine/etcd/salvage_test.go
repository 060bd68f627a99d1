package etcd_test

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/enginetest"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
)

// TestSalvage: a member whose only other one is gone ends when it is told to, though
// it was never ready; a new store with what it has takes its place, of later
// revisions.
func TestSalvage(t *testing.T) {
	cfg := config(t.TempDir(), enginetest.FreePorts(t, 2))
	if _, err := etcd.StoredMembers(cfg.DataDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("members of no store: %v", err)
	}
	engine, stop := start(t, cfg)
	if _, err := etcd.StoredMembers(cfg.DataDir); !errors.Is(err, etcd.ErrRunning) {
		t.Errorf("members of a store in use: %v", err)
	}
	kv := dial(t, engine.Endpoints())
	mustPut(t, kv, "a", "1")
	cli, err := client.Dial(client.Config{Endpoints: engine.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	before, err := cli.Put(t.Context(), "a", "2")
	if err != nil {
		t.Fatal(err)
	}
	lose := second(t, cli, cfg) // it does not come back
	var both errgroup.Group
	both.Go(lose)
	both.Go(stop)
	if err := errors.Join(cli.Close(), both.Wait()); err != nil {
		t.Fatal(err)
	}

	alone, err := etcd.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- alone.Run(ctx) }()
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("a member that is not ready does not end")
	}
	select {
	case <-alone.Ready():
		t.Fatal("it was ready: nothing is shown")
	default:
	}

	members, err := etcd.StoredMembers(cfg.DataDir)
	if err != nil || len(members) != 2 || members[0].Name != "a" || len(members[0].Clients) != 1 || members[0].Learner || members[1].Name != "b" || members[1].Learner {
		t.Errorf("members: %+v, %v", members, err)
	}
	path := filepath.Join(t.TempDir(), "snapshot")
	if err := etcd.Salvage(t.Context(), cfg, path); err != nil {
		t.Fatal(err)
	}
	s, err := etcd.ReadSnapshot(path, "")
	if err != nil || string(s.Values["a"]) != "2" || s.Revision != before.Header.Revision {
		t.Errorf("salvaged %+v, %v; want revision %d", s, err, before.Header.Revision)
	}
	cfg.ClusterToken = "another"
	if err := etcd.Restore(cfg, path); !errors.Is(err, etcd.ErrNotEmpty) {
		t.Errorf("restored over a store: %v", err)
	}
	if err := errors.Join(etcd.Supplant(cfg.DataDir), etcd.Supplant(cfg.DataDir)); err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(t.TempDir(), "snapshot") // as if the first time had been cut short here
	if err := etcd.Salvage(t.Context(), cfg, again); err != nil {
		t.Fatal(err)
	}
	if err := etcd.Restore(cfg, again); err != nil {
		t.Fatal(err)
	}
	engine, stop = start(t, cfg)
	mustGet(t, kv, "a", "2")
	cli, err = client.Dial(client.Config{Endpoints: engine.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	after, err := cli.Get(t.Context(), "a")
	if err != nil || after.Header.Revision < before.Header.Revision+1e9 || after.Header.ClusterId == before.Header.ClusterId {
		t.Errorf("the new store is at %+v, %v; before: %+v", after.Header, err, before.Header)
	}
	if err := errors.Join(cli.Close(), stop()); err != nil {
		t.Error(err)
	}
}

// second makes another member, "b", that votes with the one of cfg.
func second(t *testing.T, cli *clientv3.Client, cfg etcd.Config) (stop func() error) {
	t.Helper()
	b := config(t.TempDir(), enginetest.FreePorts(t, 2))
	b.Name = "b"
	peer := func(c etcd.Config) []string { return []string{"http://" + c.ListenPeer[0].String()} }
	added, err := cli.MemberAddAsLearner(t.Context(), peer(b))
	if err != nil {
		t.Fatal(err)
	}
	b.Join = map[string][]string{cfg.Name: peer(cfg), b.Name: peer(b)}
	_, stop = start(t, b)
	for {
		_, err := cli.MemberPromote(t.Context(), added.Member.ID)
		if err == nil {
			return stop
		}
		if !errors.Is(err, rpctypes.ErrMemberLearnerNotReady) {
			t.Fatal(err)
		}
	}
}
