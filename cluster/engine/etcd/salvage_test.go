package etcd_test

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
	"time"

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
	if _, err := cli.MemberAdd(t.Context(), []string{"http://127.0.0.1:1"}); err != nil { // who never comes
		t.Fatal(err)
	}
	if err := errors.Join(cli.Close(), stop()); err != nil {
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
	if err != nil || len(members) != 2 || members[0].Name != "" || members[1].Name != "a" || len(members[1].Clients) != 1 || members[1].Learner {
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
