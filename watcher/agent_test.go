package watcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/fake"
	"github.com/meshvpc/meshvpc/watcher/observe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a store, an underlay and agents on it, inside a synctest bubble.
type world struct {
	t      *testing.T
	kv     *mvcc.Memory
	net    *fake.Network
	hosts  map[string]*fake.Host
	agents map[string]*Agent
	caches string
	save   func(path string, b []byte) error // of the next agents; nil: to the file
	stop   map[string]func()
	prober observe.Prober           // of the next agents; nil: they observe nobody
	away   bool                     // the store, for the next agents
	now    func() time.Time         // of the next agents; nil: the bubble's
	log    *zap.Logger              // of the next agents
	hooks  map[string]*programs     // of workloads, by node
	moved  map[string]*atomic.Int64 // how often the agent of a node said so
	boot   map[string]string        // ids, by node
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, kv: mvcc.NewMemory(mvcc.Config{}), net: fake.NewNetwork(), hosts: map[string]*fake.Host{}, agents: map[string]*Agent{}, caches: t.TempDir(), stop: map[string]func(){}, moved: map[string]*atomic.Int64{}, boot: map[string]string{}}
	w.put(cluster.Operator, cluster.KeyConfig, &cluster.Config{Cluster: "c", ID: "c1", Era: 1, UnderlayPort: 4789, VNIs: cluster.DefaultVNIRange, Encryption: "none"})
	return w
}

// put writes a record as whoever may.
func (w *world) put(role cluster.Role, key string, r cluster.Record) {
	w.t.Helper()
	var c store.Change
	store.Set(&c, key, r, nil, 0)
	if _, err := store.New(w.kv, cluster.Identity{Role: role}).Commit(w.t.Context(), c); err != nil {
		w.t.Fatal(err)
	}
}

// raw puts or, with an empty value, deletes a key, past all rules.
func (w *world) raw(key, value string) {
	w.t.Helper()
	op := mvcc.Put(key, []byte(value))
	if value == "" {
		op = mvcc.Op{Kind: mvcc.OpDelete, Key: key}
		if strings.HasSuffix(key, "/") {
			op.End = mvcc.PrefixEnd(key)
		}
	}
	if _, err := w.kv.Txn(w.t.Context(), mvcc.TxnRequest{Then: []mvcc.Op{op}}); err != nil {
		w.t.Fatal(err)
	}
}

// proberOf is how the next agent observes others.
func (w *world) proberOf() func(*zap.Logger) (observe.Prober, error) {
	if w.prober == nil {
		return nil
	}
	return func(*zap.Logger) (observe.Prober, error) { return w.prober, nil }
}

func underlayOf(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::10", i)) }

// node registers node i ("n1"…) and makes its host.
func (w *world) node(i int) string {
	name := fmt.Sprintf("n%d", i)
	w.put(cluster.Operator, cluster.KeyNode(name), &cluster.Node{ID: "id-" + name, Datacenter: "dc1", State: cluster.NodeActive, Agent: true})
	w.hosts[name] = w.net.NewHost(hostops.Address{Device: "u0", Prefix: netip.PrefixFrom(underlayOf(i), 64), MTU: 1500, Up: true})
	return name
}

// start runs an agent on a node's host until stopAgent or the test's end.
func (w *world) start(name string) {
	w.t.Helper()
	driver, err := w.hosts[name].Open()
	if err != nil {
		w.t.Fatal(err)
	}
	moved := new(atomic.Int64)
	w.moved[name] = moved
	kv := mvcc.KV(w.kv)
	if w.away {
		kv = away{w.kv}
	}
	a, err := New(Config{
		Node: name, NodeID: "id-" + name, Driver: driver, Cache: filepath.Join(w.caches, name), Version: "test", OS: "fake",
		Store: store.New(kv, cluster.Identity{Role: cluster.Agent, Name: name}), Underlay: []UnderlaySpec{{Device: "u0"}},
		Moved: func(cluster.Underlay) { moved.Add(1) }, Now: w.now, Log: w.log, Prober: w.proberOf(), Hooks: w.hooksOf(name), BootID: w.boot[name],
		Hint: func() netip.Addr {
			w.t.Error("the hint costs a socket in every pass, and the underlay is named")
			return netip.Addr{}
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if w.save != nil {
		a.save = w.save
	}
	w.agents[name] = a
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	w.stop[name] = func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("agent of %s: %v", name, err)
		}
		if err := driver.Close(); err != nil {
			w.t.Error(err)
		}
		delete(w.stop, name)
	}
}

// close stops all agents; it must be deferred inside the bubble.
func (w *world) close() {
	for _, stop := range w.stop {
		stop()
	}
}

// settle lets all that is under way come to rest, and d pass.
func (w *world) settle(d time.Duration) {
	time.Sleep(d) // of the bubble's clock
	synctest.Wait()
}

// vpc assigns vpc1 to nodes 1 to n as the controller does.
func (w *world) vpc(n int) {
	w.put(cluster.Controller, cluster.KeyVPCNet("vpc1"), &cluster.VPCNet{Phase: cluster.PhaseActive, VNI: 10000, MTU: 1430, PeerNetwork: netip.MustParsePrefix("10.100.0.0/24")})
	for i := range n {
		w.member(i + 1)
	}
}

func (w *world) member(i int) {
	name := fmt.Sprintf("n%d", i)
	w.put(cluster.Controller, cluster.KeyMember("vpc1", name), &cluster.Member{NodeID: "id-" + name, Datacenter: "dc1",
		VTEP: netip.AddrFrom4([4]byte{10, 100, 0, byte(i)}), UnderlayIPv6: underlayOf(i), Transport: cluster.Multipoint})
	w.put(cluster.Controller, cluster.KeyHostVPC(name, "vpc1"), &cluster.HostVPC{State: cluster.AssignedMember})
}

func (w *world) get(name string) (store.Item[*cluster.VPCStatus], error) {
	return store.Get[*cluster.VPCStatus](w.t.Context(), store.New(w.kv, cluster.Identity{Role: cluster.Operator}), cluster.KeyVPCStatus(name, "vpc1"))
}

func (w *world) status(name string) *cluster.VPCStatus {
	w.t.Helper()
	it, err := w.get(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return it.Value
}

func (w *world) revision() int64 { return w.kv.Revision() }

// mesh makes three nodes with agents in vpc1, at rest.
func mesh(t *testing.T) *world {
	w := newWorld(t)
	for i := range 3 {
		w.start(w.node(i + 1))
	}
	w.vpc(3)
	w.settle(5 * time.Second)
	return w
}

// flood lists the peers of a host's tunnel.
func (w *world) flood(name string) []string {
	var peers []string
	for a := range w.hosts[name].State().Devices["mv6-10000"].Flood.Keys() {
		peers = append(peers, a.String())
	}
	slices.Sort(peers)
	return peers
}

func (w *world) wantWhole(name string) {
	w.t.Helper()
	want := []string{}
	for i := range 3 {
		if fmt.Sprintf("n%d", i+1) != name {
			want = append(want, underlayOf(i+1).String())
		}
	}
	if got := w.flood(name); !slices.Equal(got, want) {
		w.t.Errorf("%s floods to %v; want %v", name, got, want)
	}
}

func bubble(t *testing.T, f func(t *testing.T)) { t.Helper(); synctest.Test(t, f) }

func TestMeshComesUpAndReports(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := mesh(t)
		defer w.close()
		for name := range w.hosts {
			w.wantWhole(name)
			s := w.status(name)
			if !s.Ready || s.State != cluster.HostMember || s.Reason != "" {
				t.Errorf("status of %s = %+v; want a ready member", name, s)
			}
			for other := range w.hosts {
				if other != name && cluster.LinkBetween(name, other, s, w.status(other)).State != cluster.LinkUp {
					t.Errorf("link %s – %s is not up: %+v", name, other, s.Links)
				}
			}
		}
	})
}

func TestJoinCostsTheOthersNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := mesh(t)
		defer w.close()
		name := w.node(4)
		before := w.revision()
		w.start(name)
		w.member(4)
		w.settle(5 * time.Second)
		// live, node status, VPC status of the new host; member and assignment by the test.
		if n := w.revision() - before; n > 5 {
			t.Errorf("a join made %d revisions; want at most 5", n)
		}
		if l := cluster.LinkBetween("n1", name, w.status("n1"), w.status(name)); l.State != cluster.LinkUp {
			t.Errorf("link n1 – %s = %+v; want up", name, l)
		}
	})
}

func TestQuietAtRest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := mesh(t)
		defer w.close()
		before, writes := w.revision(), w.hosts["n1"].Writes()
		w.settle(10 * time.Minute)
		if n := w.revision() - before; n != 0 {
			t.Errorf("%d revisions in ten quiet minutes; want none", n)
		}
		if n := w.hosts["n1"].Writes() - writes; n != 0 {
			t.Errorf("%d writes to the kernel in ten quiet minutes; want none", n)
		}
	})
}

// TestAnotherHistory makes the store lose what agents read: by compaction, which
// costs no write, and by going back in time, after which they say all again.
func TestAnotherHistory(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := mesh(t)
		defer w.close()
		old := w.kv.Snapshot()
		w.settle(time.Minute)
		for _, name := range []string{"n1", "n2", "n3"} {
			w.put(cluster.Operator, cluster.KeyNode(name), &cluster.Node{ID: "id-" + name, Datacenter: "dc2", State: cluster.NodeActive, Agent: true})
		}
		w.settle(time.Minute)
		before, own := w.revision(), w.own("n1")
		if err := w.kv.Compact(before); err != nil {
			t.Fatal(err)
		}
		w.settle(10 * time.Minute)
		if n := w.revision() - before; n != 0 {
			t.Errorf("%d revisions after a compaction; want none", n)
		}
		w.kv.Restore(old)
		w.raw(cluster.PrefixStatus("n1"), "")
		w.settle(40 * time.Second)
		if got := w.own("n1"); !slices.Equal(got, own) {
			t.Errorf("own records after the store went back are %v; want %v", got, own)
		}
	})
}

func TestReadyMeansThatARebootBringsItBack(t *testing.T) {
	for name, tt := range map[string]struct {
		err     error
		problem bool
	}{
		"a slow disk": {nil, false},
		"a full disk": {errors.New("no space left on device"), true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.close()
				var saved []byte
				w.save = func(_ string, b []byte) error {
					time.Sleep(time.Minute)
					saved = b
					return tt.err
				}
				w.start(w.node(1))
				w.vpc(1)
				for range 10 * 60 {
					w.settle(time.Second)
					if it, err := w.get("n1"); err == nil && it.Value.Ready {
						break
					}
				}
				if s := w.status("n1"); !s.Ready {
					t.Errorf("status = %+v; want ready", s)
				}
				if tt.err == nil && !bytes.Contains(saved, []byte(`"vtep":"10.100.0.1"`)) {
					t.Errorf("ready was said before the cache held the VPC: %s", saved)
				}
				it, err := store.Get[*cluster.NodeStatus](t.Context(), store.New(w.kv, cluster.Identity{Role: cluster.Operator}), cluster.KeyNodeStatus("n1"))
				if err != nil || (len(it.Value.Problems) > 0) != tt.problem {
					t.Errorf("problems = %+v, %v; want some: %v", it.Value, err, tt.problem)
				}
			})
		})
	}
}

func TestTamperingIsRepairedAndCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := mesh(t)
		defer w.close()
		if err := w.hosts["n1"].DeleteDevice("mv6-10000"); err != nil {
			t.Fatal(err)
		}
		w.settle(5 * time.Second)
		w.wantWhole("n1")
		if s := w.status("n1"); s.Repairs == 0 || !s.Ready {
			t.Errorf("status after repair = %+v; want ready, repairs counted", s)
		}
	})
}

func TestMistakesHold(t *testing.T) {
	for name, mistake := range map[string]func(w *world){
		"vpcs/ and hosts/ deleted": func(w *world) { w.raw(cluster.PrefixVPCs, ""); w.raw(cluster.PrefixHosts, "") },
		"members deleted":          func(w *world) { w.raw(cluster.PrefixMembers("vpc1"), "") },
		"assignment deleted":       func(w *world) { w.raw(cluster.KeyHostVPC("n1", "vpc1"), "") },
		"everything deleted":       func(w *world) { w.raw(cluster.Root, "") },
		"net is garbage":           func(w *world) { w.raw(cluster.KeyVPCNet("vpc1"), "{\x00") },
		"net needs a newer version": func(w *world) {
			w.raw(cluster.KeyVPCNet("vpc1"), `{"needs":99,"phase":"gone"}`)
		},
		"a member is garbage": func(w *world) { w.raw(cluster.KeyMember("vpc1", "n2"), "garbage") },
		"another cluster's": func(w *world) {
			w.raw(cluster.KeyConfig, `{"id":"x","era":1,"underlay_port":1,"vni_range":{"first":1,"last":2}}`)
		},
		"the store is down":    func(w *world) { w.kv.SetDown(true) },
		"the node record gone": func(w *world) { w.raw(cluster.KeyNode("n1"), "") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := mesh(t)
				defer w.close()
				mistake(w)
				w.settle(3 * time.Minute)
				w.wantWhole("n1")
				w.stop["n1"]()
				w.start("n1") // and so does the next agent, from the cache
				w.settle(3 * time.Minute)
				w.wantWhole("n1")
				w.kv.SetDown(false)
			})
		})
	}
}

func TestLeavingIsAnExplicitWord(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := mesh(t)
		defer w.close()
		w.put(cluster.Controller, cluster.KeyHostVPC("n1", "vpc1"), &cluster.HostVPC{State: cluster.AssignedLeaving})
		w.settle(time.Second)
		if got := w.hosts["n1"].State(); got.Carries(10000) {
			t.Errorf("after leaving, the host still has %v", got.Devices)
		}
		if s := w.status("n1"); s.State != cluster.HostLeft {
			t.Errorf("status = %+v; want left", s)
		}
		w.raw(cluster.KeyHostVPC("n1", "vpc1"), "")
		w.settle(time.Second)
		if r, err := w.kv.Range(t.Context(), mvcc.RangeRequest{Key: cluster.KeyVPCStatus("n1", "vpc1")}); err != nil || len(r.Keys) != 0 {
			t.Errorf("status record of a VPC that is over: %v, %v; want none", r.Keys, err)
		}
	})
}

// TestLeavingWhatWasForgotten tells a host to leave a VPC that its agent does
// not know of: it was killed before the cache was saved.
func TestLeavingWhatWasForgotten(t *testing.T) {
	for name, lose := range map[string]func(w *world){
		"tunnel, bridge and port known by the net record": func(w *world) {},
		"net record gone": func(w *world) { w.raw(cluster.KeyVPCNet("vpc1"), "") },
		"net record and bridge gone": func(w *world) {
			w.raw(cluster.KeyVPCNet("vpc1"), "")
			if err := w.hosts["n1"].DeleteDevice("vpc1"); err != nil {
				w.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := mesh(t)
				defer w.close()
				w.stop["n1"]()
				if err := os.Remove(filepath.Join(w.caches, "n1")); err != nil {
					t.Fatal(err)
				}
				w.put(cluster.Controller, cluster.KeyHostVPC("n1", "vpc1"), &cluster.HostVPC{State: cluster.AssignedLeaving})
				lose(w)
				w.start("n1")
				w.settle(5 * time.Second)
				if s := w.hosts["n1"].State(); len(s.Devices) > 0 || len(s.Namespaces) > 0 || len(s.Filter.VNIs) > 0 {
					t.Errorf("left behind: %+v", s)
				}
				if s := w.status("n1"); s.State != cluster.HostLeft {
					t.Errorf("status = %+v; want left", s)
				}
			})
		})
	}
}

// TestForgottenAndTakenFromTheRecords says that a host has what nobody knows of.
func TestForgottenAndTakenFromTheRecords(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := mesh(t)
		defer w.close()
		w.stop["n1"]()
		if err := os.Remove(filepath.Join(w.caches, "n1")); err != nil {
			t.Fatal(err)
		}
		w.raw(cluster.KeyHostVPC("n1", "vpc1"), "")
		w.raw(cluster.PrefixStatus("n1"), "")
		w.start("n1")
		w.settle(3 * time.Minute)
		w.wantWhole("n1")
		if s := w.status("n1"); s.State != cluster.HostHolding || s.VNI != 10000 {
			t.Errorf("status = %+v; want that it holds VNI 10000", s)
		}
		w.put(cluster.Controller, cluster.KeyHostVPC("n1", "vpc1"), &cluster.HostVPC{State: cluster.AssignedLeaving})
		w.settle(5 * time.Second)
		if s := w.hosts["n1"].State(); len(s.Devices) > 0 || len(s.Namespaces) > 0 || len(s.Filter.VNIs) > 0 {
			t.Errorf("left behind: %+v", s)
		}
		if s := w.status("n1"); s.State != cluster.HostLeft {
			t.Errorf("status = %+v; want left", s)
		}
	})
}

func TestRemovedNodeCleansUp(t *testing.T) {
	for name, off := range map[string]bool{"while it runs": false, "while it was off": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := mesh(t)
				defer w.close()
				if off {
					w.stop["n1"]()
				}
				w.put(cluster.Operator, cluster.KeyNode("n1"), &cluster.Node{ID: "id-n1", Datacenter: "dc1", State: cluster.NodeLeft, Agent: true})
				w.raw(cluster.PrefixHost("n1"), "")
				w.raw(cluster.KeyMember("vpc1", "n1"), "")
				if off {
					w.start("n1")
				}
				w.settle(5 * time.Second)
				if got := w.hosts["n1"].State(); got.Carries(10000) {
					t.Errorf("a removed node still has %v", got.Devices)
				}
				if got, want := w.flood("n2"), []string{underlayOf(3).String()}; !slices.Equal(got, want) {
					t.Errorf("n2 floods to %v; want %v", got, want)
				}
			})
		})
	}
}

func TestTakenNameStaysMute(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := mesh(t)
		defer w.close()
		w.put(cluster.Operator, cluster.KeyNode("n1"), &cluster.Node{ID: "id-other", Datacenter: "dc1", State: cluster.NodeActive, Agent: true})
		w.settle(time.Second)
		before := w.revision()
		if err := w.hosts["n1"].DeleteDevice("mv6-10000"); err != nil {
			t.Fatal(err)
		}
		w.settle(time.Minute)
		w.wantWhole("n1")
		if n := w.revision() - before; n != 0 {
			t.Errorf("an agent whose name is taken made %d revisions; want none", n)
		}
	})
}

func TestOwnRecordsAreWrittenAgain(t *testing.T) {
	for name, mistake := range map[string]func(w *world){
		"reports deleted": func(w *world) { w.raw(cluster.PrefixStatus("n1"), "") },
		"live deleted":    func(w *world) { w.raw(cluster.KeyLive("n1"), "") },
		"reports spoiled": func(w *world) {
			w.raw(cluster.KeyNodeStatus("n1"), "garbage")
			w.raw(cluster.KeyVPCStatus("n1", "vpc1"), `{"state":"gone"}`)
		},
		"a report of what is not here": func(w *world) {
			w.raw(cluster.KeyVPCStatus("n1", "vpc2"), `{"node_id":"id-n1","state":"member"}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := mesh(t)
				defer w.close()
				before := w.own("n1")
				mistake(w)
				w.settle(2 * time.Minute)
				if after := w.own("n1"); !slices.Equal(after, before) {
					t.Errorf("own records are %v; want %v again", after, before)
				}
			})
		})
	}
}

// own lists a node's own records that can be read.
func (w *world) own(name string) (good []string) {
	w.t.Helper()
	keys, err := ReadOwn(w.t.Context(), store.New(w.kv, cluster.Identity{Role: cluster.Operator}), name)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, kv := range keys {
		if _, err := cluster.Decode(kv.Key, kv.Value); err == nil {
			good = append(good, kv.Key)
		}
	}
	return good
}

// TestStrayVPCIsReported: an agent that finds a VPC of ours which neither its
// cache nor the records know keeps it and says so.
func TestStrayVPCIsReported(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := mesh(t)
		defer w.close()
		w.stop["n1"]()
		w.raw(cluster.PrefixVPCs, "")
		w.raw(cluster.PrefixHosts, "")
		w.raw(cluster.PrefixStatus("n1"), "")
		if err := os.Remove(filepath.Join(w.caches, "n1")); err != nil {
			t.Fatal(err)
		}
		w.start("n1")
		w.settle(3 * time.Minute)
		w.wantWhole("n1")
		if s := w.status("n1"); s.State != cluster.HostHolding || s.VNI != 10000 {
			t.Errorf("status = %+v; want holding, with its VNI", s)
		}
		w.put(cluster.Controller, cluster.KeyHostVPC("n1", "vpc1"), &cluster.HostVPC{State: cluster.AssignedLeaving})
		w.settle(time.Minute)
		if got := w.hosts["n1"].State(); got.Carries(10000) {
			t.Errorf("after the word to leave, the host still has %v", got.Devices)
		}
	})
}

// TestCheckComesBeforeTheHost: an agent on a host that lacks something ends, and
// has changed nothing, though it had its records.
func TestCheckComesBeforeTheHost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.vpc(2)
		name := w.node(1)
		driver, err := w.hosts[name].Open()
		if err != nil {
			t.Fatal(err)
		}
		defer driver.Close()
		lacks, writes := errors.New("no bridge"), w.hosts[name].Writes()
		a, err := New(Config{
			Node: name, NodeID: "id-" + name, Driver: driver, Cache: filepath.Join(w.caches, name),
			Store: store.New(w.kv, cluster.Identity{Role: cluster.Agent, Name: name}), Underlay: []UnderlaySpec{{Device: "u0"}},
			Check: func(context.Context) error { time.Sleep(time.Second); return lacks }, // of the bubble's clock
		})
		if err != nil {
			t.Fatal(err)
		}
		before := w.revision()
		if err := a.Run(t.Context()); !errors.Is(err, lacks) {
			t.Errorf("Run ends with %v; want %v", err, lacks)
		}
		if n := w.hosts[name].Writes() - writes; n != 0 || w.revision() != before {
			t.Errorf("%d writes to the kernel, revision %d after %d; want none", n, w.revision(), before)
		}
	})
}
