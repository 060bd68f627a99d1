package external_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/enginetest"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
	"github.com/meshvpc/meshvpc/cluster/engine/external"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// as is a client with a certificate of the etcd's client CA.
func as(t *testing.T, e *enginetest.External, name string) *clientv3.Client {
	t.Helper()
	cert, key := e.Credential(t, name)
	dir := t.TempDir()
	for file, text := range map[string][]byte{"cert": cert, "key": key} {
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cli, err := client.Dial(client.Config{Endpoints: []string{e.Endpoint}, TLS: e.TLS(t, filepath.Join(dir, "cert"), filepath.Join(dir, "key"))})
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

func put(t *testing.T, cli *clientv3.Client, keys ...string) {
	t.Helper()
	for _, k := range keys {
		if _, err := cli.Put(within(t), k, "{}"); err != nil {
			t.Fatalf("put %s: %v", k, err)
		}
	}
}

func enable(t *testing.T, root *clientv3.Client) {
	t.Helper()
	s, err := external.Look(within(t), root, cluster.Root)
	if err != nil {
		t.Fatal(err)
	}
	if err := external.Enable(within(t), root, s, "root"); err != nil {
		t.Fatal(err)
	}
}

// accounts of two nodes and of people.
func accounts(n2 cluster.NodeState) cluster.Accounts {
	return cluster.AccountsOf(map[string]*cluster.Node{"n1": {State: cluster.NodeActive}, "n2": {State: n2}},
		map[string]*cluster.User{"ope": {Role: cluster.UserOperator}, "vie": {Role: cluster.UserViewer}, "adm": {Role: cluster.UserAdmin}}, []string{"s1"})
}

// TestRights makes accounts in a real etcd and tries other keys than one's own.
func TestRights(t *testing.T) {
	e := enginetest.StartExternal(t)
	root := e.Root(t)
	keeper := external.NewAccounts(root)
	if _, err := keeper.Set(within(t), accounts(cluster.NodeActive)); err != nil {
		t.Fatal(err)
	}
	enable(t, root)
	all := []string{"config", "nodes/n1", "nodes/n2", "live/n1", "live/n2", "hosts/n1/vpcs/blue", "hosts/n2/vpcs/blue", "vpcs/blue/spec", "vpcs/blue/net",
		"status/n1/node", "status/n2/node", "requests/n1/blue/web1", "status/n1/endpoints/blue/web1", "requests/n2/blue/web1", "fences/n1", "servers/s1", "tokens/t", "users/vie", "alloc/vni/00010000", "leader/controller"}
	reads := map[string]string{
		"node:n1":   "config nodes/n1 nodes/n2 live/n1 hosts/n1/vpcs/blue vpcs/blue/spec vpcs/blue/net status/n1/node requests/n1/blue/web1 status/n1/endpoints/blue/web1 fences/n1 servers/s1",
		"user:vie":  "all but tokens",
		"user:ope":  "all but tokens",
		"user:adm":  "all",
		"server:s1": "all",
		"node:n9":   "", "user:root": "", "somebody": "",
	}
	writes := map[string]string{
		"node:n1":  "live/n1 status/n1/node requests/n1/blue/web1 status/n1/endpoints/blue/web1",
		"user:ope": "nodes/n1 nodes/n2 vpcs/blue/spec vpcs/blue/net",
		"user:adm": "all", "server:s1": "all",
	}
	put(t, root, rooted(all...)...)
	put(t, root, "/other")
	for who := range reads {
		cli := as(t, e, who)
		var may, mayWrite []string
		for _, k := range all {
			_, err := cli.Get(within(t), cluster.Root+k)
			_, guarded := cli.Txn(within(t)).If(clientv3.Compare(clientv3.Version(cluster.Root+k), ">", 0)).Commit()
			if (err == nil) != (guarded == nil) || err != nil && !errors.Is(err, rpctypes.ErrPermissionDenied) {
				t.Errorf("%s: %s: read %v, compare %v", who, k, err, guarded)
			}
			if err == nil {
				may = append(may, k)
			}
			if _, err = cli.Put(within(t), cluster.Root+k, "{}"); err == nil {
				mayWrite = append(mayWrite, k)
			}
		}
		if got, want := words(may, all), reads[who]; got != want {
			t.Errorf("%s reads %q, want %q", who, got, want)
		}
		if got, want := words(mayWrite, all), writes[who]; got != want {
			t.Errorf("%s writes %q, want %q", who, got, want)
		}
		for _, k := range []string{"/other", "a"} {
			if _, err := cli.Get(within(t), k); !errors.Is(err, rpctypes.ErrPermissionDenied) {
				t.Errorf("%s reads the key %s of others: %v", who, k, err)
			}
		}
		if _, err := cli.UserAdd(within(t), "mallory", "x"); !errors.Is(err, rpctypes.ErrPermissionDenied) && !errors.Is(err, rpctypes.ErrUserNotFound) {
			t.Errorf("%s adds a user: %v", who, err)
		}
		if _, err := cli.Get(within(t), cluster.Root, clientv3.WithPrefix()); (err == nil) != (reads[who] == "all") {
			t.Errorf("%s reads everything: %v", who, err)
		}
	}
}

func rooted(keys ...string) (list []string) {
	for _, k := range keys {
		list = append(list, cluster.Root+k)
	}
	return list
}

func words(some, all []string) string {
	switch {
	case len(some) == len(all):
		return "all"
	case len(some) == len(all)-1 && !strings.Contains(strings.Join(some, " "), "tokens"):
		return "all but tokens"
	}
	return strings.Join(some, " ")
}

// TestRemovedNode keeps its own records and loses those of the others at once, and
// its open watch goes on until its connection is cut: that is etcd's way.
func TestRemovedNode(t *testing.T) {
	e := enginetest.StartExternal(t)
	root := e.Root(t)
	keeper := external.NewAccounts(root)
	if _, err := keeper.Set(within(t), accounts(cluster.NodeActive)); err != nil {
		t.Fatal(err)
	}
	enable(t, root)
	put(t, root, rooted("config", "nodes/n1", "nodes/n2", "vpcs/blue/net", "status/n2/node")...)
	n2 := as(t, e, "node:n2")
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	watch := n2.Watch(ctx, cluster.PrefixVPCs, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if r := <-watch; !r.Created {
		t.Fatalf("no watch: %+v", r)
	}
	writes, err := keeper.Set(within(t), accounts(cluster.NodeLeft))
	if err != nil || writes != 1 {
		t.Errorf("the removal took %d writes, %v; want one", writes, err)
	}
	for key, want := range map[string]bool{"config": true, "nodes/n2": true, "status/n2/node": true, "nodes/n1": false, "vpcs/blue/net": false} {
		if _, err := n2.Get(within(t), cluster.Root+key); (err == nil) != want {
			t.Errorf("removed, it reads %s: %v, want %v", key, err, want)
		}
	}
	put(t, root, rooted("vpcs/blue/net")...)
	if r := <-watch; len(r.Events) != 1 {
		t.Errorf("the open watch was told %+v; etcd has become stricter: say so in the README", r)
	}
	e.Restart(t)
	put(t, root, rooted("vpcs/blue/net")...)
	for r := range watch {
		if len(r.Events) > 0 {
			t.Errorf("told after its connection was cut: %+v", r)
		}
		if r.Err() != nil {
			break
		}
	}
}

// TestAccountsSet: what is there stays, what is not wanted is taken, others' users
// and roles are not touched, and a second time there is nothing to do.
func TestAccountsSet(t *testing.T) {
	e := enginetest.StartExternal(t)
	root := e.Root(t)
	for _, do := range []func(context.Context) error{
		func(ctx context.Context) error { _, err := root.RoleAdd(ctx, "theirs"); return err },
		func(ctx context.Context) error { _, err := root.UserAdd(ctx, "node:n1", "x"); return err }, // of ours, and theirs in part
		func(ctx context.Context) error { _, err := root.UserGrantRole(ctx, "node:n1", "theirs"); return err },
		func(ctx context.Context) error { _, err := root.UserAdd(ctx, "node-n9", "x"); return err },
		func(ctx context.Context) error { _, err := root.RoleAdd(ctx, cluster.NodeRole("n9")); return err },
		func(ctx context.Context) error { _, err := root.RoleAdd(ctx, cluster.RoleViewer); return err },
		func(ctx context.Context) error { // of an older version
			_, err := root.RoleGrantPermission(ctx, cluster.RoleViewer, "/", "", clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
	} {
		if err := do(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	want := accounts(cluster.NodeActive)
	first, err := external.NewAccounts(root).Set(within(t), want)
	if err != nil || first == 0 {
		t.Fatalf("%d writes, %v", first, err)
	}
	keeper := external.NewAccounts(root)
	if n, err := keeper.Set(within(t), want); err != nil || n != 0 {
		t.Errorf("a second time: %d writes, %v; want none", n, err)
	}
	delete(want.Users, "user:vie") // revoked
	if n, err := keeper.Set(within(t), want); err != nil || n != 1 {
		t.Errorf("revoked: %d writes, %v; want one", n, err)
	}
	want.Users["user:vie"] = []string{cluster.RoleViewer}
	if n, err := keeper.Set(within(t), want); err != nil || n != 1 {
		t.Errorf("given again: %d writes, %v; want one", n, err)
	}
	roles, err := root.RoleList(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{cluster.RoleAdmin, "meshvpc-node-n1", "meshvpc-node-n2", cluster.RoleNodes, cluster.RoleOperator, cluster.RoleServer, cluster.RoleViewer, "theirs"}, roles.Roles); d != "" {
		t.Error(d)
	}
	user, err := root.UserGet(within(t), "node:n1")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"meshvpc-node-n1", cluster.RoleNodes, "theirs"}, user.Roles); d != "" {
		t.Error(d)
	}
	for name, want := range map[string]bool{"user:vie": true, "user:nobody": false} {
		if has, err := keeper.Has(within(t), name); err != nil || has != want {
			t.Errorf("%s is there: %v, %v", name, has, err)
		}
	}
}

// TestLook tells an etcd that can be used from one that cannot.
func TestLook(t *testing.T) {
	e := enginetest.StartExternal(t)
	root := e.Root(t)
	put(t, root, rooted("config")...)
	put(t, root, "/other")
	s, err := external.Look(within(t), as(t, e, "anybody"), cluster.Root)
	if err != nil || s != (external.State{Records: 1, Others: 1}) {
		t.Errorf("%+v, %v", s, err)
	}
	if err := external.Enable(within(t), root, s, "root"); !errors.Is(err, external.ErrShared) {
		t.Errorf("authentication was switched on beside keys of others: %v", err)
	}
	if _, err := root.Delete(within(t), "/other"); err != nil {
		t.Fatal(err)
	}
	operator := as(t, e, "operator")
	s.Others = 0
	if err := external.Enable(within(t), operator, s, "operator"); err != nil {
		t.Fatal(err)
	}
	for name, cli := range map[string]*clientv3.Client{"operator": operator, "root": root} {
		if s, err := external.Look(within(t), cli, cluster.Root); err != nil || !s.Enabled {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	if _, err := external.Look(within(t), as(t, e, "anybody"), cluster.Root); !errors.Is(err, external.ErrNotRoot) {
		t.Errorf("anybody is root: %v", err)
	}
}

// TestReach: whom the etcd takes, and whom the client.
func TestReach(t *testing.T) {
	e, other := enginetest.StartExternal(t), enginetest.StartExternal(t)
	for name, tt := range map[string]struct {
		cert, key string
		want      error
	}{
		"its own": {e.Cert, e.Key, nil}, "none": {"", "", external.ErrRefused}, "of another CA": {other.Cert, other.Key, external.ErrRefused},
	} {
		if err := external.Reach(within(t), e.Endpoint, e.TLS(t, tt.cert, tt.key)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if err := external.Reach(within(t), e.Endpoint, other.TLS(t, e.Cert, e.Key)); err == nil || errors.Is(err, external.ErrRefused) {
		t.Errorf("an etcd of another CA was taken: %v", err)
	}
	e.Loosen(t)
	if err := external.Reach(within(t), e.Endpoint, e.TLS(t, "", "")); err != nil {
		t.Errorf("without --client-cert-auth: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := external.Reach(ctx, e.Endpoint, e.TLS(t, "", "")); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
}

// TestSave: what is saved is one moment's records, as etcd's tools and an embedded
// etcd take it.
func TestSave(t *testing.T) {
	e := enginetest.StartExternal(t)
	root := e.Root(t)
	want := map[string][]byte{}
	var ops []clientv3.Op
	for i := range 1203 { // three pages
		k, v := cluster.Root+"status/n"+strings.Repeat("x", i%50)+"/"+time.Duration(i).String(), strings.Repeat("v", i+1)
		want[k] = []byte(v)
		if ops = append(ops, clientv3.OpPut(k, v)); len(ops) == 100 {
			if _, err := root.Txn(within(t)).Then(ops...).Commit(); err != nil {
				t.Fatal(err)
			}
			ops = nil
		}
	}
	if _, err := root.Txn(within(t)).Then(ops...).Commit(); err != nil {
		t.Fatal(err)
	}
	put(t, root, "/other", cluster.Root+"gone")
	if _, err := root.Delete(within(t), cluster.Root+"gone"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "db")
	if err := external.Save(within(t), root, cluster.Root, path); err != nil {
		t.Fatal(err)
	}
	if err := external.Save(within(t), root, cluster.Root, path); !errors.Is(err, os.ErrExist) {
		t.Errorf("written over: %v", err)
	}
	s, err := snapshot.NewV3(zap.NewNop()).Status(path)
	if err != nil || s.TotalKey != len(want) {
		t.Errorf("etcdutl: %+v, %v; want %d keys", s, err, len(want))
	}
	read, err := etcd.ReadSnapshot(path, "")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, read.Values); d != "" {
		t.Error(d)
	}
	ports := enginetest.FreePorts(t, 2)
	cfg := etcd.Config{Name: "a", DataDir: filepath.Join(t.TempDir(), "store"), ListenClient: ports[:1], ListenPeer: ports[1:], NoSync: true}
	if err := etcd.Restore(cfg, path); err != nil {
		t.Fatal(err)
	}
	engine, err := etcd.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	select {
	case err := <-ended:
		t.Fatal(err)
	case <-engine.Ready():
	}
	cli, err := client.Dial(client.Config{Endpoints: engine.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	answer, err := cli.Get(within(t), "\x00", clientv3.WithFromKey())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]byte{}
	for _, kv := range answer.Kvs {
		got[string(kv.Key)] = kv.Value
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if answer.Header.Revision < 1_000_000_000 {
		t.Errorf("the restored store is at revision %d, which clients may have seen", answer.Header.Revision)
	}
}
