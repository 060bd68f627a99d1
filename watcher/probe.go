package watcher

import (
	"context"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// probe sends the link probes that are due and returns when the next are.
func (a *Agent) probe(ctx context.Context) time.Time {
	due, again := a.links.due(a.cfg.Now())
	for _, p := range due {
		a.pings.Go(func() error {
			pctx, cancel := context.WithTimeout(ctx, probeTimeout)
			defer cancel()
			rtt, err := a.cfg.Driver.Ping(pctx, p.id.vpc, p.to, p.size)
			select {
			case a.answers <- answer{p, rtt, err}:
			case <-ctx.Done():
			}
			return nil
		})
	}
	return again
}

// answered takes a probe that came back, and all others that wait, and reports
// whether the state of a link changed.
func (a *Agent) answered(ctx context.Context, r answer) (changed bool) {
	for {
		if ctx.Err() == nil {
			if a.links.answer(a.cfg.Now(), r.probe, r.rtt, r.err != nil) {
				changed = true
				l := a.links.all[r.probe.id].report()
				a.log.Info("link is "+string(l.State), zap.String("vpc", r.probe.id.vpc), zap.String("peer", l.Peer),
					zap.Float64("rtt_ms", l.RTT), zap.String("reason", l.Reason), zap.Int64("probes", r.probe.seq))
			}
		}
		select {
		case r = <-a.answers:
		default:
			return changed
		}
	}
}

// answerPings does what a ping record asks for, once an id. What was asked
// before this agent first saw the VPC is not for it.
func (a *Agent) answerPings(ctx context.Context, r records) {
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
		var to []target
		var names []string
		for id, l := range a.links.all {
			if id.vpc == name {
				to, names = append(to, target{to: l.to}), append(names, id.peer)
			}
		}
		req := *vr.ping
		a.pings.Go(func() error {
			a.writer.put(cluster.KeyPingResult(a.cfg.Node, name), pingAll(ctx, a.cfg.Driver, name, names, to, req), 0)
			return nil
		})
	}
}

const (
	pingEvery    = 50 * time.Millisecond // between two requests to one peer
	pingParallel = 64                    // peers at a time
)

// pingAll pings every peer and returns the result record.
func pingAll(ctx context.Context, d hostops.Driver, vpc string, names []string, to []target, req cluster.PingRequest) *cluster.PingResult {
	peers := make([]cluster.PeerPing, len(names))
	var g errgroup.Group
	g.SetLimit(pingParallel)
	for i, name := range names {
		g.Go(func() error {
			peers[i] = pingPeer(ctx, d, vpc, name, to[i], req)
			return nil
		})
	}
	_ = g.Wait() // the functions return no error
	slices.SortFunc(peers, func(x, y cluster.PeerPing) int { return strings.Compare(x.To, y.To) })
	return &cluster.PingResult{ID: req.ID, Peers: peers}
}

func pingPeer(ctx context.Context, d hostops.Driver, vpc, name string, t target, req cluster.PingRequest) cluster.PeerPing {
	r := cluster.PeerPing{To: name}
	var rtts []time.Duration
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for r.Sent < req.Count && ctx.Err() == nil {
		if r.Sent > 0 {
			<-tick.C
		}
		pctx, cancel := context.WithTimeout(ctx, probeTimeout)
		rtt, err := d.Ping(pctx, vpc, t.to, req.Size)
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
