package watcher

import (
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

func status(ready bool, links ...cluster.Link) *cluster.VPCStatus {
	return &cluster.VPCStatus{NodeID: "id-a", State: cluster.HostMember, Ready: ready, VNI: 10000, MTU: 1430, Links: links}
}

func up(peer string, rtt float64) cluster.Link {
	return cluster.Link{Peer: peer, State: cluster.LinkUp, RTT: rtt}
}

func in(peer string, s cluster.LinkState) cluster.Link { return cluster.Link{Peer: peer, State: s} }

func own(peer string, vni cluster.VNI, use cluster.LinkUse) cluster.Link {
	return cluster.Link{Peer: peer, State: cluster.LinkUp, RTT: 1, VNI: vni, Use: use}
}

func TestReportDue(t *testing.T) {
	const never = -1
	for name, tt := range map[string]struct {
		written *cluster.VPCStatus // at epoch
		now     *cluster.VPCStatus // from one second later on
		want    time.Duration      // until it is written
	}{
		"first, not ready":                  {nil, status(false), 0},
		"first, links known":                {nil, status(true, up("b", 1)), 0},
		"first, alone":                      {nil, status(true), 0},
		"first, a link unknown":             {nil, status(true, up("b", 1), in("c", cluster.LinkUnknown)), reportJoining},
		"becomes ready, a link unknown":     {status(false), status(true, in("b", cluster.LinkUnknown)), reportJoining},
		"no change":                         {status(true, up("b", 1)), status(true, up("b", 1)), never},
		"stops being ready":                 {status(true, up("b", 1)), status(false, up("b", 1)), 0},
		"a peer joined and is up":           {status(true, up("b", 1)), status(true, up("b", 1), up("c", 1)), never},
		"a peer joined and is unknown":      {status(true, up("b", 1)), status(true, up("b", 1), in("c", cluster.LinkUnknown)), never},
		"a peer joined and is down":         {status(true, up("b", 1)), status(true, up("b", 1), in("c", cluster.LinkDown)), reportCoalesce},
		"a peer left":                       {status(true, up("b", 1), up("c", 1)), status(true, up("b", 1)), never},
		"a link goes down":                  {status(true, up("b", 1)), status(true, in("b", cluster.LinkDown)), reportCoalesce},
		"a link comes back":                 {status(true, in("b", cluster.LinkDown)), status(true, up("b", 1)), reportCoalesce},
		"an unknown link that was said so":  {status(true, in("b", cluster.LinkUnknown)), status(true, up("b", 1)), reportCoalesce},
		"a round trip time moves a lot":     {status(true, up("b", 10)), status(true, up("b", 20)), reportRTT - time.Second},
		"a round trip time moves a little":  {status(true, up("b", 10)), status(true, up("b", 11)), never},
		"a tiny round trip time doubles":    {status(true, up("b", 0.1)), status(true, up("b", 0.2)), never},
		"the time of a new link is no news": {status(true), status(true, up("b", 50)), never},
		"a p2p peer joined":                 {status(true), status(true, own("p2p", 7, cluster.LinkActive)), never},
		"a pair is prepared":                {status(true), status(true, own("b", 7, cluster.LinkPreparing)), 0},
		"a pair is active, nobody p2p yet":  {status(true), status(true, own("b", 7, cluster.LinkActive)), 0},
		"a pair has another VNI":            {status(true, own("p2p", 7, cluster.LinkActive)), status(true, own("p2p", 8, cluster.LinkActive)), 0},
		"a pair's tunnel is gone":           {status(true, own("b", 7, cluster.LinkRetiring)), status(true, up("b", 1)), 0},
		"a p2p peer left":                   {status(true, own("p2p", 7, cluster.LinkActive)), status(true), 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := &report{}
			if tt.written != nil {
				r.wrote(tt.written, epoch)
			}
			start := epoch.Add(time.Second)
			got := time.Duration(never)
			for at, tries := start, 0; tries < 5; tries++ {
				write, again := r.due(tt.now, at, func(peer string) bool { return peer == "p2p" })
				if write {
					got = at.Sub(start)
					break
				}
				if again.IsZero() {
					break
				}
				at = again
			}
			if got != tt.want {
				t.Errorf("written after %v; want %v", got, tt.want)
			}
		})
	}
}
