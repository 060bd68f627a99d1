package watcher

import (
	"net/netip"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// TestLingers: who had an endpoint that moves serves it a moment longer, and then no
// more. What is strict, or never moves by itself, it does not.
func TestLingers(t *testing.T) {
	moves := cluster.Failover{Mode: cluster.ModeStateless, Place: cluster.Place{"all"}}
	strict := moves
	strict.Exclusive = cluster.ExclusiveStrict
	for name, tt := range map[string]struct {
		failover cluster.Failover
		lingers  bool
	}{
		"it moves by itself": {moves, true},
		"it is strict":       {strict, false},
		"it is moved":        {cluster.Failover{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := attachWorld(t)
				defer w.close()
				w.put(cluster.Operator, cluster.KeyEndpointSpec("vpc1", "web1"), &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true,
					Failover: tt.failover, Created: cluster.At(time.Unix(1, 0))})
				w.attached("n1", local.AttachRequest{Netns: w.room("n1", "web1")}, 2)
				w.answered(w.attach("n2", local.AttachRequest{Netns: w.room("n2", "web1"), Standby: true}))
				w.owner("web1", "n2", 3)
				w.settle(lingerFor / 2)
				w.wantDevice("n1", true, tt.lingers)
				w.settle(lingerFor)
				w.wantDevice("n1", true, false)
				w.wantPort("n1", cluster.PortStandby, 3)
			})
		})
	}
}

// TestLingeringPlace: a host takes an endpoint's frames from one place, also while it
// serves what another has by now.
func TestLingeringPlace(t *testing.T) {
	n2 := &cluster.Member{UnderlayIPv4: netip.MustParseAddr("192.0.2.2")}
	v := &vpc{Static: true, Members: map[string]*cluster.Member{"n2": n2}, Places: map[string]place{"web1": {Node: "n2"}}, Attachments: map[string]attachment{"web1": {}}}
	me := &cluster.Member{UnderlayIPv4: netip.MustParseAddr("192.0.2.1")}
	if got := v.places(me, "n1"); len(got) != 1 || got[0].At != n2.UnderlayIPv4 {
		t.Errorf("it is elsewhere: %+v", got)
	}
	v.Attachments["web1"] = attachment{until: time.Unix(1, 0)}
	if got := v.places(me, "n1"); len(got) != 1 || got[0].At.IsValid() {
		t.Errorf("it lingers: %+v", got)
	}
}
