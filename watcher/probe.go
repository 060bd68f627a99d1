package watcher

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// Echo is the echo request that a probe asks for.
func (p Probe) Echo() hostops.Echo { return hostops.Echo{VPC: p.id.vpc, To: p.to, Size: p.size} }

// probe sends an echo request. No goroutine waits for its answer.
func (r *runner) probe(p Probe) error {
	return r.cfg.Driver.Send(p.Echo(), func(rtt time.Duration) {
		select {
		case r.answers <- answer{p, rtt}:
		default: // full of answers that came too late
		}
	})
}

// PingOrder is an operator's ping to be made: the result of Do is to be put at
// Key.
type PingOrder struct {
	Key     string
	vpc     string
	peers   []peerAddress
	request cluster.PingRequest
}

type peerAddress struct {
	node string
	vtep netip.Addr
}

// orderPings wants done what a ping record asks for, once an id. What was asked
// before this agent first saw the VPC is not for it.
func (a *Agent) orderPings(r records) {
	for name, vr := range r.vpcs {
		if vr.members == nil {
			continue
		}
		asked := ""
		if vr.ping != nil {
			asked = vr.ping.ID
		}
		seen, known := a.pinged[name]
		a.pinged[name] = asked
		if !known || asked == "" || asked == seen {
			continue
		}
		o := PingOrder{Key: cluster.KeyPingResult(a.cfg.Node, name), vpc: name, request: *vr.ping}
		for _, l := range a.links.of(name) {
			o.peers = append(o.peers, peerAddress{l.id.peer, l.to})
		}
		slices.SortFunc(o.peers, func(x, y peerAddress) int { return strings.Compare(x.node, y.node) })
		a.out.Pings = append(a.out.Pings, o)
	}
}

func (r *runner) ping(ctx context.Context, o PingOrder) {
	r.pings.Go(func() error {
		r.writer.put(Write{Key: o.Key, Record: o.Do(ctx, r.cfg.Driver)})
		return nil
	})
}

const (
	pingEvery    = 50 * time.Millisecond // between two requests to one peer
	pingParallel = 64                    // peers at a time
)

// Do pings every peer and returns the result record.
func (o PingOrder) Do(ctx context.Context, d hostops.Driver) *cluster.PingResult {
	peers := make([]cluster.PeerPing, len(o.peers))
	var g errgroup.Group
	g.SetLimit(pingParallel)
	for i, p := range o.peers {
		g.Go(func() error {
			peers[i] = o.peer(ctx, d, p)
			return nil
		})
	}
	_ = g.Wait() // the functions return no error
	return &cluster.PingResult{ID: o.request.ID, Peers: peers}
}

func (o PingOrder) peer(ctx context.Context, d hostops.Driver, to peerAddress) cluster.PeerPing {
	r := cluster.PeerPing{To: to.node}
	var rtts []time.Duration
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for r.Sent < o.request.Count && ctx.Err() == nil {
		if r.Sent > 0 {
			<-tick.C
		}
		pctx, cancel := context.WithTimeout(ctx, probeTimeout)
		rtt, err := hostops.Ping(pctx, d, hostops.Echo{VPC: o.vpc, To: to.vtep, Size: o.request.Size})
		cancel()
		r.Sent++
		if err == nil {
			r.Received++
			rtts = append(rtts, rtt)
		}
	}
	if len(rtts) > 0 {
		slices.Sort(rtts)
		r.RTT = milliseconds(rtts[len(rtts)/2])
	}
	return r
}
