package watcher

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/fake"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// strictly makes web1 an endpoint that is exclusive strict, and has a node own it.
func (w *world) strictly(node string, epoch int64, to string) {
	w.t.Helper()
	w.put(cluster.Operator, cluster.KeyEndpointSpec("vpc1", "web1"), &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true, Created: cluster.At(time.Unix(1, 0)),
		Failover: cluster.Failover{Mode: cluster.ModeStateless, Place: cluster.Place{"all"}, Exclusive: cluster.ExclusiveStrict}})
	w.put(cluster.Controller, cluster.KeyEndpointOwn("vpc1", "web1"), &cluster.EndpointOwn{State: cluster.OwnAssigned, MAC: webMAC, Node: node, To: to, Era: 1, Epoch: epoch,
		IPs: []netip.Addr{netip.MustParseAddr("10.10.11.1"), netip.MustParseAddr("fd00:11::1")}})
}

func (w *world) passes(node string) bool {
	return w.hosts[node].Passes(hostops.EndpointPortOf("vpc1", "web1"))
}

// wantPasses holds a node's host to whether frames pass by web1's port.
func (w *world) wantPasses(node string, want bool, when string) {
	w.t.Helper()
	if is := w.passes(node); is != want {
		w.t.Errorf("%s: frames pass at %s: %v; its port is %+v", when, node, is, w.port(node))
	}
}

// TestStrictPasses while the store grants it, as long as that, and not longer: whatever
// becomes of the agent.
func TestStrictPasses(t *testing.T) {
	own := cluster.ProfileDefault.Timings().OwnGrant()
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		w.strictly("n1", 2, "")
		w.attached("n1", local.AttachRequest{Netns: w.room("n1", "web1")}, 2)
		w.settle(time.Second)
		w.wantPasses("n1", true, "granted")
		w.wantPort("n1", cluster.PortReady, 2)
		if l, _ := w.liveOf("n1"); l.Grant != 9000 || !w.port("n1").Gated {
			t.Errorf("live %+v, port %+v", l, w.port("n1"))
		}
		w.settle(time.Minute)
		w.wantPasses("n1", true, "after a minute")

		w.stop["n1"]()
		w.settle(own - 4*time.Second)
		w.wantPasses("n1", true, "its agent is gone for a moment")
		w.start("n1")
		w.settle(own)
		w.wantPasses("n1", true, "another agent")
		w.stop["n1"]()
		w.settle(own)
		w.wantPasses("n1", false, "its agent is gone")
		w.start("n1")
		w.settle(time.Second)
		w.wantPasses("n1", true, "back")

		w.stop["n1"]()
		w.away = true
		w.start("n1")
		w.settle(time.Second)
		w.wantPasses("n1", true, "no store")
		w.settle(own)
		w.wantPasses("n1", false, "no store for as long as a grant")
		w.stop["n1"]()
		w.away = false
		w.strictly("n2", 3, "")
		w.start("n1")
		w.settle(time.Minute)
		w.wantPasses("n1", false, "another has it")
	})
}

// TestStrictIsHandedOver: who is to hand it over shuts it, says so, and opens it no more
// in that epoch; who has it next opens it.
func TestStrictIsHandedOver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		w.strictly("n1", 2, "")
		w.attached("n1", local.AttachRequest{Netns: w.room("n1", "web1")}, 2)
		w.settle(time.Second)
		w.strictly("n1", 2, "n2")
		w.settle(100 * time.Millisecond)
		w.wantPasses("n1", false, "handed over")
		w.wantPort("n1", cluster.PortReleased, 2)
		w.stop["n1"]()
		w.start("n1")
		w.settle(time.Minute)
		w.wantPasses("n1", false, "another agent")
		w.wantPort("n1", cluster.PortReleased, 2)
		w.strictly("n1", 3, "")
		w.settle(time.Second)
		w.wantPasses("n1", true, "it has it again")
		w.fence(1)
		w.settle(100 * time.Millisecond)
		w.wantPasses("n1", false, "fenced")
	})
}

// TestNoLongerStrict: a port stays gated to the end of its term.
func TestNoLongerStrict(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		w.strictly("n1", 2, "")
		w.attached("n1", local.AttachRequest{Netns: w.room("n1", "web1")}, 2)
		w.settle(time.Second)
		w.movable()
		w.settle(time.Minute)
		w.wantPasses("n1", true, "in its term")
		if !w.port("n1").Gated {
			t.Error("it is gated no more, in the term in which it was")
		}
		w.owner("web1", "n1", 3)
		w.settle(time.Second)
		w.wantPasses("n1", true, "in the next")
		if w.port("n1").Gated {
			t.Error("it is gated still")
		}
	})
}

// slow is a store whose transactions take a time of the host's clock.
type slow struct {
	mvcc.KV
	now   *time.Duration
	takes time.Duration
	txns  int
}

func (s *slow) Txn(ctx context.Context, r mvcc.TxnRequest) (mvcc.TxnResponse, error) {
	*s.now += s.takes
	s.txns++
	return s.KV.Txn(ctx, r)
}

// TestRenewalsGrant: a renewal moves the gate by when it was sent, if all that is
// granted is as it was, and no fence stands.
func TestRenewalsGrant(t *testing.T) {
	for name, tt := range map[string]struct {
		takes time.Duration
		spoil func(*store.Store)
		many  int
		until time.Duration // 0: the gate is not moved
		txns  int
	}{
		"at once":           {0, nil, 1, time.Minute + 8*time.Second, 1},
		"slowly":            {20 * time.Second, nil, 1, time.Minute + 8*time.Second, 1},
		"another has it":    {0, func(s *store.Store) { ownRecord(t, s, 0, "n2") }, 1, 0, 1},
		"a fence":           {0, func(s *store.Store) { fenceRecord(t, s) }, 1, 0, 1},
		"many":              {0, nil, 300, time.Minute + 8*time.Second, 3},
		"the last of many":  {0, func(s *store.Store) { ownRecord(t, s, 299, "n2") }, 300, 0, 3},
		"the first of many": {0, func(s *store.Store) { ownRecord(t, s, 0, "n2") }, 300, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Minute
			kv := &slow{KV: mvcc.NewMemory(mvcc.Config{}), now: &now, takes: tt.takes}
			host := fake.NewNetwork().NewHost()
			host.SetClock(func() time.Duration { return now })
			driver, err := host.Open()
			if err != nil {
				t.Fatal(err)
			}
			controller := store.New(kv.KV, cluster.Identity{Role: cluster.Controller})
			order := Keeping{Every: time.Second, Record: cluster.Live{NodeID: "id", Grant: 9000}, Order: 7, Grant: 8 * time.Second}
			for i := range tt.many {
				order.Grants = append(order.Grants, ownRecord(t, controller, i, "n1"))
			}
			if tt.spoil != nil {
				tt.spoil(controller)
			}
			k := newKeeper(store.New(kv, cluster.Identity{Role: cluster.Agent, Name: "n1"}), "n1", driver, zap.NewNop())
			k.keep(order)
			k.renew(t.Context())
			until, err := driver.GateUntil()
			if err != nil || until != tt.until || kv.txns != tt.txns || (k.carried() == 7) != (tt.until > 0) {
				t.Errorf("the gate is open until %s: %v; want %s; %d transactions, want %d; carried out: %d", until, err, tt.until, kv.txns, tt.txns, k.carried())
			}
			if k.keep(Keeping{Every: time.Second, Record: order.Record}); tt.until > now {
				k.renew(t.Context())
				if until, _ := driver.GateUntil(); until > now {
					t.Errorf("without anything granted it is open until %s", until)
				}
			}
		})
	}
}

func ownRecord(t *testing.T, s *store.Store, i int, node string) Granted {
	t.Helper()
	key := cluster.KeyEndpointOwn("vpc1", fmt.Sprintf("e%d", i))
	var c store.Change
	store.Set(&c, key, &cluster.EndpointOwn{State: cluster.OwnAssigned, MAC: webMAC, Node: node, Era: 1, Epoch: 2}, nil, 0)
	mod, err := s.Commit(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return Granted{key, mod}
}

func fenceRecord(t *testing.T, s *store.Store) {
	t.Helper()
	var c store.Change
	store.Set(&c, cluster.KeyFence("n1"), &cluster.Fence{NodeID: "id", Why: "silent", Since: cluster.At(time.Now())}, nil, 0)
	if _, err := s.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// TestShorterGrant: before a renewal says that grants are shorter from now on, the gate
// is open no longer than that.
func TestShorterGrant(t *testing.T) {
	now := time.Minute
	host := fake.NewNetwork().NewHost()
	host.SetClock(func() time.Duration { return now })
	driver, err := host.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := driver.SetGate(now + 8*time.Second); err != nil { // by an agent before this one
		t.Fatal(err)
	}
	g := gateKeeper{gater: driver, log: zap.NewNop()}
	until, ok := g.before(Keeping{Grant: 2 * time.Second})
	if is, _ := driver.GateUntil(); !ok || until != now+2*time.Second || is != until {
		t.Errorf("until %s, %v; the gate is open until %s", until, ok, is)
	}
	now += 3 * time.Second // the host was suspended
	g.look()
	if g.isOpen() {
		t.Error("its time is over, and it is taken for open")
	}
}
