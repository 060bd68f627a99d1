package enginetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// Store is what the suites test: a KV whose history can be compacted.
// mvcc.Memory is one, Etcd makes one of a client.
type Store interface {
	mvcc.KV
	// Compact forgets history before a revision: mvcc.ErrCompacted when it was
	// done before, mvcc.ErrFutureRevision above the current revision.
	Compact(revision int64) error
}

// Etcd makes a Store of a client, whose owner closes it.
func Etcd(ctx context.Context, cli *clientv3.Client) Store {
	return etcdStore{KV: client.New(cli), compact: func(revision int64) error {
		_, err := cli.Compact(ctx, revision)
		switch {
		case errors.Is(err, rpctypes.ErrCompacted):
			return mvcc.ErrCompacted
		case errors.Is(err, rpctypes.ErrFutureRev):
			return mvcc.ErrFutureRevision
		}
		return err
	}}
}

type etcdStore struct {
	mvcc.KV
	compact func(int64) error
}

func (s etcdStore) Compact(revision int64) error { return s.compact(revision) }

// StartEtcd runs an empty embedded etcd on the loopback device until the test
// ends, and gives a client for it.
func StartEtcd(t testing.TB) *clientv3.Client {
	t.Helper()
	var problems []error
	for range 3 { // another process may take a free port before etcd does
		engine, err := runEtcd(t)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		cli, err := client.Dial(client.Config{Endpoints: engine.Endpoints()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := cli.Close(); err != nil {
				t.Error(err)
			}
		})
		return cli
	}
	t.Fatal(errors.Join(problems...))
	return nil
}

func runEtcd(t testing.TB) (*etcd.Engine, error) {
	t.Helper()
	ports := FreePorts(t, 2)
	engine, err := etcd.New(etcd.Config{
		Name:         "test",
		DataDir:      t.TempDir(),
		ListenClient: ports[:1],
		ListenPeer:   ports[1:],
		NoSync:       true,
		Timings:      etcd.Timings{Tick: 10 * time.Millisecond, Election: 100 * time.Millisecond}, // or it waits up to 1 s
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	select {
	case err := <-ended:
		cancel()
		return nil, fmt.Errorf("engine ended before it was ready: %w", err)
	case <-engine.Ready():
	}
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("stop etcd: %v", err)
		}
	})
	return engine, nil
}

// FreePorts finds ports of 127.0.0.1 that nothing listens on; another process
// may take one before the caller does.
func FreePorts(t testing.TB, n int) []netip.AddrPort {
	t.Helper()
	var ports []netip.AddrPort
	for range n {
		l := listenAnywhere(t)
		defer func() { // only once all are found, so that they differ
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}()
		ports = append(ports, netip.MustParseAddrPort(l.Addr().String()))
	}
	return ports
}

// listenAnywhere takes a port that kernels give to no connection that somebody opens:
// one of those could have it before the test does.
func listenAnywhere(t testing.TB) net.Listener {
	t.Helper()
	const first, count, tries = 10000, 20000, 100
	for range tries - 1 {
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(count))); err == nil {
			return l
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}
