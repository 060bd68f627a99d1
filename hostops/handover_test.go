package hostops_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/fake"
)

// end is one end of the only link of VPC blue.
type end struct {
	host   *fake.Host
	driver *fake.Driver
	todo   []hostops.Op
	use    int  // of uses, that its last plan is of
	others bool // it has another peer, by the shared tunnel all the time
}

// uses are how a pair comes to its own tunnel and back, as what is sent by: the
// shared tunnel, there or not, and the pair's own, there or not.
var uses = []struct {
	name                  string
	shared, own           bool
	sharedThere, ownThere bool
}{
	{name: "none", sharedThere: true, shared: true},
	{name: "preparing", sharedThere: true, shared: true, ownThere: true},
	{name: "active", sharedThere: true, own: true, ownThere: true},
	{name: "P2P", own: true, ownThere: true},
	{name: "restoring", sharedThere: true, own: true, ownThere: true},
	{name: "retiring", sharedThere: true, shared: true, ownThere: true},
	{name: "none again", sharedThere: true, shared: true},
}

func endAddr(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i+1)) }

// desired is what use asks of end i.
func (e *end) desired(i, use int) hostops.Desired {
	u := uses[use]
	peer := hostops.Peer{Node: "x", Underlay: endAddr(1 - i)}
	v := hostops.VPC{Name: "blue", VNI: 7, MTU: 1400, VTEP: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100, 0, byte(i + 1)}), 16)}
	t := hostops.Tunnel{Local: endAddr(i), Device: "u0", Port: 4789}
	s := t
	if u.sharedThere {
		p := peer
		p.ReceiveOnly = !u.shared
		s.Peers = []hostops.Peer{p}
		s.ReceiveOnly = p.ReceiveOnly && !e.others
	}
	if e.others {
		s.Peers = append(s.Peers, hostops.Peer{Node: "y", Underlay: netip.MustParseAddr("2001:db8::9")})
	}
	if len(s.Peers) > 0 {
		v.Tunnels = append(v.Tunnels, s)
	}
	if u.ownThere {
		o := t
		o.Pair, o.ReceiveOnly, o.Peers = 8, !u.own, []hostops.Peer{peer}
		v.Tunnels = append(v.Tunnels, o)
	}
	return hostops.Desired{VPCs: []hostops.VPC{v}}
}

// TestHandover: while a pair goes from the shared tunnel to its own and back,
// one end ahead of the other by any number of operations as far as the
// controller lets it, a broadcast arrives at any moment, and twice only between
// the two operations that hand over; and so does what two workloads send to each
// other. Where one end goes on sharing a tunnel with another peer, both say something
// after each operation; else they are quiet at times.
func TestHandover(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := fake.NewNetwork()
		var ends [2]*end
		for i := range ends {
			h := n.NewHost(hostops.Address{Device: "u0", Prefix: netip.PrefixFrom(endAddr(i), 64), MTU: 1500, Up: true})
			d, err := h.Open()
			if err != nil {
				t.Fatal(err)
			}
			ends[i] = &end{host: h, driver: d}
			ops, _ := hostops.Plan(ends[i].desired(i, 0), h.State())
			for _, op := range ops {
				if err := d.Apply(context.Background(), op); err != nil {
					t.Fatal(err)
				}
			}
		}
		ends[1].others = rapid.Bool().Draw(t, "others")
		twice := [2]bool{}
		for ends[0].use < len(uses)-1 || ends[1].use < len(uses)-1 || len(ends[0].todo)+len(ends[1].todo) > 0 {
			i := rapid.IntRange(0, 1).Draw(t, "end")
			e, other := ends[i], ends[1-i]
			if len(e.todo) == 0 {
				// The controller moves both on when both have reported.
				if e.use == len(uses)-1 || e.use > other.use || (e.use == other.use && len(other.todo) > 0) {
					continue
				}
				e.use++
				e.todo, _ = hostops.Plan(e.desired(i, e.use), e.host.State())
				continue
			}
			if err := e.driver.Apply(context.Background(), e.todo[0]); err != nil {
				t.Fatal(err)
			}
			op := e.todo[0]
			e.todo = e.todo[1:]
			for from := range ends {
				got := n.Copies(ends[from].host, ends[1-from].host, "blue")
				if got == 0 || got > 2 || (got == 2 && twice[from] && from == i) {
					t.Fatalf("%d copies of a broadcast from end %d when end %d, %s, has done: %s", got, from, i, uses[e.use].name, op)
				}
				twice[from] = got == 2
			}
			for _, from := range []int{i, 1 - i} {
				if quiet := !ends[1].others && rapid.Bool().Draw(t, "quiet"); !quiet && !n.Tell(ends[from].host, ends[1-from].host, "blue") {
					t.Fatalf("what a workload at end %d sends to one at the other is lost when end %d, %s, has done: %s", from, i, uses[e.use].name, op)
				}
			}
		}
	})
}
