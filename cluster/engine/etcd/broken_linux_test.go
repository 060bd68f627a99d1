package etcd

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

// TestBroken has each kind of write of an etcd fail in which it would end its
// process: here that is an error that says what is wrong with the disk.
func TestBroken(t *testing.T) {
	if !InOwnMounts(t) {
		return
	}
	large := strings.Repeat("x", 1<<20)
	grow := clientv3.OpPut("a", large)
	onlyLog := clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Version("none"), "=", 1)}, []clientv3.Op{grow}, nil)
	for name, tt := range map[string]struct {
		fault func(t *testing.T, dir string)
		op    clientv3.Op
		want  error
		says  string
	}{
		"database cannot grow": {func(t *testing.T, dir string) { Fill(t, dir, 0) }, grow, ErrFull, "failed to commit tx"},
		"log cannot grow": {func(t *testing.T, dir string) { Fill(t, dir, 4) }, onlyLog, ErrFull,
			"failed to save Raft hard state and entries"},
		"log is read-only": {func(t *testing.T, dir string) { ReadOnly(t, filepath.Join(dir, "member", "wal")) }, onlyLog, ErrReadOnly,
			"failed to save Raft hard state and entries"},
		"snapshots are read-only": {func(t *testing.T, dir string) { ReadOnly(t, filepath.Join(dir, "member", "snap")) }, clientv3.OpPut("a", "1"), ErrReadOnly,
			"failed to save snapshot"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := valid()
			cfg.DataDir, cfg.NoSync = SmallDisk(t, 400), true
			cfg.ListenClient, cfg.ListenPeer = ports("127.0.0.1:1"), ports("127.0.0.1:1")
			cfg.setDefaults()
			settings, err := cfg.embedded(zap.NewNop())
			if err != nil {
				t.Fatal(err)
			}
			settings.ListenClientUrls, settings.ListenPeerUrls = cfg.urls(ports("127.0.0.1:0")), cfg.urls(ports("127.0.0.1:0"))
			settings.SnapshotCount = 300
			member, broke, err := startEtcd(settings, zap.NewNop())
			if err != nil {
				t.Fatal(err)
			}
			<-member.Server.ReadyNotify()
			cli := v3client.New(member.Server)
			do := func() error {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				_, err := cli.Do(ctx, tt.op)
				return err
			}
			if err := do(); err != nil {
				t.Fatal(err)
			}
			tt.fault(t, cfg.DataDir)
			n := 0
			for late := time.Now().Add(2 * time.Minute); !happened(broke) && time.Now().Before(late); n++ {
				if err := do(); err != nil {
					t.Log(err)
				}
			}
			if !happened(broke) {
				t.Fatalf("not broken after %d writes", n)
			}
			t.Logf("after %d writes: %v", n, broke.err)
			if !errors.Is(broke.err, tt.want) || !strings.Contains(broke.err.Error(), tt.says) {
				t.Errorf("got %v, want %v with %q", broke.err, tt.want, tt.says)
			}
			if err := closeMember(member, broke); !errors.Is(err, tt.want) {
				t.Errorf("closed: %v", err)
			}
		})
	}
}

// TestFullAtStart: a disk that is full as etcd lays out its files is not called a
// damaged store.
func TestFullAtStart(t *testing.T) {
	if !InOwnMounts(t) {
		return
	}
	cfg := valid()
	cfg.DataDir = SmallDisk(t, 40)
	cfg.ListenClient, cfg.ListenPeer = ports("127.0.0.1:1"), ports("127.0.0.1:1")
	cfg.setDefaults()
	settings, err := cfg.embedded(zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	settings.ListenClientUrls, settings.ListenPeerUrls = cfg.urls(ports("127.0.0.1:0")), cfg.urls(ports("127.0.0.1:0"))
	if _, _, err := startEtcd(settings, zap.NewNop()); !errors.Is(err, ErrFull) || errors.Is(err, ErrDamaged) {
		t.Errorf("got %v, want ErrFull", err)
	} else {
		t.Log(err)
	}
}

func happened(b *broken) bool {
	select {
	case <-b.happened:
		return true
	default:
		return false
	}
}
