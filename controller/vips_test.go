package controller

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/meshvpc/meshvpc/cluster"
)

// TestVIPsAreBounded: a VPC has so many VIPs and no more, whoever comes first; one that
// is deleted makes room. Other endpoints do not count.
func TestVIPsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.startHosts()
		r.start("a", r.mem)
		r.join("h1", "192.0.2.1")
		s := spec("all", "10.100.0.0/16")
		s.Network = cluster.Networks{IPv4: netip.MustParsePrefix("10.10.0.0/16")}
		r.vpc("blue", s)
		vip := &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true, Failover: cluster.Failover{Mode: cluster.ModeVIP, Place: cluster.Place{"all"}}}
		r.put(cluster.KeyEndpointSpec("blue", "a-workload"), &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true})
		for i := range cluster.MaxVIPs {
			r.put(cluster.KeyEndpointSpec("blue", fmt.Sprintf("vip%02d", i+1)), vip)
		}
		settle()
		for _, name := range []string{"vip00", "vip99"} { // before all of them, and after
			r.put(cluster.KeyEndpointSpec("blue", name), vip)
		}
		settle()
		own := func(name string) *cluster.EndpointOwn {
			return get[*cluster.EndpointOwn](r, cluster.KeyEndpointOwn("blue", name))
		}
		for i := range cluster.MaxVIPs {
			if o := own(fmt.Sprintf("vip%02d", i+1)); !o.MAC.Unicast() {
				t.Errorf("VIP %d has nothing: %+v", i+1, o)
			}
		}
		for _, name := range []string{"vip00", "vip99"} {
			if o := own(name); o.State != cluster.OwnPending || len(o.IPs) > 0 || !strings.Contains(o.Reason, "the VPC has 64 VIPs") {
				t.Errorf("one too many, %s: %+v", name, o)
			}
		}
		deleting := *vip
		deleting.State = cluster.EndpointDeleting
		r.put(cluster.KeyEndpointSpec("blue", "vip07"), &deleting)
		settle()
		if o := own("vip00"); !o.MAC.Unicast() {
			t.Errorf("there is room, and vip00 has nothing: %+v", o)
		}
		if o := own("vip99"); o.State != cluster.OwnPending {
			t.Errorf("vip99 has what is too many: %+v", o)
		}
	})
}
