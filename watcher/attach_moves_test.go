package watcher

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// moves asks for web1 as an endpoint that moves by itself between these places.
func (w *world) moves(places ...cluster.Selector) {
	w.t.Helper()
	w.put(cluster.Operator, cluster.KeyEndpointSpec("vpc1", "web1"), &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true,
		Failover: cluster.Failover{Mode: cluster.ModeStateless, Place: places}, Created: cluster.At(time.Unix(1, 0))})
}

// TestAttachWhatMoves: what another node has is attached in standby where it may
// run, asks for nothing, and serves when it becomes this node's; elsewhere it is
// refused.
func TestAttachWhatMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := attachWorld(t)
		w.moves("n1", "n2")
		w.owner("web1", "n2", 2)
		w.settle(time.Second)

		c := w.attach("n1", local.AttachRequest{Netns: w.room("n1", "ns1")})
		if a := w.answered(c); a.Attached == nil || a.Attached.State != cluster.PortStandby {
			t.Fatalf("at a place: %+v, %+v", a.Attached, a.Refusal)
		}
		if w.request("n1") != nil {
			t.Error("it asks for what another has")
		}
		c = w.attach("n3", local.AttachRequest{Netns: w.room("n3", "ns3")})
		if a := w.answered(c); a.Refusal == nil || a.Refusal.Code != local.CodeElsewhere || !strings.Contains(a.Refusal.Text, "n3 is none of its places n1,n2") {
			t.Errorf("elsewhere: %+v", a)
		}
		w.owner("web1", "n1", 3)
		w.settle(time.Second)
		w.wantPort("n1", cluster.PortReady, 3)
	})
}
