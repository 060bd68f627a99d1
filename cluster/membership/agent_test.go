package membership_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/fake"
	"github.com/meshvpc/meshvpc/watcher"
)

// fleet is a guarded store with real agents on hosts that are not.
type fleet struct {
	*guarded
	net     *fake.Network
	refused *observer.ObservedLogs
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	core, logs := observer.New(zapcore.WarnLevel)
	f := &fleet{guard(t, membership.AuthorizerConfig{Log: zap.New(core)}).run(), fake.NewNetwork(), logs}
	f.put(cluster.KeyConfig, &cluster.Config{Cluster: "c", ID: "c1", Era: 1, UnderlayPort: 4789, VNIs: cluster.DefaultVNIRange, Encryption: "none"})
	return f
}

// wantNoRefusal is what a test of a well-behaved agent ends with.
func (f *fleet) wantNoRefusal() {
	f.t.Helper()
	for _, e := range f.refused.FilterMessage("refused").All() {
		f.t.Errorf("refused: %v", e.ContextMap())
	}
}

func underlay(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::10", i)) }

// start runs an agent as node i, whose credential is c, until the test ends.
func (f *fleet) start(i int, c membership.Credential) (stop func()) {
	f.t.Helper()
	name := fmt.Sprint("n", i)
	host := f.net.NewHost(hostops.Address{Device: "u0", Prefix: netip.PrefixFrom(underlay(i), 64), MTU: 1500, Up: true})
	driver, err := host.Open()
	if err != nil {
		f.t.Fatal(err)
	}
	cli, err := client.Dial(client.Config{Endpoints: f.engine.Endpoints(), TLS: membership.Dialer(c.Load), SyncInterval: 50 * time.Millisecond})
	if err != nil {
		f.t.Fatal(err)
	}
	a, err := watcher.New(watcher.Config{
		Node: name, NodeID: "id-" + name, Driver: driver, Cache: filepath.Join(f.t.TempDir(), name), Version: "test", OS: "fake",
		Store: store.New(client.New(cli), cluster.Identity{Role: cluster.Agent, Name: name}), Underlay: []watcher.UnderlaySpec{{Device: "u0"}},
		Resync: 200 * time.Millisecond, // it looks at its own records as often
	})
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := errors.Join(<-ended, driver.Close(), cli.Close()); err != nil {
				f.t.Errorf("agent of %s: %v", name, err)
			}
		}
	}
	f.t.Cleanup(stop)
	return stop
}

// assign gives node i a part in a VPC, as the controller does: it hears of it
// only when all is there.
func (f *fleet) assign(i int, vpc string, vni cluster.VNI) {
	f.t.Helper()
	name := fmt.Sprint("n", i)
	f.put(cluster.KeyVPCNet(vpc), &cluster.VPCNet{Phase: cluster.PhaseActive, VNI: vni, MTU: 1430, PeerNetwork: netip.MustParsePrefix("10.100.0.0/24")})
	f.put(cluster.KeyMember(vpc, name), &cluster.Member{NodeID: "id-" + name, Datacenter: "dc1",
		VTEP: netip.AddrFrom4([4]byte{10, 100, 0, byte(i)}), UnderlayIPv6: underlay(i), Transport: cluster.Multipoint})
	f.put(cluster.KeyHostVPC(name, vpc), &cluster.HostVPC{State: cluster.AssignedMember})
}

func (f *fleet) leave(name, vpc string) {
	f.t.Helper()
	f.put(cluster.KeyHostVPC(name, vpc), &cluster.HostVPC{State: cluster.AssignedLeaving})
}

func record[T cluster.Record](f *fleet, key string) T {
	s := store.New(client.New(f.server), cluster.Identity{Role: cluster.Operator})
	it, err := store.Get[T](f.t.Context(), s, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		f.t.Error(err)
	}
	return it.Value
}

func (f *fleet) status(name, vpc string) *cluster.VPCStatus {
	return record[*cluster.VPCStatus](f, cluster.KeyVPCStatus(name, vpc))
}

func (f *fleet) is(name, vpc string, state cluster.HostState) func() bool {
	return func() bool { s := f.status(name, vpc); return s != nil && s.State == state }
}

// TestAgentsMayDoTheirWork: from the start of two agents to the end of a VPC,
// nothing that they ask for is refused.
func TestAgentsMayDoTheirWork(t *testing.T) {
	f := newFleet(t)
	for i := range 2 {
		f.start(i+1, f.node(fmt.Sprint("n", i+1)))
	}
	f.assign(1, "blue", 10000)
	f.assign(2, "blue", 10000)
	eventually(t, "the mesh is up", func() bool {
		x, y := f.status("n1", "blue"), f.status("n2", "blue")
		return x != nil && y != nil && x.Ready && y.Ready && cluster.LinkBetween("n1", "n2", x, y).State == cluster.LinkUp
	})
	eventually(t, "it is live", func() bool { return record[*cluster.Live](f, cluster.KeyLive("n1")) != nil })
	f.put(cluster.KeyVPCPing("blue"), &cluster.PingRequest{ID: "p1", Count: 1})
	eventually(t, "a ping is answered", func() bool { return record[*cluster.PingResult](f, cluster.KeyPingResult("n1", "blue")) != nil })
	f.delete(cluster.KeyNodeStatus("n1"))
	eventually(t, "a lost report comes again", func() bool { return record[*cluster.NodeStatus](f, cluster.KeyNodeStatus("n1")) != nil })
	f.leave("n1", "blue")
	eventually(t, "the VPC is taken down", f.is("n1", "blue", cluster.HostLeft))
	f.delete(cluster.KeyMember("blue", "n1"))
	f.delete(cluster.KeyHostVPC("n1", "blue"))
	eventually(t, "the report goes", func() bool { return f.status("n1", "blue") == nil })
	f.wantNoRefusal()
}

// TestLostAssignment: a host that holds a VPC without an assignment still
// reports it.
func TestLostAssignment(t *testing.T) {
	f := newFleet(t)
	f.start(1, f.node("n1"))
	f.assign(1, "blue", 10000)
	eventually(t, "the VPC is there", func() bool { s := f.status("n1", "blue"); return s != nil && s.Ready })
	f.delete(cluster.KeyHostVPC("n1", "blue"))
	eventually(t, "it says that it holds", f.is("n1", "blue", cluster.HostHolding))
}

// TestManyVPCsAtStart: the quota of a node is no hindrance to an agent with a
// lot to do.
func TestManyVPCsAtStart(t *testing.T) {
	const n = 200
	f := newFleet(t)
	c := f.node("n1")
	for i := range n {
		f.assign(1, fmt.Sprint("v", i), cluster.VNI(10000+i))
	}
	f.start(1, c)
	eventually(t, "all are reported", func() bool {
		r, err := f.server.Get(t.Context(), cluster.KeyVPCStatus("n1", ""), prefix)
		return err == nil && r.Count == n
	})
	f.wantNoRefusal()
}

// TestAgentOfARemovedNode: it takes down what it has and says so, whether it was
// there at the time or off.
func TestAgentOfARemovedNode(t *testing.T) {
	f := newFleet(t)
	on, off := f.node("n1"), f.node("n2")
	f.start(1, on)
	stop := f.start(2, off)
	for i, name := range []string{"n1", "n2"} {
		f.assign(i+1, "blue", 10000)
		eventually(t, "the VPC is there", func() bool { s := f.status(name, "blue"); return s != nil && s.Ready })
	}
	stop()
	f.setNode("n1", on, cluster.NodeLeft)
	f.setNode("n2", off, cluster.NodeLeft)
	eventually(t, "the one that was on has left", f.is("n1", "blue", cluster.HostLeft))
	f.start(2, off)
	eventually(t, "the one that was off has left", f.is("n2", "blue", cluster.HostLeft))
}
