package linux

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// TestFencedHost: whatever a fenced host sends arrives nowhere by any VPC, nor does
// anything get to it by a tunnel; all others go on, and so does it afterwards.
func TestFencedHost(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "ipv4", true: "ipv6"}[v6], func(t *testing.T) {
			hosts := newUnderlay(t, 3, 1500)
			vpcs := make([][]hostops.VPC, len(hosts))
			for i, h := range hosts {
				vpcs[i] = []hostops.VPC{mesh(hosts, i, "blue", 10000, v6), mesh(hosts, i, "red", 10001, v6)}
				h.reconcile(false, vpcs[i]...)
			}
			at := func(i int) netip.Addr {
				if v6 {
					return hosts[i].v6
				}
				return hosts[i].v4
			}
			fence := func(as ...netip.Addr) {
				t.Helper()
				r := hosts[0].ops.Reconcile(t.Context(), hostops.Desired{VPCs: vpcs[0], Fenced: as}, false)
				if !r.Fenced || len(r.Problems) > 0 || len(r.Applied) != 1 {
					t.Fatalf("fence %v: %+v", as, r)
				}
			}
			for _, h := range hosts[1:] {
				must(t, h.reach("blue", vtep(0).Addr(), 0))
				must(t, h.reach("red", vtep(0).Addr(), 0))
			}
			x, y, far := hosts[0].tenant("blue", "t0"), hosts[0].tenant("red", "t1"), hosts[2].tenant("blue", "t0")
			src := cluster.MAC{2, 0, 0, 0, 0, 9}
			say := func(from int, vni cluster.VNI, text string) {
				vxlan(t, hosts[from].ns, at(from), at(0), vni, message(src, text))
			}
			fence(at(2))
			repeat(func() { say(2, 10000, "fenced"); far.send(message(far.mac, "fenced tenant")) })
			if got := x.until("end", func() { say(1, 10000, "end") }); len(got) > 0 {
				t.Errorf("blue received %v of a fenced host", got)
			}
			repeat(func() { say(2, 10001, "fenced") })
			if got := y.until("end", func() { say(1, 10001, "end") }); len(got) > 0 {
				t.Errorf("red received %v of a fenced host", got)
			}
			far.drain()
			repeat(func() { x.send(message(x.mac, "to the fenced")) })
			if got := far.until("end", func() { vxlan(t, hosts[1].ns, at(1), at(2), 10000, message(src, "end")) }); len(got) > 0 {
				t.Errorf("the fenced host received %v", got)
			}
			if err := hosts[0].ping("red", vtep(2).Addr(), 0); !errors.Is(err, hostops.ErrNoAnswer) {
				t.Errorf("ping of a fenced host: %v", err)
			}
			must(t, hosts[0].reach("blue", vtep(1).Addr(), 0))
			must(t, hosts[2].reach("red", vtep(1).Addr(), 0))

			fence()
			must(t, hosts[0].reach("blue", vtep(2).Addr(), 0))
			x.until("after", func() { say(2, 10000, "after") })
		})
	}
}
