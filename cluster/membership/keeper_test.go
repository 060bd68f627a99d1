package membership

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/enginetest"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
	"github.com/meshvpc/meshvpc/cluster/membership/voters"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// flock are servers in this process, each a real etcd member with a Keeper whose
// clock and looks are the test's.
type flock struct {
	t       *testing.T
	now     time.Time
	servers map[string]*sheep
}

type sheep struct {
	ports  []netip.AddrPort
	cli    *clientv3.Client
	keeper *Keeper
	stop   func()
}

const flockGrace = 8 * time.Second

// start runs a member, the first or one that joins as a learner, and writes its record.
func (f *flock) start(name, datacenter string) {
	f.t.Helper()
	s := &sheep{ports: enginetest.FreePorts(f.t, 2)}
	cfg := etcd.Config{Name: name, DataDir: f.t.TempDir(), NoSync: true, ListenClient: s.ports[:1], ListenPeer: s.ports[1:]}
	if voter := f.voter(); voter != nil {
		f.until("a learner is added", func() error {
			added, err := voter.cli.MemberAddAsLearner(f.soon(), []string{"http://" + s.ports[1].String()})
			if err == nil {
				cfg.Join = peersOf(added.Members, name, "http://"+s.ports[1].String())
			}
			return err
		})
	}
	engine, err := etcd.New(cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	var end error
	go func() { end = engine.Run(ctx); close(ended) }()
	select {
	case <-engine.Ready():
	case <-ended:
		f.t.Fatal(end)
	case <-time.After(time.Minute):
		f.t.Fatalf("%s does not become ready", name)
	}
	if s.cli, err = client.Dial(client.Config{Endpoints: engine.Endpoints()}); err != nil {
		f.t.Fatal(err)
	}
	s.stop = sync.OnceFunc(func() {
		s.cli.Close()
		cancel()
		<-ended
		delete(f.servers, name)
	})
	f.t.Cleanup(s.stop)
	s.keeper = NewKeeper(KeeperConfig{Client: s.cli, Own: engine.Endpoints()[0], Now: func() time.Time { return f.now },
		Store:  store.New(client.New(s.cli), cluster.Identity{Role: cluster.Operator}),
		Policy: voters.Policy{Grace: flockGrace, Stabilization: 3 * time.Second}})
	f.servers[name] = s
	f.commit("record of "+name, func(c *store.Change) error {
		store.Create(c, cluster.KeyServer(name), &cluster.Server{Datacenter: datacenter, Address: s.ports[0].String(), Peer: s.ports[1].String(), Why: whyNew, Joined: cluster.At(f.now)})
		return nil
	})
}

// soon bounds a call.
func (f *flock) soon() context.Context {
	ctx, cancel := context.WithTimeout(f.t.Context(), 3*time.Second)
	f.t.Cleanup(cancel)
	return ctx
}

// voter is a server that has a vote, by name.
func (f *flock) voter() *sheep {
	for _, name := range slices.Sorted(maps.Keys(f.servers)) {
		s := f.servers[name]
		if st, err := s.cli.Status(f.soon(), s.keeper.cfg.Own); err == nil && !st.IsLearner {
			return s
		}
	}
	return nil
}

// until looks, each time a second of the Keepers' clock later, until there is no
// error.
func (f *flock) until(what string, look func() error) {
	f.t.Helper()
	end := time.Now().Add(time.Minute)
	for {
		err := look()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			f.t.Fatalf("%s: %v", what, err)
		}
		f.pass()
		time.Sleep(20 * time.Millisecond) // raft's own clock is real
	}
}

// pass has each Keeper look once, a second after the last time.
func (f *flock) pass() {
	f.now = f.now.Add(time.Second)
	for _, s := range f.servers {
		if _, err := s.keeper.pass(f.soon()); err != nil {
			f.t.Log(err) // it looks again
		}
	}
}

func (f *flock) commit(what string, change func(*store.Change) error) {
	f.t.Helper()
	f.until(what, func() error {
		voter := f.voter()
		if voter == nil {
			return errors.New("nobody votes")
		}
		var c store.Change
		if err := change(&c); err != nil {
			return err
		}
		_, err := voter.keeper.cfg.Store.Commit(f.soon(), c)
		return err
	})
}

// remove does what `node remove` does.
func (f *flock) remove(name string) {
	f.t.Helper()
	f.commit("node remove", func(c *store.Change) error {
		store.Create(c, cluster.KeyNode(name), &cluster.Node{ID: "id-" + name, Datacenter: "dc", State: cluster.NodeLeft, Joined: cluster.At(f.now)})
		it, err := store.Get[*cluster.Server](f.soon(), f.voter().keeper.cfg.Store, cluster.KeyServer(name))
		c.Remove(cluster.KeyServer(name), it.Mod)
		return err
	})
}

// members is "voters/learners" as a server that answers knows them, sorted.
func (f *flock) members() string {
	for _, s := range f.servers {
		list, err := s.cli.MemberList(f.soon(), clientv3.WithSerializable())
		if err != nil {
			continue
		}
		var voters, learners []string
		for _, m := range list.Members {
			if m.IsLearner {
				learners = append(learners, m.Name)
			} else {
				voters = append(voters, m.Name)
			}
		}
		slices.Sort(voters)
		slices.Sort(learners)
		return strings.Join(voters, " ") + "/" + strings.Join(learners, " ")
	}
	return ""
}

func (f *flock) await(want string) {
	f.t.Helper()
	f.until("members "+want, func() error {
		if got := f.members(); got != want {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
}

func (f *flock) leader() string {
	for name, s := range f.servers {
		if st, err := s.cli.Status(f.soon(), s.keeper.cfg.Own); err == nil && st.Leader == st.Header.MemberId {
			return name
		}
	}
	return ""
}

// why is what the record of a server says of it, and whether it votes.
func (f *flock) why(name string) string {
	f.t.Helper()
	it, err := store.Get[*cluster.Server](f.soon(), f.voter().keeper.cfg.Store, cluster.KeyServer(name))
	if err != nil {
		f.t.Fatal(err)
	}
	return fmt.Sprintf("%v: %s", it.Value.Voter, it.Value.Why)
}

// TestKeeper takes real members through their lives: two learners grow one voter
// to three, a dead one is replaced after the grace and not before, the leader is
// taken out by way of another, and of two that are left one stands by.
func TestKeeper(t *testing.T) {
	f := &flock{t: t, now: time.Now(), servers: map[string]*sheep{}}
	f.start("s1", "a")
	f.start("s2", "b")
	f.pass()
	f.pass()
	if got := f.members(); got != "s1/s2" {
		t.Errorf("members %s: one more does not vote", got)
	}
	f.start("s3", "c")
	f.await("s1 s2 s3/")
	f.until("why", func() error {
		if got := f.why("s3"); got != "true: votes: one of 3, of 1 in c" {
			return errors.New(got)
		}
		return nil
	})

	f.servers["s3"].stop()
	f.start("s4", "c")
	f.pass()
	for before := f.now; f.now.Sub(before) < flockGrace-5*time.Second; f.pass() {
		if got := f.members(); got != "s1 s2 s3/s4" {
			t.Fatalf("%v after s3 died: members %s", f.now.Sub(before), got)
		}
	}
	f.await("s1 s2 s4/")
	f.pass()
	if got := f.why("s3"); !strings.HasPrefix(got, "false: "+whyOut+"silent for longer than 8s, and s4 is ready") {
		t.Errorf("why: %s", got)
	}

	leader := f.leader()
	rest := slices.DeleteFunc([]string{"s1", "s2", "s4"}, func(n string) bool { return n == leader })
	f.remove(leader)
	f.until("one is left, and no leader leaves by itself", func() error {
		got := f.members()
		if voters, _, _ := strings.Cut(got, "/"); voters != rest[0] && voters != rest[1] {
			return errors.New(got)
		}
		return nil
	})
}

// TestKeeperWithoutQuorum: however long two of three are silent, nothing is done.
func TestKeeperWithoutQuorum(t *testing.T) {
	f := &flock{t: t, now: time.Now(), servers: map[string]*sheep{}}
	for _, name := range []string{"s1", "s2", "s3"} {
		f.start(name, name)
	}
	f.await("s1 s2 s3/")
	f.servers["s1"].stop()
	f.servers["s2"].stop()
	for range 3 {
		f.now = f.now.Add(time.Hour)
		f.pass()
	}
	if got := f.members(); got != "s1 s2 s3/" {
		t.Errorf("members %s", got)
	}
}
