package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/zap"
	"sigs.k8s.io/yaml"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/enginetest"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/controller"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"meshvpc": scriptMain}) }

// scriptMain is main, but that servers take hosts to be where they say if ANSWERED
// is set: agents of scripts have no network.
func scriptMain() {
	p := newProgram(os.Stdin, os.Stdout, os.Stderr)
	if os.Getenv("ANSWERED") != "" {
		p.ask = func(context.Context, string, netip.Addr) error { return nil }
	}
	os.Exit(p.main(os.Args))
}

// TestScripts runs the command against a real store and a real controller; the
// hosts are agents that report what a host would. Scripts run one after the
// other on one store, which is emptied in between.
func TestScripts(t *testing.T) {
	s := startStore(t)
	kv, tools := s.kv, toolPath(t)
	testscript.RunT(inTurn{t}, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		WorkdirRoot:   t.TempDir(), // else one is left behind each time
		Setup: func(env *testscript.Env) error {
			if _, err := kv.Txn(env.T().(inTurn).Context(), mvcc.TxnRequest{Then: []mvcc.Op{{Kind: mvcc.OpDelete, Key: cluster.Root, End: mvcc.PrefixEnd(cluster.Root)}}}); err != nil {
				return err
			}
			if err := s.admit(env.T().(inTurn).Context()); err != nil {
				return err
			}
			for name, dir := range map[string]string{"MESHVPC_CONFIG_DIR": "etc", "MESHVPC_STATE_DIR": "var", "MESHVPC_RUN_DIR": "run"} {
				env.Setenv(name, filepath.Join(env.WorkDir, dir))
			}
			env.Setenv("PATH", tools+string(filepath.ListSeparator)+env.Getenv("PATH"))
			env.Setenv("GORACE", "atexit_sleep_ms=10") // else each command waits a second, with -race
			env.Setenv("ENDPOINT", s.endpoint)
			env.Setenv("JOIN", mustJoinService(t, s.endpoint))
			env.Setenv("NOBODY", freeAddress(t))
			free := freePair(t)
			env.Setenv("FREE", free)
			env.Setenv("FREEJOIN", mustJoinService(t, free))
			env.Setenv("FREE2", freeAddress(t))
			w := newWorld(env.T().(inTurn), s)
			env.Values[worldKey{}] = w
			env.Defer(w.stop)
			admin := newClientConfig([]string{s.endpoint}, s.admin)
			return errors.Join(writeConfig(filepath.Join(env.WorkDir, "etc", "client.yaml"), admin), // until a join writes a viewer's there
				writeConfig(filepath.Join(env.WorkDir, "admin.yaml"), admin))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"cluster": cmdCluster, "nodes": cmdNodes, "agents": cmdAgents, "dead": cmdDead, "keeps": cmdKeeps, "ports": cmdPorts,
			"put": cmdPut, "del": cmdDel, "putat": cmdPutAt, "remember": cmdRemember, "unchanged": cmdUnchanged, "commits": cmdCommits,
			"exits": cmdExits, "mode": cmdMode, "token": cmdToken, "trust": cmdTrust, "oldclient": cmdOldClient, "within": cmdWithin, "await": cmdAwait,
			"external": cmdExternal, "hostagent": cmdHostAgent, "etcdenv": cmdEtcdEnv,
			"expired": cmdExpired, "manager": cmdManager, "told": cmdTold,
		},
	})
}

// inTurn runs scripts one after the other.
type inTurn struct{ *testing.T }

func (t inTurn) Parallel() {}
func (t inTurn) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(inTurn{t}) })
}
func (t inTurn) Verbose() bool { return testing.Verbose() }

// storeOfScripts is an engine and a join service for all scripts.
type storeOfScripts struct {
	kv       mvcc.KV
	endpoint string // host:port
	ca       *membership.CA
	admin    membership.Credential
	tls      pemFiles // the server's
}

func startStore(t testing.TB) *storeOfScripts {
	t.Helper()
	s := &storeOfScripts{endpoint: freePair(t)}
	address := netip.MustParseAddrPort(s.endpoint)
	var err error
	if s.ca, err = membership.NewCA("test", time.Now()); err != nil {
		t.Fatal(err)
	}
	s.admin = s.credential(t, cluster.SubjectUser, firstAdmin)
	server := s.credential(t, cluster.SubjectServer, "jhoster1")
	dir := t.TempDir()
	files := etcd.TLS{CA: filepath.Join(dir, "ca"), Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), Peer: membership.PeerName}
	for path, text := range map[string][]byte{files.CA: server.CA, files.Cert: server.Cert, files.Key: server.Key} {
		if err := writeFile(path, text); err != nil {
			t.Fatal(err)
		}
	}
	key, err := server.KeyHash()
	if err != nil {
		t.Fatal(err)
	}
	s.tls = pemFiles{CA: files.CA, Cert: files.Cert, Key: files.Key}
	guard := membership.NewAuthorizer(membership.AuthorizerConfig{Self: cluster.Caller{Subject: cluster.Subject{Kind: cluster.SubjectServer, Name: "jhoster1"}, Key: key}})
	engine, err := etcd.New(etcd.Config{Name: "jhoster1", DataDir: t.TempDir(), ListenClient: []netip.AddrPort{address},
		ListenPeer: []netip.AddrPort{netip.MustParseAddrPort(freeAddress(t))}, NoSync: true, TLS: &files, Unary: guard.Unary, Stream: guard.Stream, MayObserve: guard.MayObserve})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 3)
	go func() { ended <- engine.Run(ctx) }()
	select {
	case <-engine.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	cli, err := client.Dial(client.Config{Endpoints: engine.Endpoints(), TLS: membership.Dialer(server.Load)})
	if err != nil {
		t.Fatal(err)
	}
	s.kv = client.New(cli)
	joins, err := membership.NewService(membership.ServiceConfig{Listen: []netip.AddrPort{netip.MustParseAddrPort(mustJoinService(t, s.endpoint))},
		Store: store.New(s.kv, cluster.Identity{Role: cluster.Operator}), Credential: server.Load,
		CA: func() (*membership.CA, error) { return s.ca, nil }})
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- joins.Run(ctx) }()
	go func() { ended <- guard.Run(ctx, store.New(s.kv, cluster.Identity{Role: cluster.Controller})) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, <-ended, <-ended, cli.Close()); err != nil {
			t.Error(err)
		}
	})
	if err := s.admit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// admit makes the scripts' admin one.
func (s *storeOfScripts) admit(ctx context.Context) error {
	key, err := s.admin.KeyHash()
	if err != nil {
		return err
	}
	var c store.Change
	store.Create(&c, cluster.KeyUser(firstAdmin), &cluster.User{Role: cluster.UserAdmin, Key: key, Created: cluster.At(time.Now())})
	_, err = store.New(s.kv, cluster.Identity{Role: cluster.Operator}).Commit(ctx, c)
	return err
}

func (s *storeOfScripts) credential(t testing.TB, kind cluster.SubjectKind, name string) membership.Credential {
	t.Helper()
	c, err := s.ca.Credential(cluster.Subject{Kind: kind, Name: name}, []netip.Addr{netip.MustParseAddr("127.0.0.1")}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustJoinService(t testing.TB, endpoint string) string {
	t.Helper()
	a, err := joinService(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// freePair is a free address for a store, with the port below it free for its
// join service.
func freePair(t testing.TB) string {
	t.Helper()
	for {
		a := freeAddress(t)
		l, err := net.Listen("tcp", mustJoinService(t, a))
		if err == nil {
			l.Close()
			return a
		}
	}
}

func freeAddress(t testing.TB) string {
	t.Helper()
	return enginetest.FreePorts(t, 1)[0].String()
}

// world is what a script's cluster is made of.
type world struct {
	*storeOfScripts
	tb        testing.TB
	ctx       context.Context
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	agents    map[string]*fakeAgent
	nodes     int
	memory    map[string]string
	revision  int64
	operator  *store.Store
	manager   *serviceManager
	external  *enginetest.External
	externals []*enginetest.External // its members
}

type worldKey struct{}

func newWorld(tb testing.TB, s *storeOfScripts) *world {
	ctx, cancel := context.WithCancel(context.Background())
	return &world{storeOfScripts: s, tb: tb, ctx: ctx, cancel: cancel, agents: map[string]*fakeAgent{},
		operator: store.New(s.kv, cluster.Identity{Role: cluster.Operator})}
}

func (w *world) stop() {
	w.cancel()
	w.wg.Wait()
}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

// cluster: the first records, and a controller unless "-nocontroller".
func cmdCluster(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	ts.Check(firstRecords(w.ctx, w.kv, serverConfig{Name: "jhoster1", Datacenter: "skynet", Advertise: []string{ts.Getenv("ENDPOINT")},
		ListenPeers: []string{"127.0.0.1:2380"}, TLS: w.tls,
		Bootstrap: &bootstrap{Cluster: "test", ClusterID: "c1", NodeID: "id-jhoster1", UnderlayPort: 4789, VNIs: cluster.DefaultVNIRange}}, time.Now(), zap.NewNop()))
	if len(args) > 0 {
		return
	}
	ctl, err := controller.New(controller.Config{Store: store.New(w.kv, cluster.Identity{Role: cluster.Controller}), Name: "jhoster1", Log: zap.NewNop(),
		Ask: func(context.Context, controller.Question) error { return nil }})
	ts.Check(err)
	w.wg.Go(func() { _ = ctl.Run(w.ctx) })
}

// nodes NAME:DC...: nodes that have joined.
func cmdNodes(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	var c store.Change
	for _, a := range args {
		name, dc, _ := strings.Cut(a, ":")
		store.Create(&c, cluster.KeyNode(name), &cluster.Node{ID: "id-" + name, Datacenter: dc, State: cluster.NodeActive, Agent: true, Joined: cluster.At(time.Unix(1800000000, 0))})
	}
	_, err := w.operator.Commit(w.ctx, c)
	ts.Check(err)
}

// agents [mtu=N] [can=A,B] [ipv4] NAME...: their agents run.
func cmdAgents(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	mtu := 1500
	var can []string
	network := "2001:db8:%d::2"
	for _, name := range args {
		if list, ok := strings.CutPrefix(name, "can="); ok {
			can = strings.Split(list, ",")
			continue
		}
		if name == "ipv4" {
			network = "192.0.2.%d"
			continue
		}
		if n, err := fmt.Sscanf(name, "mtu=%d", &mtu); n == 1 && err == nil {
			continue
		}
		w.nodes++
		a := &fakeAgent{name: name, id: "id-" + name, store: store.New(w.kv, cluster.Identity{Role: cluster.Agent, Name: name}), wake: make(chan struct{}, 1), stopped: make(chan struct{})}
		ctx, cancel := context.WithCancel(w.ctx)
		a.cancel = cancel
		ts.Check(a.start(ctx, netip.MustParseAddr(fmt.Sprintf(network, w.nodes)), mtu, can))
		w.agents[name] = a
		w.wg.Go(func() { a.run(ctx) })
	}
}

// keeps NAME...: they go on saying that they are alive, as who owns what can move does.
func cmdKeeps(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	for _, name := range args {
		a := w.agents[name]
		keep := func() error {
			it, err := store.Get[*cluster.Live](w.ctx, a.store, cluster.KeyLive(name))
			if err == nil {
				it.Value.Counter++
				var c store.Change
				store.Put(&c, it, it.Value)
				_, err = a.store.Commit(w.ctx, c)
			}
			return err
		}
		ts.Check(keep()) // at once: what follows may have it own something
		w.wg.Go(func() {
			again := time.NewTicker(time.Second)
			defer again.Stop()
			for {
				select {
				case <-w.ctx.Done():
					return
				case <-again.C:
				}
				if err := keep(); err != nil && w.ctx.Err() == nil {
					w.tb.Errorf("%s cannot say that it is alive: %v", name, err)
					return
				}
			}
		})
	}
}

// dead NAME...: their agents are gone, and their leases.
func cmdDead(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	for _, name := range args {
		w.agents[name].cancel()
		<-w.agents[name].stopped
		var c store.Change
		c.Remove(cluster.KeyLive(name), 0)
		_, err := w.agents[name].store.Commit(w.ctx, c)
		ts.Check(err)
	}
}

// ports NAME PORT...: workloads on every bridge of a host.
func cmdPorts(ts *testscript.TestScript, _ bool, args []string) {
	a := worldOf(ts).agents[args[0]]
	a.mu.Lock()
	a.ports = args[1:]
	a.mu.Unlock()
	a.wake <- struct{}{}
}

// put KEY VALUE: a raw record.
func cmdPut(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	_, err := w.kv.Txn(w.ctx, mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Put(cluster.Root+args[0], []byte(strings.ReplaceAll(args[1], `\e`, "\x1b")))}})
	ts.Check(err)
}

// del KEY: somebody deletes a record.
func cmdDel(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	_, err := w.kv.Txn(w.ctx, mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Delete(cluster.Root + args[0])}})
	ts.Check(err)
}

// token [USES]: $TOKEN lets hosts join.
func cmdToken(ts *testscript.TestScript, _ bool, args []string) {
	uses := 1
	if len(args) > 0 {
		_, err := fmt.Sscan(args[0], &uses)
		ts.Check(err)
	}
	w := worldOf(ts)
	tok := membership.NewToken(cluster.TokenNode, w.ca.Pin())
	var c store.Change
	store.Create(&c, cluster.KeyToken(tok.RecordID()), tok.Record(uses, time.Now(), time.Hour, ""))
	_, err := w.operator.Commit(w.ctx, c)
	ts.Check(err)
	ts.Setenv("TOKEN", tok.String())
}

// trust NAME: the files in tls/ that a server of that name needs, and
// client.yaml, an admin's for the store at $FREE, whose key is $ADMINKEY.
func cmdTrust(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	server, err := w.ca.Credential(cluster.Subject{Kind: cluster.SubjectServer, Name: args[0]}, nil, time.Now())
	ts.Check(err)
	key, err := w.ca.KeyPEM()
	ts.Check(err)
	for name, text := range map[string][]byte{"ca.crt": server.CA, "ca.key": key, "server.crt": server.Cert, "server.key": server.Key} {
		ts.Check(writeFile(ts.MkAbs(filepath.Join("tls", name)), text))
	}
	hash, err := w.admin.KeyHash()
	ts.Check(err)
	ts.Setenv("ADMINKEY", hash)
	ts.Check(writeConfig(ts.MkAbs("client.yaml"), newClientConfig([]string{ts.Getenv("FREE")}, w.admin)))
}

// oldclient FILE: an admin's client file, with a certificate of 300 days ago.
func cmdOldClient(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	old := w.admin
	cert, err := w.ca.Reissue(old, nil, time.Now().Add(-300*24*time.Hour))
	ts.Check(err)
	old.Cert = cert
	ts.Check(writeConfig(ts.MkAbs(args[0]), newClientConfig([]string{w.endpoint}, old)))
}

// putat ADDRESS KEY VALUE: a raw record in the store there.
func cmdPutAt(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	cli, err := client.Dial(client.Config{Endpoints: []string{"https://" + args[0]}, TLS: membership.Dialer(w.admin.Load)})
	ts.Check(err)
	defer cli.Close()
	ctx, cancel := context.WithTimeout(worldOf(ts).ctx, 10*time.Second)
	defer cancel()
	_, err = client.New(cli).Txn(ctx, mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Put(cluster.Root+args[1], []byte(args[2]))}})
	ts.Check(err)
}

// records is what operators and the controller wrote.
func (w *world) records() (map[string]string, error) {
	all := map[string]string{}
	for _, p := range []string{cluster.KeyConfig, cluster.PrefixNodes, cluster.PrefixVPCs, cluster.PrefixAlloc, cluster.PrefixHosts, cluster.PrefixSrvs} {
		keys, _, err := w.operator.Read(w.ctx, p)
		if err != nil {
			return nil, err
		}
		for _, kv := range keys {
			all[kv.Key] = string(kv.Value)
		}
	}
	return all, nil
}

// remember and unchanged: no record of operators or the controller changed in
// between.
func cmdRemember(ts *testscript.TestScript, _ bool, _ []string) {
	w := worldOf(ts)
	all, err := w.records()
	ts.Check(err)
	w.memory = all
}

func cmdUnchanged(ts *testscript.TestScript, _ bool, _ []string) {
	w := worldOf(ts)
	all, err := w.records()
	ts.Check(err)
	if d := cmp.Diff(w.memory, all); d != "" {
		ts.Fatalf("records changed (-before, +after):\n%s", d)
	}
}

// commits N: the store's revision grew by N since the last commits; "-" only takes
// it down. Nobody may write but the command under test.
func cmdCommits(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	_, header, err := w.operator.Read(w.ctx, cluster.KeyConfig)
	ts.Check(err)
	if grew := fmt.Sprint(header.Revision - w.revision); args[0] != "-" && grew != args[0] {
		ts.Fatalf("%s commits, want %s", grew, args[0])
	}
	w.revision = header.Revision
}

// manager: a service manager listens for the services that the script starts,
// with a watchdog.
func cmdManager(ts *testscript.TestScript, _ bool, _ []string) {
	w := worldOf(ts)
	w.manager = startServiceManager(w.tb, shortSocket(w.tb))
	ts.Setenv("NOTIFY_SOCKET", w.manager.conn.LocalAddr().String())
	ts.Setenv("WATCHDOG_USEC", "200000")
}

// told LINE: a service told the service manager that.
func cmdTold(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(worldOf(ts).manager.await(args[0]))
}

// exits CODE COMMAND...: the command ends with that code.
func cmdExits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// mode FILE OCTAL: the file's permissions.
func cmdMode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("mode of %s is %s, want %s", args[0], got, args[1])
	}
}

// within DURATION COMMAND...: the command, which may fail, ends in time.
func cmdWithin(ts *testscript.TestScript, neg bool, args []string) {
	bound, err := time.ParseDuration(args[0])
	ts.Check(err)
	start := time.Now()
	err = ts.Exec(args[1], args[2:]...)
	if took := time.Since(start); took > bound {
		ts.Fatalf("it took %s, want at most %s", took, bound)
	}
	if neg == (err == nil) {
		ts.Fatalf("it ended with %v", err)
	}
}

// await KEY [TEXT]: the record exists, and holds TEXT.
func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	w := worldOf(ts)
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	s := &session{store: w.operator}
	key := cluster.Root + args[0]
	err := s.follow(ctx, func(_ *store.Mirror, v *store.View) error {
		it, _ := store.At[cluster.Record](v, key)
		if v.Synced(key) && v.Has(key) && !neg && (len(args) == 1 || strings.Contains(string(it.Raw()), args[1])) || v.Synced(key) && !v.Has(key) && neg {
			return errLook
		}
		return nil
	}, key)
	if err != nil {
		ts.Fatalf("await %v: %v", args, err)
	}
}

// fakeAgent reports what a host would: it has no network, and every link is up.
type fakeAgent struct {
	name, id string
	store    *store.Store
	cancel   context.CancelFunc
	wake     chan struct{}
	stopped  chan struct{}

	mu    sync.Mutex
	ports []string
}

func (a *fakeAgent) start(ctx context.Context, underlay netip.Addr, mtu int, can []string) error {
	var c store.Change
	store.Set(&c, cluster.KeyLive(a.name), &cluster.Live{NodeID: a.id, BootID: "boot", Incarnation: "one"}, nil, 0)
	s := &cluster.NodeStatus{NodeID: a.id, OS: "test", Version: "0.1.0", Capabilities: can}
	u := &cluster.UnderlayAddress{Bind: underlay, Advertise: underlay, Device: "eth0", MTU: mtu}
	if underlay.Is4() {
		s.Underlay.IPv4 = u
	} else {
		s.Underlay.IPv6 = u
	}
	store.Set(&c, cluster.KeyNodeStatus(a.name), s, nil, 0)
	_, err := a.store.Commit(ctx, c)
	return err
}

func (a *fakeAgent) run(ctx context.Context) {
	defer close(a.stopped)
	m := store.NewMirror(store.MirrorConfig{Store: a.store})
	m.Follow(cluster.PrefixHost(a.name))
	var wg sync.WaitGroup
	wg.Go(func() { _ = m.Run(ctx) })
	defer wg.Wait()
	written := map[string]string{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.Changed():
		case <-a.wake:
		}
		v := m.Pull()
		follow := []string{cluster.PrefixHost(a.name)}
		for it := range store.Below[*cluster.HostVPC](v, follow[0]) {
			follow = append(follow, cluster.PrefixVPC(last(it.Key)))
		}
		m.Follow(follow...)
		for key, r := range a.reports(v) {
			b, err := yaml.Marshal(r)
			if err != nil || written[key] == string(b) {
				continue
			}
			var c store.Change
			store.Set(&c, key, r, nil, 0)
			switch _, err := a.store.Commit(ctx, c); {
			case err == nil:
				written[key] = string(b)
			case errors.Is(err, mvcc.ErrUnavailable) && ctx.Err() == nil: // after as long as a call may take
				select {
				case a.wake <- struct{}{}:
				default:
				}
			}
		}
	}
}

// finds answers as hosts do of which jhoster1 has learned the MAC …:99 at a port, and
// the others by its tunnel.
func (a *fakeAgent) finds(q *cluster.FindRequest, vpc string) *cluster.FindResult {
	r := &cluster.FindResult{ID: q.ID}
	switch learned := q.MAC[5] == 0x99 && vpc == "vpc1"; {
	case learned && a.name == "jhoster1":
		r.Device = "veth12"
	case learned:
		r.Peer = "jhoster1"
	}
	return r
}

// reports are the status records that the records in v call for.
func (a *fakeAgent) reports(v *store.View) map[string]cluster.Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string]cluster.Record{}
	for it := range store.Below[*cluster.HostVPC](v, cluster.PrefixHost(a.name)) {
		vpc := last(it.Key)
		key := cluster.KeyVPCStatus(a.name, vpc)
		if it.Value.State == cluster.AssignedLeaving {
			out[key] = &cluster.VPCStatus{NodeID: a.id, State: cluster.HostLeft}
			continue
		}
		n, ok := store.At[*cluster.VPCNet](v, cluster.KeyVPCNet(vpc))
		mine, member := store.At[*cluster.Member](v, cluster.KeyMember(vpc, a.name))
		if !ok || !member || n.Value.Phase != cluster.PhaseActive {
			continue
		}
		status := &cluster.VPCStatus{NodeID: a.id, State: cluster.HostMember, Ready: true, VNI: n.Value.VNI, MTU: n.Value.MTU, VTEP: mine.Value.VTEP, Ports: a.ports, Learning: n.Value.Learning, Gateway: n.Value.Gateway}
		pings := &cluster.PingResult{}
		for peer := range store.Below[*cluster.Member](v, cluster.PrefixMembers(vpc)) {
			if to := last(peer.Key); to != a.name {
				l := cluster.Link{Peer: to, State: cluster.LinkUp, RTT: 0.5}
				own, ok := store.At[*cluster.HostLink](v, cluster.KeyHostLink(a.name, vpc, to))
				switch {
				case ok:
					l.VNI, l.Use = own.Value.VNI, own.Value.Use
				case mine.Value.Transport == cluster.P2P || peer.Value.Transport == cluster.P2P:
					l.State, l.RTT = cluster.LinkUnknown, 0
				}
				status.Links = append(status.Links, l)
				pings.Peers = append(pings.Peers, cluster.PeerPing{To: to, Sent: 3, Received: 3, RTT: 0.25})
			}
		}
		out[key] = status
		if p, ok := store.At[*cluster.PingRequest](v, cluster.KeyVPCPing(vpc)); ok {
			pings.ID = p.Value.ID
			out[cluster.KeyPingResult(a.name, vpc)] = pings
		}
		if f, ok := store.At[*cluster.FindRequest](v, cluster.KeyVPCFind(vpc)); ok {
			out[cluster.KeyFindResult(a.name, vpc)] = a.finds(f.Value, vpc)
		}
	}
	return out
}
