package membership_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/enginetest"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

// entry is an event with the revision that wrote it.
type entry struct {
	*cluster.Event
	created, mod int64
}

// history reads the events of g that were written after a revision.
func (g *guarded) history(after int64) []entry {
	g.t.Helper()
	r, err := g.server.Get(g.t.Context(), cluster.PrefixEvents, prefix, clientv3.WithMinModRev(after+1))
	if err != nil {
		g.t.Fatal(err)
	}
	var list []entry
	for _, kv := range r.Kvs {
		rec, err := cluster.Decode(string(kv.Key), kv.Value)
		if err != nil {
			g.t.Fatal(err)
		}
		list = append(list, entry{rec.(*cluster.Event), kv.CreateRevision, kv.ModRevision})
	}
	return list
}

// told is "user:alice: changed VPC blue: mtu 1400 → 1450" for each change.
func told(list []entry) []string {
	out := []string{}
	for _, e := range list {
		for _, c := range e.Changes {
			out = append(out, e.By+" "+c.String())
		}
	}
	slices.Sort(out)
	return out
}

func specOf(mtu int) string {
	return fmt.Sprintf(`{"state":"active","members":"all","peer_network":"10.100.0.0/16","mtu":%d}`, mtu)
}

// TestHistory: what changes records of what people want is recorded in the very
// revision of the change, and nothing else is.
func TestHistory(t *testing.T) {
	g := guard(t, membership.AuthorizerConfig{}).run()
	alice, n1, vera := g.dial(g.user("alice", cluster.UserAdmin)), g.dial(g.node("n1")), g.dial(g.user("vera", cluster.UserViewer))
	blue, red := cluster.KeyVPCSpec("blue"), cluster.KeyVPCSpec("red")
	modOf := func(key string) int64 {
		r, err := g.server.Get(t.Context(), key)
		if err != nil || len(r.Kvs) == 0 {
			return 0
		}
		return r.Kvs[0].ModRevision
	}
	is := func(key string) clientv3.Cmp { return clientv3.Compare(clientv3.ModRevision(key), "=", modOf(key)) }
	absent := clientv3.Compare(clientv3.CreateRevision(cluster.Root+"none"), "=", 0)
	never := clientv3.Compare(clientv3.CreateRevision(cluster.Root+"none"), ">", 0)
	const created = "user:alice created VPC blue: members all, mtu 1400, peer network 10.100.0.0/16, state active"
	ops := func(list ...clientv3.Op) []clientv3.Op { return list }
	for _, tt := range []struct {
		name   string
		by     *clientv3.Client
		do     call
		writes int64 // revisions
		want   []string
	}{
		{"create", alice, txn([]clientv3.Cmp{is(blue)}, ops(clientv3.OpPut(blue, specOf(1400))), nil), 1, []string{created}},
		{"a guard that does not hold", alice, txn([]clientv3.Cmp{never}, ops(clientv3.OpPut(blue, specOf(1401))), nil), 0, nil},
		{"a plain put", alice, put(blue, specOf(1450)), 1, []string{"user:alice changed VPC blue: mtu 1400 → 1450"}},
		{"what was so before", alice, put(blue, specOf(1450)), 1, []string{"user:alice changed VPC blue"}},
		{"the other branch", alice, txn([]clientv3.Cmp{never}, ops(clientv3.OpPut(blue, specOf(1))), ops(clientv3.OpPut(blue, specOf(1400)), clientv3.OpGet(blue))), 1,
			[]string{"user:alice changed VPC blue: mtu 1450 → 1400"}},
		{"within", alice, txn(nil, ops(clientv3.OpTxn([]clientv3.Cmp{absent}, ops(clientv3.OpPut(red, specOf(1300))), nil), clientv3.OpPut(blue, specOf(1300))), nil), 1,
			[]string{"user:alice changed VPC blue: mtu 1400 → 1300", "user:alice created VPC red: members all, mtu 1300, peer network 10.100.0.0/16, state active"}},
		{"many", alice, txn(nil, ops(clientv3.OpPut(red, specOf(1290)), clientv3.OpPut(blue, specOf(1280))), nil), 1,
			[]string{"user:alice changed VPC blue: mtu 1300 → 1280", "user:alice changed VPC red: mtu 1300 → 1290"}},
		{"delete", alice, del(red), 1, []string{"user:alice deleted VPC red"}},
		{"delete nothing", alice, del(red), 0, nil},
		{"delete in a transaction", alice, txn([]clientv3.Cmp{is(blue)}, ops(clientv3.OpDelete(blue)), nil), 1, nil}, // see below
		{"a range", alice, del(cluster.PrefixVPCs, prefix), 1, []string{"user:alice deleted the record vpcs/: and all keys below vpcs0"}},
		{"a range of nothing", alice, del(cluster.PrefixVPCs, prefix), 0, nil},
		{"what a person writes besides", alice, put(cluster.KeyVPCPing("blue"), "{}"), 1, nil},
		{"what a node reports", n1, put(cluster.KeyNodeStatus("n1"), "{}"), 1, nil},
		{"what a viewer may not", vera, put(blue, specOf(1400)), 0, nil},
		{"by hand on a server", g.server, put(blue, specOf(1400)), 1, []string{"server:s1 created VPC blue: members all, mtu 1400, peer network 10.100.0.0/16, state active"}},
		{"what a server records itself", g.server, txn(nil, ops(clientv3.OpPut(blue, specOf(1280)), clientv3.OpPut(cluster.KeyEvent(time.Unix(7, 0), 7),
			`{"time":"2026-01-01T00:00:00.000Z","by":"node:n1","changes":[{"verb":"joined","key":"nodes/n1"}]}`)), nil), 1, []string{"node:n1 joined the cluster"}},
		{"the history itself", g.server, del(cluster.Root, prefix), 1, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "delete in a transaction" { // its guard is of now
				tt.do = txn([]clientv3.Cmp{is(blue)}, ops(clientv3.OpDelete(blue), clientv3.OpPut(cluster.KeyVPCPing("x"), "{}")), nil)
				tt.want = []string{"user:alice deleted VPC blue"}
			}
			before := g.revision()
			err := tt.do(t.Context(), tt.by)
			if (err != nil) != (tt.by == vera) {
				t.Fatal(err)
			}
			if grew := g.revision() - before; grew != tt.writes {
				t.Errorf("%d revisions, want %d", grew, tt.writes)
			}
			list := g.history(before)
			if d := cmp.Diff(append([]string{}, tt.want...), told(list)); d != "" {
				t.Error(d)
			}
			for _, e := range list {
				if e.mod != before+1 || e.created != e.mod {
					t.Errorf("the event is of revision %d, the change of %d", e.mod, before+1)
				}
			}
		})
	}
}

// TestHistoryOfMany: a transaction of as many operations as etcd takes has room for
// its event.
func TestHistoryOfMany(t *testing.T) {
	g := guard(t, membership.AuthorizerConfig{}).run()
	alice := g.dial(g.user("alice", cluster.UserOperator))
	var cmps []clientv3.Cmp
	var puts []clientv3.Op
	for i := range 128 {
		key := cluster.KeyVPCSpec(fmt.Sprintf("v%d", i))
		cmps, puts = append(cmps, clientv3.Compare(clientv3.ModRevision(key), "=", 0)), append(puts, clientv3.OpPut(key, specOf(1400)))
	}
	before := g.revision()
	r, err := alice.Txn(t.Context()).If(cmps...).Then(puts...).Commit()
	if err != nil || !r.Succeeded || len(r.Responses) != 128 {
		t.Fatalf("%+v, %v", r, err)
	}
	list := g.history(before)
	if len(list) != 1 || len(list[0].Changes) != 128 || list[0].mod != before+1 {
		t.Errorf("%d events: %v", len(list), told(list))
	}
	if _, err := alice.Txn(t.Context()).Then(append(puts, clientv3.OpGet("/x"))...).Commit(); err == nil {
		t.Error("more operations than etcd takes are taken")
	}
}

// TestHistoryLog: each change is one line that names who and what; what is
// refused is told at a bounded rate.
func TestHistoryLog(t *testing.T) {
	core, logs := observer.New(zapcore.InfoLevel)
	g := guard(t, membership.AuthorizerConfig{Log: zap.New(core)}).run()
	alice, vera := g.dial(g.user("alice", cluster.UserOperator)), g.dial(g.user("vera", cluster.UserViewer))
	logs.TakeAll()
	if _, err := alice.Put(t.Context(), cluster.KeyVPCSpec("blue"), specOf(1400)); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.Txn(t.Context()).If(clientv3.Compare(clientv3.Version(cluster.Root+"none"), ">", 0)).Then(clientv3.OpDelete(cluster.KeyVPCSpec("blue"))).Commit(); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.Put(t.Context(), cluster.KeyVPCPing("blue"), "{}"); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := vera.Delete(t.Context(), cluster.KeyVPCSpec("blue")); err == nil {
			t.Fatal("a viewer deletes")
		}
	}
	var lines []string
	for _, l := range logs.TakeAll() {
		m := l.ContextMap()
		if m["subject"] == "user:alice" || m["subject"] == "user:vera" {
			b, err := json.Marshal([]any{m["subject"], m["what"], m["key"], m["op"]})
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, l.Message+" "+string(b))
		}
	}
	want := []string{
		`records changed ["user:alice",["created VPC blue: members all, mtu 1400, peer network 10.100.0.0/16, state active"],["vpcs/blue/spec"],null]`,
		`records changed ["user:alice",null,null,["write vpcs/blue/ping"]]`,
		`refused ["user:vera",null,null,null]`,
	}
	if d := cmp.Diff(want, lines); d != "" {
		t.Error(d)
	}
}

// TestHistoryIsClosed: servers alone write the history, and nodes do not read it.
func TestHistoryIsClosed(t *testing.T) {
	g := guard(t, membership.AuthorizerConfig{}).run()
	key := cluster.KeyEvent(time.Unix(1, 0), 1)
	g.refuseAll(g.dial(g.user("alice", cluster.UserAdmin)), map[string]call{
		"write": put(key, "{}"), "delete": del(key), "delete all": del(cluster.Root, prefix), "beside": txn(nil, []clientv3.Op{clientv3.OpPut(key, "{}")}, nil),
	})
	g.refuseAll(g.dial(g.node("n1")), map[string]call{"read": get(cluster.PrefixEvents, prefix), "watch": watch(cluster.PrefixEvents, prefix), "write": put(key, "{}")})
	vera := g.dial(g.user("vera", cluster.UserViewer))
	if r, err := vera.Get(t.Context(), cluster.PrefixEvents, prefix); err != nil || len(r.Kvs) == 0 {
		t.Errorf("a viewer reads %v, %v", r, err)
	}
}

// TestHistoryChangesNoAnswer: one etcd with an Authorizer before it and one
// without get the same requests, and give the same answers, revisions included.
func TestHistoryChangesNoAnswer(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := guard(t, membership.AuthorizerConfig{}).run()
	with, without := g.dial(g.user("alice", cluster.UserAdmin)), enginetest.StartEtcd(t)
	for end := g.revision(); ; {
		r, err := without.Put(t.Context(), "/pad", "")
		if err != nil {
			t.Fatal(err)
		}
		if r.Header.Revision >= end {
			break
		}
	}
	a, b := pb.NewKVClient(with.ActiveConnection()), pb.NewKVClient(without.ActiveConnection())
	random := randomRequests{rand.New(rand.NewPCG(seed, 1))}
	refused, recorded := 0, g.revision()
	for i := range 1500 {
		var x, y any
		var errX, errY error
		switch random.IntN(6) {
		case 0:
			q := random.put()
			x, errX = ask(t, a.Put, q)
			y, errY = ask(t, b.Put, q)
		case 1:
			q := random.delete()
			x, errX = ask(t, a.DeleteRange, q)
			y, errY = ask(t, b.DeleteRange, q)
		default:
			q := random.txn(0)
			x, errX = ask(t, a.Txn, q)
			y, errY = ask(t, b.Txn, q)
		}
		tooMany := errors.Is(errX, rpctypes.ErrGRPCTooManyOps) // is said first, though more be wrong
		if (errX == nil) != (errY == nil) || errX != nil && errX.Error() != errY.Error() && (!tooMany || code(errX) != code(errY)) {
			t.Fatalf("request %d: %v; without: %v", i, errX, errY)
		}
		if errX != nil {
			refused++
			continue
		}
		ignore := protocmp.IgnoreFields(&pb.ResponseHeader{}, "cluster_id", "member_id", "raft_term")
		if d := cmp.Diff(y, x, protocmp.Transform(), ignore); d != "" {
			t.Fatalf("request %d (-without, +with): %s", i, d)
		}
	}
	if n := len(g.history(recorded)); n < 100 || refused < 20 || refused > 1000 {
		t.Errorf("%d events, %d requests refused: that compares little", n, refused)
	}
}

// TestHistoryWithoutSpace: what makes room is let through, without an event.
func TestHistoryWithoutSpace(t *testing.T) {
	g := guard(t, membership.AuthorizerConfig{}).run()
	alice := g.dial(g.user("alice", cluster.UserAdmin))
	for _, vpc := range []string{"blue", "red", "green"} {
		g.put(cluster.KeyVPCSpec(vpc), &cluster.VPCSpec{State: cluster.VPCActive, Members: "all", PeerNetwork: cluster.DefaultPeerNetwork})
	}
	alarm := pb.NewMaintenanceClient(g.server.ActiveConnection())
	if _, err := alarm.Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE}); err != nil {
		t.Fatal(err)
	}
	before := g.revision()
	if r, err := alice.Delete(t.Context(), cluster.KeyVPCSpec("blue")); err != nil || r.Deleted != 1 {
		t.Errorf("%v, %v", r, err)
	}
	if r, err := alice.Txn(t.Context()).Then(clientv3.OpDelete(cluster.KeyVPCSpec("red"))).Commit(); err != nil || len(r.Responses) != 1 || r.Responses[0].GetResponseDeleteRange().GetDeleted() != 1 {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := alice.Put(t.Context(), cluster.KeyVPCSpec("green"), specOf(1400)); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("%v, want no space", err)
	}
	if list := g.history(before); len(list) > 0 || g.revision() != before+2 {
		t.Errorf("%v, %d revisions", told(list), g.revision()-before)
	}
}

func ask[Q, A any, O any](t *testing.T, call func(context.Context, Q, ...O) (A, error), q Q) (any, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return call(ctx, q)
}

// randomRequests are about few keys, of what people want and others.
type randomRequests struct{ *rand.Rand }

func (r randomRequests) key() []byte {
	keys := []string{cluster.KeyVPCSpec("a"), cluster.KeyVPCSpec("b"), cluster.KeyNode("c"), cluster.KeyToken("d"), cluster.KeyVPCPing("a"), cluster.KeyNodeStatus("e"), cluster.Root + "zzz"}
	return []byte(keys[r.IntN(len(keys))])
}

func (r randomRequests) value() []byte {
	return []byte([]string{"", "{}", specOf(1400), specOf(1280 + r.IntN(3)), "\x1b"}[r.IntN(5)])
}

func (r randomRequests) put() *pb.PutRequest {
	q := &pb.PutRequest{Key: r.key(), Value: r.value(), PrevKv: r.IntN(2) == 0, IgnoreValue: r.IntN(10) == 0, IgnoreLease: r.IntN(10) == 0}
	if q.IgnoreValue && r.IntN(4) > 0 {
		q.Value = nil
	}
	if r.IntN(20) == 0 {
		q.Lease = 1234 // there is none
	}
	return q
}

func (r randomRequests) delete() *pb.DeleteRangeRequest {
	q := &pb.DeleteRangeRequest{Key: r.key(), PrevKv: r.IntN(2) == 0}
	if r.IntN(4) == 0 {
		q.Key, q.RangeEnd = []byte(cluster.PrefixVPCs), []byte(cluster.PrefixVPCs[:len(cluster.PrefixVPCs)-1]+"0")
	}
	return q
}

func (r randomRequests) compare() *pb.Compare {
	c := &pb.Compare{Key: r.key(), Target: pb.Compare_VERSION, Result: pb.Compare_CompareResult(r.IntN(4)), TargetUnion: &pb.Compare_Version{Version: int64(r.IntN(3))}}
	if r.IntN(3) == 0 {
		c.Target, c.TargetUnion = pb.Compare_MOD, &pb.Compare_ModRevision{ModRevision: int64(r.IntN(40))}
	}
	return c
}

func (r randomRequests) txn(depth int) *pb.TxnRequest {
	q := &pb.TxnRequest{}
	for range r.IntN(3) {
		q.Compare = append(q.Compare, r.compare())
	}
	q.Success, q.Failure = r.branch(depth), r.branch(depth)
	return q
}

func (r randomRequests) branch(depth int) []*pb.RequestOp {
	var list []*pb.RequestOp
	for range r.IntN(4) {
		switch n := r.IntN(9); {
		case n < 4:
			list = append(list, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r.put()}})
		case n < 5:
			list = append(list, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r.delete()}})
		case n < 7:
			list = append(list, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: r.key()}}})
		case depth < 3:
			list = append(list, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r.txn(depth + 1)}})
		}
	}
	if r.IntN(10) == 0 { // as many as etcd takes, or some more or less
		for i := range 124 + r.IntN(8) - len(list) {
			list = append(list, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(cluster.KeyVPCPing("p" + strings.Repeat("x", i%3)))}}})
		}
	}
	return list
}
