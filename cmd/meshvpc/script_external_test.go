package main

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/enginetest"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// external start [MEMBERS] | trust FILE | restart | loosen | issue NAME: a stock etcd
// of the operator's, each member in a process of its own. start sets $ETCD, its URLs,
// and $ETCDCA, $ETCDCERT and $ETCDKEY, the files of its root; trust has it take the
// certificates of a CA; issue makes a certificate of the operator's, NAME.crt and
// NAME.key. external kill | begin | freeze | thaw I: what befalls a member, from 0.
func cmdExternal(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	switch args[0] {
	case "start":
		if len(args) > 1 {
			w.externals = enginetest.StartMembers(w.tb, mustIndex(ts, args[1]))
		} else {
			w.externals = []*enginetest.External{enginetest.StartExternal(w.tb)}
		}
		w.external = w.externals[0]
		var urls []string
		for _, e := range w.externals {
			urls = append(urls, e.Endpoint)
		}
		for name, value := range map[string]string{"ETCD": strings.Join(urls, ","), "ETCDCA": w.external.CA, "ETCDCERT": w.external.Cert, "ETCDKEY": w.external.Key} {
			ts.Setenv(name, value)
		}
	case "trust":
		w.external.Trust(w.tb, []byte(ts.ReadFile(args[1])))
		for _, e := range w.externals[1:] { // the file is one
			e.Restart(w.tb)
		}
	case "kill":
		w.externals[mustIndex(ts, args[1])].Kill(w.tb)
	case "begin":
		w.externals[mustIndex(ts, args[1])].Start(w.tb)
	case "freeze":
		w.externals[mustIndex(ts, args[1])].Signal(w.tb, syscall.SIGSTOP)
	case "thaw":
		w.externals[mustIndex(ts, args[1])].Signal(w.tb, syscall.SIGCONT)
	case "restart":
		w.external.Restart(w.tb)
	case "loosen":
		w.external.Loosen(w.tb)
	case "issue":
		cert, key := w.external.Credential(w.tb, args[1])
		ts.Check(writeFile(ts.MkAbs(args[1]+".crt"), cert))
		ts.Check(writeFile(ts.MkAbs(args[1]+".key"), key))
	default:
		ts.Fatalf("unknown: external %s", args[0])
	}
}

func mustIndex(ts *testscript.TestScript, s string) int {
	i, err := strconv.Atoi(s)
	ts.Check(err)
	return i
}

// hostagent FILE ADDRESS: the agent of a host runs, by the credential in its
// agent.yaml; it has that underlay address.
func cmdHostAgent(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	var cfg agentConfig
	ts.Check(readConfig(ts.MkAbs(args[0]), &cfg))
	urls, err := storeURLs(cfg.Endpoints, true)
	ts.Check(err)
	dial := client.Config{Endpoints: urls}
	dial.TLS, err = membership.StoreDialer(cfg.TLS.load)
	ts.Check(err)
	cli, err := client.Dial(dial)
	ts.Check(err)
	a := &fakeAgent{name: cfg.Node, id: cfg.ID, store: store.New(client.New(cli), cluster.Identity{Role: cluster.Agent, Name: cfg.Node}),
		wake: make(chan struct{}, 1), stopped: make(chan struct{})}
	ctx, cancel := context.WithCancel(w.ctx)
	a.cancel = cancel
	ts.Check(a.start(ctx, netip.MustParseAddr(args[1]), 1500, nil))
	w.agents[cfg.Node] = a
	w.wg.Go(func() { a.run(ctx); _ = cli.Close() })
}

// etcdenv FLAG...: the environment for etcdctl, of "meshvpc cluster env FLAG...".
func cmdEtcdEnv(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("meshvpc", append([]string{"cluster", "env", "-o", "json"}, args...)...))
	var env map[string]string
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &env))
	for name, value := range env {
		ts.Setenv(name, value)
	}
}

// toolPath is a directory with etcd's own tools.
func toolPath(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"etcdctl", "etcdutl"} {
		if err := os.Symlink(enginetest.Tool(t, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestBatches: all is written, within etcd's bounds, and config last and alone.
func TestBatches(t *testing.T) {
	values := map[string][]byte{cluster.KeyConfig: []byte("c")}
	for i := range 400 {
		values[cluster.KeyNode("n"+strings.Repeat("x", i%60)+string(rune('a'+i%26)))] = []byte(strings.Repeat("v", i*40))
	}
	values[cluster.KeyNode("large")] = []byte(strings.Repeat("v", maxBatch+1))
	seen := 0
	list := batches(values)
	for i, ops := range list {
		size := 0
		for _, op := range ops {
			size += len(op.Value)
			seen++
			if op.Key == cluster.KeyConfig && (i != len(list)-1 || len(ops) != 1) {
				t.Errorf("config is in batch %d of %d, with %d others", i+1, len(list), len(ops)-1)
			}
		}
		if len(ops) == 0 || len(ops) > mvcc.MaxTxnOps || size > maxBatch && len(ops) > 1 {
			t.Errorf("a batch of %d, %d bytes", len(ops), size)
		}
	}
	if seen != len(values) {
		t.Errorf("%d written of %d", seen, len(values))
	}
	if got := batches(nil); len(got) != 0 {
		t.Errorf("nothing makes %v", got)
	}
}
