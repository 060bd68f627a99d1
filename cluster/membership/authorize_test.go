package membership_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

type call func(ctx context.Context, c *clientv3.Client) error

func get(key string, opts ...clientv3.OpOption) call {
	return func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Get(ctx, key, opts...)
		return err
	}
}

func put(key, value string, opts ...clientv3.OpOption) call {
	return func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Put(ctx, key, value, opts...)
		return err
	}
}

func del(key string, opts ...clientv3.OpOption) call {
	return func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Delete(ctx, key, opts...)
		return err
	}
}

func txn(cmps []clientv3.Cmp, then, or []clientv3.Op) call {
	return func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Txn(ctx).If(cmps...).Then(then...).Else(or...).Commit()
		return err
	}
}

// watch is refused as etcd refuses it: the stream goes on.
func watch(key string, opts ...clientv3.OpOption) call {
	return func(ctx context.Context, c *clientv3.Client) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for r := range c.Watch(ctx, key, append(opts, clientv3.WithCreatedNotify())...) {
			return r.Err() // the first one
		}
		return ctx.Err()
	}
}

// pbCall is a call that clientv3 has no way to make.
func pbCall[Q, A any](f func(ctx context.Context, q Q, c *clientv3.Client) (A, error), q Q) call {
	return func(ctx context.Context, c *clientv3.Client) error {
		_, err := f(ctx, q, c)
		return err
	}
}

var (
	prefix  = clientv3.WithPrefix()
	fromKey = clientv3.WithFromKey()
)

// maintenance is what only admins and servers may do.
func maintenance(g *guarded) map[string]call {
	endpoint := g.engine.Endpoints()[0]
	return map[string]call{
		"compact":    func(ctx context.Context, c *clientv3.Client) error { _, err := c.Compact(ctx, 1); return err },
		"defragment": func(ctx context.Context, c *clientv3.Client) error { _, err := c.Defragment(ctx, endpoint); return err },
		"disarm": pbCall(func(ctx context.Context, q *pb.AlarmRequest, c *clientv3.Client) (*pb.AlarmResponse, error) {
			return pb.NewMaintenanceClient(c.ActiveConnection()).Alarm(ctx, q)
		}, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE}),
		"hash KV":     func(ctx context.Context, c *clientv3.Client) error { _, err := c.HashKV(ctx, endpoint, 0); return err },
		"move leader": func(ctx context.Context, c *clientv3.Client) error { _, err := c.MoveLeader(ctx, 1); return err },
		"downgrade": func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Downgrade(ctx, clientv3.DowngradeCancel, "3.6")
			return err
		},
		"add a member": func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.MemberAdd(ctx, []string{"http://127.0.0.1:1"})
			return err
		},
		"remove a member": func(ctx context.Context, c *clientv3.Client) error { _, err := c.MemberRemove(ctx, 1); return err },
		"hash": pbCall(func(ctx context.Context, q *pb.HashRequest, c *clientv3.Client) (*pb.HashResponse, error) {
			return pb.NewMaintenanceClient(c.ActiveConnection()).Hash(ctx, q)
		}, &pb.HashRequest{}),
		"snapshot": func(ctx context.Context, c *clientv3.Client) error {
			r, err := c.Snapshot(ctx)
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.Copy(io.Discard, r)
			return err
		},
	}
}

// forNobody is what etcd serves and nobody may call, servers included.
func forNobody() map[string]call {
	return map[string]call{
		"auth status": func(ctx context.Context, c *clientv3.Client) error { _, err := c.AuthStatus(ctx); return err },
		"enable auth": func(ctx context.Context, c *clientv3.Client) error { _, err := c.AuthEnable(ctx); return err },
		"add a user":  func(ctx context.Context, c *clientv3.Client) error { _, err := c.UserAdd(ctx, "root", "x"); return err },
		"add a role":  func(ctx context.Context, c *clientv3.Client) error { _, err := c.RoleAdd(ctx, "root"); return err },
		"log in": func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Authenticate(ctx, "root", "x")
			return err
		},
		"list of roles": func(ctx context.Context, c *clientv3.Client) error { _, err := c.RoleList(ctx); return err },
		"lock": pbCall(func(ctx context.Context, q *v3lockpb.LockRequest, c *clientv3.Client) (*v3lockpb.LockResponse, error) {
			return v3lockpb.NewLockClient(c.ActiveConnection()).Lock(ctx, q)
		}, &v3lockpb.LockRequest{Name: []byte(cluster.Root)}),
		"campaign": pbCall(func(ctx context.Context, q *v3electionpb.CampaignRequest, c *clientv3.Client) (*v3electionpb.CampaignResponse, error) {
			return v3electionpb.NewElectionClient(c.ActiveConnection()).Campaign(ctx, q)
		}, &v3electionpb.CampaignRequest{Name: []byte(cluster.Root)}),
		"observe": func(ctx context.Context, c *clientv3.Client) error {
			s, err := v3electionpb.NewElectionClient(c.ActiveConnection()).Observe(ctx, &v3electionpb.LeaderRequest{Name: []byte(cluster.Root)})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"health": pbCall(func(ctx context.Context, q *healthpb.HealthCheckRequest, c *clientv3.Client) (*healthpb.HealthCheckResponse, error) {
			return healthpb.NewHealthClient(c.ActiveConnection()).Check(ctx, q)
		}, &healthpb.HealthCheckRequest{}),
	}
}

// foreign is what node n1, which is in blue, may not do to others' keys.
func foreign() map[string]call {
	status2, junk := cluster.KeyNodeStatus("n2"), cluster.PrefixStatus("n1")+"junk"
	exists := clientv3.Compare(clientv3.CreateRevision(status2), "=", 0)
	own := cluster.KeyNodeStatus("n1")
	return map[string]call{
		"read another's status":      get(status2),
		"read tokens":                get(cluster.PrefixToks, prefix),
		"read a user":                get(cluster.KeyUser("vera")),
		"read another's live":        get(cluster.KeyLive("n2")),
		"read another VPC":           get(cluster.PrefixVPC("red"), prefix),
		"read another VPC's key":     get(cluster.KeyVPCSpec("red")),
		"read all VPCs":              get(cluster.PrefixVPCs, prefix),
		"read a parent":              get(cluster.PrefixStat, prefix),
		"read two nodes' keys":       get(cluster.PrefixStatus("n1"), clientv3.WithRange(cluster.PrefixStatus("n2")+"z")),
		"read from an own key on":    get(own, fromKey),
		"read all":                   get("", prefix),
		"read all of ours":           get(cluster.Root, prefix),
		"read none of ours":          get("/other"),
		"read as it was":             get(status2, clientv3.WithRev(1)),
		"count":                      get(cluster.PrefixToks, prefix, clientv3.WithCountOnly()),
		"stream tokens":              rangeStream(cluster.PrefixToks),
		"write another's status":     put(status2, "{}"),
		"write its own node record":  put(cluster.KeyNode("n1"), "{}"),
		"write its own assignment":   put(cluster.KeyHostVPC("n1", "red"), "{}"),
		"write a name of no meaning": put(junk, "x"),
		"write a spec":               put(cluster.KeyVPCSpec("blue"), "{}"),
		"write the config":           put(cluster.KeyConfig, "{}"),
		"write none of ours":         put("/other", "x"),
		"delete another's":           del(status2),
		"delete a parent":            del(cluster.PrefixStat, prefix),
		"delete its node record":     del(cluster.KeyNode("n1")),
		"delete all":                 del(cluster.Root, prefix),
		"delete from an own key on":  del(own, fromKey),
		"compare":                    txn([]clientv3.Cmp{exists}, nil, nil),
		"compare a range":            txn([]clientv3.Cmp{clientv3.Compare(clientv3.Version(own), ">", 0).WithRange(status2 + "0")}, nil, nil),
		"then":                       txn(nil, []clientv3.Op{clientv3.OpPut(own, "{}"), clientv3.OpPut(status2, "{}")}, nil),
		"else":                       txn(nil, nil, []clientv3.Op{clientv3.OpGet(status2)}),
		"nested": txn(nil, []clientv3.Op{clientv3.OpTxn(nil, nil, []clientv3.Op{
			clientv3.OpTxn([]clientv3.Cmp{exists}, []clientv3.Op{clientv3.OpDelete(own)}, nil)})}, nil),
		"watch another's":     watch(status2),
		"watch a parent":      watch(cluster.PrefixVPCs, prefix),
		"watch another VPC":   watch(cluster.PrefixVPC("red"), prefix),
		"watch all":           watch("", prefix),
		"watch from a key on": watch(own, fromKey),
		"watch as it was":     watch(cluster.PrefixToks, prefix, clientv3.WithRev(1)),
		"see a server": func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Status(ctx, c.Endpoints()[0])
			return err
		},
		"see alarms":  func(ctx context.Context, c *clientv3.Client) error { _, err := c.AlarmList(ctx); return err },
		"list leases": func(ctx context.Context, c *clientv3.Client) error { _, err := c.Leases(ctx); return err },
	}
}

func rangeStream(prefix string) call {
	return func(ctx context.Context, c *clientv3.Client) error {
		s, err := pb.NewKVClient(c.ActiveConnection()).RangeStream(ctx, &pb.RangeRequest{Key: []byte(prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(prefix))})
		for err == nil {
			_, err = s.Recv()
		}
		if err == io.EOF {
			return nil
		}
		return err
	}
}

// leasesOf are what node n1 may not do with a lease of another.
func leasesOf(lease clientv3.LeaseID) map[string]call {
	return map[string]call{
		"put on it": put(cluster.KeyLive("n1"), "{}", clientv3.WithLease(lease)),
		"renew it":  func(ctx context.Context, c *clientv3.Client) error { _, err := c.KeepAliveOnce(ctx, lease); return err },
		"end it":    func(ctx context.Context, c *clientv3.Client) error { _, err := c.Revoke(ctx, lease); return err },
		"see it": func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.TimeToLive(ctx, lease, clientv3.WithAttachedKeys())
			return err
		},
		"make one of its number": pbCall(func(ctx context.Context, q *pb.LeaseGrantRequest, c *clientv3.Client) (*pb.LeaseGrantResponse, error) {
			return pb.NewLeaseClient(c.ActiveConnection()).LeaseGrant(ctx, q)
		}, &pb.LeaseGrantRequest{TTL: 10, ID: int64(lease) + 1}),
	}
}

// refuseAll wants each call refused, one by one. A service that is not there refuses.
func (g *guarded) refuseAll(cli *clientv3.Client, calls map[string]call) {
	g.t.Helper()
	for name, f := range calls {
		ctx, cancel := context.WithTimeout(g.t.Context(), 30*time.Second)
		err := f(ctx, cli)
		cancel()
		if c := code(err); c != codes.PermissionDenied && c != codes.Unimplemented && (err == nil || !strings.Contains(err.Error(), " may not ")) {
			g.t.Errorf("%s: %v, want it refused", name, err)
		}
	}
}

func (g *guarded) allowAll(cli *clientv3.Client, calls map[string]call) {
	g.t.Helper()
	for name, f := range calls {
		ctx, cancel := context.WithTimeout(g.t.Context(), 30*time.Second)
		err := f(ctx, cli)
		cancel()
		if err != nil {
			g.t.Errorf("%s: %v", name, err)
		}
	}
}

func (g *guarded) revision() int64 {
	g.t.Helper()
	r, err := g.server.Get(g.t.Context(), "x")
	if err != nil {
		g.t.Fatal(err)
	}
	return r.Header.Revision
}

// TestNodeTriesEverything: none of it is done.
func TestNodeTriesEverything(t *testing.T) {
	g := guard(t, membership.AuthorizerConfig{}).run()
	n1, n2 := g.dial(g.node("n1", "blue")), g.dial(g.node("n2", "red"))
	lease, err := n2.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n2.Put(t.Context(), cluster.KeyLive("n2"), "{}", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	servers, err := g.server.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	before := g.revision()
	g.refuseAll(n1, foreign())
	g.refuseAll(n1, maintenance(g))
	g.refuseAll(n1, forNobody())
	g.refuseAll(n1, leasesOf(lease.ID))
	g.refuseAll(n1, leasesOf(servers.ID))
	if now := g.revision(); now != before {
		t.Errorf("the store went from revision %d to %d", before, now)
	}
	leases, err := g.server.Leases(t.Context())
	if err != nil || len(leases.Leases) != 2 {
		t.Errorf("leases = %v, %v; want two", leases, err)
	}
}

// TestNodesOwn: what a node may do, through all that clientv3 has.
func TestNodesOwn(t *testing.T) {
	g := guard(t, membership.AuthorizerConfig{}).run()
	n1 := g.dial(g.node("n1", "blue"))
	lease, err := n1.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	own := cluster.KeyNodeStatus("n1")
	g.allowAll(n1, map[string]call{
		"read nodes":      get(cluster.PrefixNodes, prefix),
		"read a VPC":      get(cluster.PrefixVPC("blue"), prefix, clientv3.WithSerializable()),
		"count":           get(cluster.PrefixHost("n1"), prefix, clientv3.WithCountOnly(), clientv3.WithRev(1)),
		"stream":          rangeStream(cluster.PrefixNodes),
		"read servers":    get(cluster.PrefixSrvs, prefix),
		"write":           put(own, "{}"),
		"live":            put(cluster.KeyLive("n1"), "{}", clientv3.WithLease(lease.ID)),
		"delete":          del(cluster.PrefixStatus("n1"), prefix),
		"transaction":     txn([]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(own), ">", 0)}, []clientv3.Op{clientv3.OpPut(own, "{}")}, []clientv3.Op{clientv3.OpGet(own)}),
		"watch":           watch(cluster.PrefixVPC("blue"), prefix),
		"watch its own":   watch(cluster.PrefixHost("n1"), prefix, clientv3.WithRev(1)),
		"renew its lease": leasesOf(lease.ID)["renew it"],
		"see its lease":   leasesOf(lease.ID)["see it"],
		"list servers":    func(ctx context.Context, c *clientv3.Client) error { _, err := c.MemberList(ctx); return err },
	})
	if _, err := n1.Revoke(t.Context(), lease.ID); err != nil {
		t.Error(err)
	}
}

// TestPeople: each role, and who has none any more.
func TestPeople(t *testing.T) {
	g := guard(t, membership.AuthorizerConfig{}).run()
	admin, operator, viewer := g.dial(g.user("ada", cluster.UserAdmin)), g.dial(g.user("otto", cluster.UserOperator)), g.dial(g.user("vera", cluster.UserViewer))
	health := map[string]call{
		"health key":    get("health"),
		"see a server":  foreign()["see a server"],
		"see alarms":    foreign()["see alarms"],
		"list servers":  func(ctx context.Context, c *clientv3.Client) error { _, err := c.MemberList(ctx); return err },
		"read VPCs":     get(cluster.PrefixVPCs, prefix),
		"read status":   get(cluster.PrefixStat, prefix),
		"watch VPCs":    watch(cluster.PrefixVPCs, prefix),
		"stream status": rangeStream(cluster.PrefixStat),
	}
	tokens := map[string]call{
		"read tokens":         get(cluster.PrefixToks, prefix),
		"read a token":        get(cluster.KeyToken("x")),
		"read all":            get(cluster.Root, prefix),
		"watch tokens":        watch(cluster.PrefixToks, prefix),
		"watch all":           watch(cluster.Root, prefix),
		"stream tokens":       rangeStream(cluster.PrefixToks),
		"compare a token":     txn([]clientv3.Cmp{clientv3.Compare(clientv3.Version(cluster.KeyToken("x")), "=", 0)}, nil, nil),
		"write a user":        put(cluster.KeyUser("new"), "{}"),
		"write a token":       put(cluster.KeyToken("new"), "{}"),
		"write the config":    put(cluster.KeyConfig, "{}"),
		"write an assignment": put(cluster.KeyHostVPC("n9", "blue"), "{}"),
		"delete all VPCs":     del(cluster.PrefixVPCs, prefix),
	}
	writes := map[string]call{
		"write a spec":  put(cluster.KeyVPCSpec("blue"), "{}"),
		"ping":          put(cluster.KeyVPCPing("blue"), "{}"),
		"write a node":  put(cluster.KeyNode("n9"), "{}"),
		"delete a spec": del(cluster.KeyVPCSpec("blue")),
	}
	g.refuseAll(viewer, tokens)
	g.refuseAll(viewer, writes)
	g.refuseAll(viewer, maintenance(g))
	g.refuseAll(viewer, leasesOf(7))
	g.refuseAll(operator, tokens)
	g.refuseAll(operator, maintenance(g))
	for _, c := range []*clientv3.Client{viewer, operator, admin} {
		g.allowAll(c, health)
		g.refuseAll(c, forNobody())
		g.refuseAll(c, map[string]call{"none of ours": get("/other"), "the whole store": get("", prefix), "from a key on": get(cluster.Root, fromKey)})
	}
	g.allowAll(operator, writes)
	g.allowAll(admin, tokens)
	g.allowAll(admin, writes)
	g.allowAll(admin, map[string]call{"snapshot": maintenance(g)["snapshot"], "defragment": maintenance(g)["defragment"], "list leases": foreign()["list leases"]})
	g.refuseAll(g.server, forNobody())
}

// TestStrangers: certificates of the cluster that no record, or another key's
// record, is about.
func TestStrangers(t *testing.T) {
	g := guard(t, membership.AuthorizerConfig{}).run()
	g.node("n1", "blue")
	g.user("ada", cluster.UserAdmin)
	everything := map[string]call{"config": get(cluster.KeyConfig), "own": put(cluster.KeyNodeStatus("n1"), "{}"), "lease": func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Grant(ctx, 10)
		return err
	}, "list servers": func(ctx context.Context, c *clientv3.Client) error { _, err := c.MemberList(ctx); return err }}
	for _, subject := range []string{"node:n9", "user:bob", "user:ada"} {
		g.refuseAll(g.dial(credential(t, g.ca, subject)), everything)
	}
	taken := g.dial(credential(t, g.ca, "node:n1")) // of another key
	delete(everything, "config")
	g.refuseAll(taken, everything)
	g.refuseAll(taken, map[string]call{"blue": get(cluster.PrefixVPC("blue"), prefix), "nodes": get(cluster.PrefixNodes, prefix)})
	g.allowAll(taken, map[string]call{"its record": get(cluster.KeyNode("n1")), "watch it": watch(cluster.KeyNode("n1"))})
}

// TestBeforeTheRecordsAreRead: servers pass, others are to try again.
func TestBeforeTheRecordsAreRead(t *testing.T) {
	g := guard(t, membership.AuthorizerConfig{})
	n1 := credential(t, g.ca, "node:n1")
	g.setNode("n1", n1, cluster.NodeActive)
	cli := g.dial(n1)
	for name, f := range map[string]call{"unary": put(cluster.KeyNodeStatus("n1"), "{}"), "stream": rangeStream(cluster.PrefixNodes)} {
		if err := f(t.Context(), cli); code(err) != codes.Unavailable {
			t.Errorf("%s: %v, want it to be tried again", name, err)
		}
	}
	g.run()
	g.allowAll(cli, map[string]call{"afterwards": put(cluster.KeyNodeStatus("n1"), "{}")})
}
