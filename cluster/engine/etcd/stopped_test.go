package etcd

import (
	"errors"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

func TestStoppedByItself(t *testing.T) {
	cfg := valid()
	cfg.DataDir, cfg.NoSync = t.TempDir(), true
	cfg.ListenClient, cfg.ListenPeer = ports("127.0.0.1:1"), ports("127.0.0.1:1")
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := e.cfg.embedded(zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	settings.ListenPeerUrls = cfg.urls(ports("127.0.0.1:0"))
	member, err := embed.StartEtcd(settings)
	if err != nil {
		t.Fatal(err)
	}
	defer member.Close()
	f, err := listen(&Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.abort()
	go func() {
		<-e.Ready()
		member.Server.Stop()
	}()
	if err := e.wait(t.Context(), member, newBroken(""), f, time.Now()); !errors.Is(err, ErrStopped) {
		t.Errorf("got %v, want ErrStopped", err)
	}
}
