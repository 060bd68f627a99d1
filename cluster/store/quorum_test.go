package store

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/enginetest"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// memberWord in the environment makes the test binary a member of a trio.
const memberWord = "MESHVPC_TEST_MEMBER"

// memberConfig is what a member needs to know.
type memberConfig struct {
	Name, Dir, Client, Peer, All string
}

// member serves etcd until its standard input ends: with the test, at the
// latest.
func member(config string) error {
	var c memberConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	e := embed.NewConfig()
	for word, list := range map[string][]*[]url.URL{c.Client: {&e.ListenClientUrls, &e.AdvertiseClientUrls}, c.Peer: {&e.ListenPeerUrls, &e.AdvertisePeerUrls}} {
		u, err := url.Parse(word)
		if err != nil {
			return err
		}
		for _, l := range list {
			*l = []url.URL{*u}
		}
	}
	e.Name, e.Dir, e.InitialCluster, e.ClusterState = c.Name, c.Dir, c.All, embed.ClusterStateFlagNew
	e.TickMs, e.ElectionMs = 50, 500
	e.UnsafeNoFsync = true
	e.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	if _, err := embed.StartEtcd(e); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// trio is a real etcd of three members, each a process.
type trio struct {
	server // what it writes and reads
	config [3]memberConfig
	ends   [3]func() // kills the member
}

func newTrio(t *testing.T) *trio {
	t.Helper()
	c := &trio{server: server{t: t}}
	ports := enginetest.FreePorts(t, 6)
	var all, endpoints []string
	for i := range c.config {
		m := memberConfig{Name: fmt.Sprintf("m%d", i), Dir: filepath.Join(t.TempDir(), "data"), Client: "http://" + ports[i].String(), Peer: "http://" + ports[3+i].String()}
		c.config[i], c.ends[i] = m, func() {}
		all, endpoints = append(all, m.Name+"="+m.Peer), append(endpoints, m.Client)
	}
	for i := range c.config {
		c.config[i].All = strings.Join(all, ",")
	}
	t.Cleanup(func() { c.end(0, 1, 2) })
	c.begin(0, 1, 2)
	c.connect(endpoints...)
	return c
}

// begin starts members.
func (c *trio) begin(which ...int) {
	c.t.Helper()
	for _, i := range which {
		config, err := json.Marshal(c.config[i])
		if err != nil {
			c.t.Fatal(err)
		}
		p := exec.Command(os.Args[0])
		p.Env = append(os.Environ(), memberWord+"="+string(config))
		p.Stderr = os.Stderr
		if _, err := p.StdinPipe(); err != nil {
			c.t.Fatal(err)
		}
		if err := p.Start(); err != nil {
			c.t.Fatal(err)
		}
		c.ends[i] = func() {
			c.ends[i] = func() {}
			if err := p.Process.Kill(); err != nil {
				c.t.Error(err)
			}
			_ = p.Wait() // it was killed
		}
	}
}

// end kills members.
func (c *trio) end(which ...int) {
	for _, i := range which {
		c.ends[i]()
	}
}

// leader is the index of the member that two say leads.
func (c *trio) leader() int {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		votes, ids := map[uint64]int{}, map[uint64]int{}
		for i, m := range c.config {
			short, cancel := context.WithTimeout(ctx, time.Second)
			if s, err := c.cli.Status(short, m.Client); err == nil {
				votes[s.Leader]++
				ids[s.Header.MemberId] = i
			}
			cancel()
		}
		for id, n := range votes {
			if i, up := ids[id]; up && n >= 2 {
				return i
			}
		}
	}
	c.t.Fatal("nobody leads")
	return -1
}

// handOver makes the leader give way to another.
func (c *trio) handOver() {
	c.t.Helper()
	from := c.leader()
	heir, err := c.cli.Status(c.t.Context(), c.config[(from+1)%3].Client)
	if err != nil {
		c.t.Fatal(err)
	}
	direct, err := client.Dial(client.Config{Endpoints: []string{c.config[from].Client}})
	if err != nil {
		c.t.Fatal(err)
	}
	defer direct.Close()
	if _, err := direct.MoveLeader(c.t.Context(), heir.Header.MemberId); err != nil {
		c.t.Fatal(err)
	}
	if now := c.leader(); now == from {
		c.t.Fatal("the leader did not change: nothing is tested")
	}
}

// TestMirrorWithoutQuorum: a mirror of a real cluster of three lives through a
// change of the leader and its death, is told that the quorum is gone, and shows
// at all times what was committed: nothing is lost, nothing made up, and nothing
// read again as a whole.
func TestMirrorWithoutQuorum(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	m := NewMirror(MirrorConfig{Store: New(c.kv, operator), VerifyEvery: time.Second, MaxBackoff: 200 * time.Millisecond})
	m.Follow(prefixLive)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	stale := func(want bool) {
		t.Helper()
		late := time.After(30 * time.Second)
		for {
			_, err := m.Pull().Stale()
			if (err != nil) == want {
				return
			}
			select {
			case <-m.Changed():
			case <-late:
				t.Fatalf("stale: %v; want %t", err, want)
			}
		}
	}
	c.write(1, liveA, liveB)
	c.await(m)

	// The leader hands over.
	was := c.content()
	c.handOver()
	c.write(2, liveA)
	c.await(m, was)

	// The leader dies.
	was = c.content()
	dead := c.leader()
	c.end(dead)
	c.write(3, liveB)
	c.await(m, was)
	stale(false)

	// The quorum is gone.
	was = c.content()
	second := (dead + 1) % 3
	c.end(second)
	stale(true)
	short, cancelShort := context.WithTimeout(ctx, time.Second)
	defer cancelShort()
	if _, err := c.kv.Txn(short, mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Put(liveA, []byte(live(99)))}}); err == nil {
		t.Error("a write without a quorum was answered")
	}
	if got := m.Pull().content(prefixLive); got != was {
		t.Errorf("without a quorum the view is\n%swant what it was\n%s", got, was)
	}

	// It comes back, without and with the write that nobody answered: etcd may
	// keep it in its log.
	c.begin(dead, second)
	c.leader()
	stale(false)
	c.write(4, liveA)
	c.await(m)
	if got := m.Pull().Lists(prefixLive); got != 1 {
		t.Errorf("listed %d times; want once", got)
	}
}
