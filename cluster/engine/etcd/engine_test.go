package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/enginetest"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// childDir makes this binary a server on a data directory, see TestKill.
const childDir, childPorts = "MESHVPC_TEST_ETCD_DIR", "MESHVPC_TEST_ETCD_PORTS"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		var ports []netip.AddrPort
		for p := range strings.FieldsSeq(os.Getenv(childPorts)) {
			ports = append(ports, netip.MustParseAddrPort(p))
		}
		cfg := config(dir, ports)
		cfg.Logger = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(os.Stderr), zap.InfoLevel))
		engine, err := etcd.New(cfg)
		if err == nil {
			err = engine.Run(context.Background())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if etcd.HasOwnMounts() {
		os.Exit(m.Run())
	}
	goleak.VerifyTestMain(m)
}

func config(dir string, ports []netip.AddrPort) etcd.Config {
	return etcd.Config{Name: "a", DataDir: dir, ListenClient: ports[:1], ListenPeer: ports[1:]}
}

// start runs an engine until stop, which returns what Run did.
func start(t *testing.T, cfg etcd.Config) (engine *etcd.Engine, stop func() error) {
	t.Helper()
	engine, err := etcd.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	select {
	case <-engine.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	return engine, func() error { cancel(); return <-ended }
}

func dial(t *testing.T, endpoints []string) mvcc.KV {
	t.Helper()
	cli, err := client.Dial(client.Config{Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cli.Close(); err != nil {
			t.Error(err)
		}
	})
	return client.New(cli)
}

func mustPut(t *testing.T, kv mvcc.KV, key, value string) {
	t.Helper()
	if _, err := kv.Txn(t.Context(), mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Put(key, []byte(value))}}); err != nil {
		t.Fatal(err)
	}
}

func mustGet(t *testing.T, kv mvcc.KV, key, want string) {
	t.Helper()
	r, err := kv.Range(t.Context(), mvcc.RangeRequest{Key: key})
	if err != nil || len(r.Keys) != 1 || string(r.Keys[0].Value) != want {
		t.Fatalf("%s = %+v, %v; want %q", key, r.Keys, err, want)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Skip("this host does not list open descriptors: ", err)
	}
	return len(fds)
}

// TestStop ends an engine that has a client with an open watch, which etcd
// waits for in some configurations, and starts it again on its data.
func TestStop(t *testing.T) {
	core, logged := observer.New(zap.InfoLevel)
	cfg := config(t.TempDir(), enginetest.FreePorts(t, 2))
	cfg.Logger = zap.New(core)
	before := descriptors(t)
	began := time.Now()
	engine, stop := start(t, cfg)
	t.Logf("ready after %v", time.Since(began))
	if info, err := os.Stat(cfg.DataDir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data directory: %v, %v", info.Mode(), err)
	}
	cli, err := client.Dial(client.Config{Endpoints: engine.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	kv := client.New(cli)
	mustPut(t, kv, "a", "1")
	watch := kv.Watch(t.Context(), mvcc.WatchRequest{Key: "a", From: 1})
	if r := <-watch; len(r.Events) != 1 {
		t.Fatalf("%+v", r)
	}
	began = time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("stopping took %v", d)
	} else {
		t.Logf("stopped in %v with a watch open", d)
	}
	if err := cli.Close(); err != nil {
		t.Error(err)
	}
	for r := range watch {
		if r.Err == nil || !errors.Is(r.Err, mvcc.ErrUnavailable) {
			t.Errorf("the watch of a closed client: %+v", r)
		}
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}

	began = time.Now()
	engine, stop = start(t, cfg)
	t.Logf("ready again after %v", time.Since(began))
	mustGet(t, dial(t, engine.Endpoints()), "a", "1")
	if err := stop(); err != nil {
		t.Error(err)
	}
	for _, e := range logged.FilterLevelExact(zap.InfoLevel).All() {
		if e.LoggerName != "etcd" || e.Message != "etcd serves" {
			t.Errorf("logged %+v", e)
		}
	}
	if n := logged.Len(); n != 2 {
		t.Errorf("two starts and stops logged %d lines: %+v", n, logged.All())
	}
}

// TestKill ends a server process with SIGKILL right after it acknowledged a
// write, and reads that after a start on its data.
func TestKill(t *testing.T) {
	ports := enginetest.FreePorts(t, 2)
	cfg := config(t.TempDir(), ports)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+cfg.DataDir, childPorts+"="+fmt.Sprintf("%v %v", ports[0], ports[1]))
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	kv := dial(t, []string{"http://" + ports[0].String()})
	for i := range 20 {
		mustPut(t, kv, fmt.Sprint(i), "survives")
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(); err == nil {
		t.Error("the child was not killed")
	}
	_, stop := start(t, cfg)
	for i := range 20 { // by the same client, which finds the new server
		mustGet(t, kv, fmt.Sprint(i), "survives")
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestRunRefuses(t *testing.T) {
	ports := enginetest.FreePorts(t, 2)
	cfg := config(t.TempDir(), ports)
	_, stop := start(t, cfg)
	for name, tt := range map[string]struct {
		dir  string
		want string
	}{
		"directory in use": {cfg.DataDir, "is in use by another process"},
		"port in use":      {t.TempDir(), "address already in use"},
	} {
		other, err := etcd.New(config(tt.dir, ports))
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Run(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestWatchAcrossRestart holds the client to telling that a connection was
// lost, and to going on from where it was when it is asked to.
func TestWatchAcrossRestart(t *testing.T) {
	cfg := config(t.TempDir(), enginetest.FreePorts(t, 2))
	cfg.NoSync = true
	engine, stop := start(t, cfg)
	kv := dial(t, engine.Endpoints())
	mustPut(t, kv, "a", "1")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	from := int64(1)
	watch := kv.Watch(ctx, mvcc.WatchRequest{Key: "a", From: from})
	want := func(value string) {
		t.Helper()
		r := <-watch
		for ; r.Err == nil && len(r.Events) == 0 && ctx.Err() == nil; r = <-watch {
		}
		if len(r.Events) != 1 || string(r.Events[0].KV.Value) != value {
			t.Fatalf("got %+v, want %q", r, value)
		}
		from = r.Events[0].KV.ModRevision + 1
	}
	want("1")
	for _, value := range []string{"2", "3"} {
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		_, stop = start(t, cfg)
		if r := <-watch; !errors.Is(r.Err, mvcc.ErrUnavailable) {
			t.Fatalf("got %+v, want ErrUnavailable", r)
		}
		mustPut(t, kv, "a", value)
		watch = kv.Watch(ctx, mvcc.WatchRequest{Key: "a", From: from})
		want(value)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
