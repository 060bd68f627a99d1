package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a store with an operator's and the agents' hands on it.
type rig struct {
	t     *testing.T
	kv    mvcc.KV
	mem   *mvcc.Memory
	op    *store.Store
	hosts *hosts
	alive func() // of the next controllers, every 2 s; nil: none
	ask   AskFunc

	mu     sync.Mutex
	alarms []string
}

// ring takes an alarm of a controller.
func (r *rig) ring(c cluster.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alarms = append(r.alarms, c.String())
}

// rung are the alarms by now, as text.
func (r *rig) rung() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.alarms, "\n")
}

// honest is a world in which every node is where it says.
func honest(context.Context, Question) error { return nil }

func newRig(t *testing.T) *rig {
	mem := mvcc.NewMemory(mvcc.Config{})
	r := &rig{t: t, kv: mem, mem: mem, ask: honest, op: store.New(mem, cluster.Identity{Role: cluster.Operator, Name: "admin"})}
	r.put(cluster.KeyConfig, &cluster.Config{
		ID: "c1", Era: 1, UnderlayPort: cluster.DefaultUnderlayPort, VNIs: cluster.DefaultVNIRange, Encryption: "none",
	})
	return r
}

// start runs a controller until the test ends, or the function is called.
func (r *rig) start(name string, kv mvcc.KV) (stop func()) {
	r.t.Helper()
	cfg := Config{Store: store.New(kv, cluster.Identity{Role: cluster.Controller, Name: name}), Name: name, Alive: r.alive, Ask: r.ask, Alarm: r.ring}
	if r.alive != nil {
		cfg.AliveEvery = 2 * time.Second
	}
	c, err := New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Run(ctx); err != nil {
			r.t.Errorf("run %s: %v", name, err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	r.t.Cleanup(stop)
	return stop
}

// put writes whatever there is, as the operator or any agent.
func (r *rig) put(key string, rec cluster.Record) {
	r.t.Helper()
	r.txn(r.written(key, rec))
}

func (r *rig) raw(key, value string) {
	r.t.Helper()
	r.txn(mvcc.Put(key, []byte(value)))
}

// txn writes all of it at one revision: no controller sees a part.
func (r *rig) txn(ops ...mvcc.Op) {
	r.t.Helper()
	if _, err := r.mem.Txn(context.Background(), mvcc.TxnRequest{Then: ops}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) written(key string, rec cluster.Record) mvcc.Op {
	r.t.Helper()
	b, err := cluster.Encode(rec, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return mvcc.Put(key, b)
}

func (r *rig) delete(keys ...string) {
	r.t.Helper()
	for _, k := range keys {
		r.txn(mvcc.Delete(k))
	}
}

// node makes a node known, and its host if there are hosts.
func (r *rig) node(name string) {
	r.put(cluster.KeyNode(name), node(name))
}

func node(name string) *cluster.Node {
	return &cluster.Node{ID: "id-" + name, Datacenter: "dc1", State: cluster.NodeActive, Agent: true}
}

// report is what the agent of a node with an IPv4 underlay says.
func report(name, addr string, mtu int) *cluster.NodeStatus {
	a := netip.MustParseAddr(addr)
	s := &cluster.NodeStatus{NodeID: "id-" + name, OS: "linux", Version: "test"}
	u := &cluster.UnderlayAddress{Bind: a, Advertise: a, Device: "u0", MTU: mtu}
	if a.Is4() {
		s.Underlay.IPv4 = u
	} else {
		s.Underlay.IPv6 = u
	}
	return s
}

func (r *rig) report(name, addr string, mtu int) {
	r.put(cluster.KeyNodeStatus(name), report(name, addr, mtu))
}

// join is node, report and a running agent.
func (r *rig) join(name, addr string) {
	r.node(name)
	r.put(cluster.KeyLive(name), &cluster.Live{NodeID: "id-" + name, BootID: "b", Incarnation: "i"})
	r.report(name, addr, 1500)
}

func spec(members, network string) *cluster.VPCSpec {
	return &cluster.VPCSpec{State: cluster.VPCActive, Members: cluster.Selector(members), PeerNetwork: netip.MustParsePrefix(network)}
}

func (r *rig) vpc(name string, s *cluster.VPCSpec) { r.put(cluster.KeyVPCSpec(name), s) }

// edit changes a spec as the operator does.
func (r *rig) edit(name string, f func(*cluster.VPCSpec)) {
	r.t.Helper()
	it, err := store.Get[*cluster.VPCSpec](context.Background(), r.op, cluster.KeyVPCSpec(name))
	if err != nil {
		r.t.Fatal(err)
	}
	f(it.Value)
	r.vpc(name, it.Value)
}

func (r *rig) editNode(name string, f func(*cluster.Node)) {
	r.t.Helper()
	it, err := store.Get[*cluster.Node](context.Background(), r.op, cluster.KeyNode(name))
	if err != nil {
		r.t.Fatal(err)
	}
	f(it.Value)
	r.put(cluster.KeyNode(name), it.Value)
}

// get reads a record; nil if it does not exist.
func get[T cluster.Record](r *rig, key string) (v T) {
	r.t.Helper()
	it, err := store.Get[T](context.Background(), r.op, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		r.t.Fatal(err)
	}
	return it.Value
}

// dump is the store below a prefix, a line for each key, without what only
// tells the time.
func (r *rig) dump(prefixes ...string) string {
	var b strings.Builder
	for _, p := range prefixes {
		resp, err := r.mem.Range(context.Background(), mvcc.Prefix(p))
		if err != nil {
			r.t.Fatal(err)
		}
		for _, kv := range resp.Keys {
			fmt.Fprintf(&b, "%s %s\n", strings.TrimPrefix(kv.Key, cluster.Root), kv.Value)
		}
	}
	return b.String()
}

// controlled is all that the controller writes, but its own key.
func (r *rig) controlled() string {
	var b strings.Builder
	for line := range strings.Lines(r.dump(cluster.PrefixVPCs, cluster.PrefixHosts, cluster.PrefixAlloc)) {
		if key, _, _ := strings.Cut(line, " "); !strings.HasSuffix(key, "/spec") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// hosts answers assignments as agents do, for the nodes that are up.
type hosts struct {
	r    *rig
	mu   sync.Mutex
	down map[string]bool
	told map[string]string // what was reported, by assignment key
	net  *fabric
	kick chan struct{}
}

func (r *rig) startHosts() *hosts {
	h := &hosts{r: r, down: map[string]bool{}, told: map[string]string{}, net: newFabric(r.op), kick: make(chan struct{}, 1)}
	r.hosts = h
	ctx, cancel := context.WithCancel(r.t.Context())
	mirror := store.NewMirror(store.MirrorConfig{Store: r.op})
	mirror.Follow(cluster.PrefixHosts, cluster.PrefixVPCs, cluster.PrefixNodes)
	var wg sync.WaitGroup
	wg.Go(func() { _ = mirror.Run(ctx) })
	wg.Go(func() {
		for {
			h.answer(ctx, mirror.Pull())
			select {
			case <-ctx.Done():
				return
			case <-mirror.Changed():
			case <-h.kick:
			}
		}
	})
	r.t.Cleanup(func() { cancel(); wg.Wait() })
	return h
}

func (h *hosts) set(node string, down bool) {
	h.mu.Lock()
	h.down[node] = down
	h.mu.Unlock()
	h.kick <- struct{}{}
}

func (h *hosts) tellToLeave(vpc, node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.net.tellToLeave(vpc, node)
}

func (h *hosts) answer(ctx context.Context, v *store.View) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for it := range store.Below[*cluster.HostVPC](v, cluster.PrefixHosts) {
		k, _ := cluster.ParseKey(it.Key)
		net, _ := store.At[*cluster.VPCNet](v, cluster.KeyVPCNet(k.VPC))
		m, member := store.At[*cluster.Member](v, cluster.KeyMember(k.VPC, k.Node))
		s := &cluster.VPCStatus{NodeID: "id-" + k.Node, State: cluster.HostMember, Ready: true}
		switch {
		case h.down[k.Node]:
			continue
		case it.Value.State == cluster.AssignedLeaving:
			s.State = cluster.HostLeft
			h.net.leave(k.VPC, k.Node)
		case !member || net.Value == nil:
			continue
		default:
			s.VNI, s.MTU, s.VTEP = net.Value.VNI, net.Value.MTU, m.Value.VTEP
			h.net.apply(v, k.VPC, k.Node)
			s.Links = h.net.links(k.VPC, k.Node)
		}
		if said := fmt.Sprint(it.Create, s); h.told[it.Key] == said {
			continue
		} else {
			h.told[it.Key] = said
		}
		h.report(ctx, k, s)
	}
	for key := range h.told { // its node record is a removed node's word, too
		k, _ := cluster.ParseKey(key)
		n, ok := store.At[*cluster.Node](v, cluster.KeyNode(k.Node))
		if ok && n.Value.State == cluster.NodeLeft && !v.Has(key) && !h.down[k.Node] {
			delete(h.told, key)
			h.net.leave(k.VPC, k.Node)
			h.report(ctx, k, &cluster.VPCStatus{NodeID: "id-" + k.Node, State: cluster.HostLeft})
		}
	}
}

func (h *hosts) report(ctx context.Context, k cluster.Key, s *cluster.VPCStatus) {
	var c store.Change
	store.Set(&c, cluster.KeyVPCStatus(k.Node, k.VPC), s, nil, 0)
	agent := store.New(h.r.mem, cluster.Identity{Role: cluster.Agent, Name: k.Node})
	if _, err := agent.Commit(ctx, c); err != nil && ctx.Err() == nil {
		h.r.t.Errorf("report: %v", err)
	}
}

// settle lets everything come to rest; nothing but timers is left.
func settle() { synctest.Wait() }

// pass lets time go by.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // in a bubble
	synctest.Wait()
}
