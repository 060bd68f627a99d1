package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership/voters"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// How often the server that leads the store measures how far the others are, and how
// many times it has to have done so with one before it believes it.
const (
	paceEvery = 10 * time.Second
	paceNeeds = 6
)

// pace has the store's timings bear the longest round trip from the server that leads
// to another, unless somebody has set them.
type pace struct {
	name   string
	store  *store.Store
	leads  func(ctx context.Context) bool
	trip   func(ctx context.Context, address string) (time.Duration, error)
	log    *zap.Logger
	newest map[string][]time.Duration // paceNeeds at most, by server
}

// newPace measures the round trip of a TCP handshake, which kernels answer: how busy a
// server is does not count.
func newPace(name string, s *store.Store, cli *clientv3.Client, endpoint string, log *zap.Logger) *pace {
	return &pace{name: name, store: s, log: log.Named("pace"), trip: handshake, leads: func(ctx context.Context) bool {
		st, err := cli.Status(ctx, endpoint)
		return err == nil && st.Leader == st.Header.MemberId
	}}
}

func handshake(ctx context.Context, address string) (time.Duration, error) {
	begun := time.Now()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	took := time.Since(begun)
	if err != nil {
		return 0, err
	}
	return took, c.Close()
}

// run measures until ctx ends.
func (p *pace) run(ctx context.Context) {
	for store.Sleep(ctx, paceEvery) {
		if err := p.look(ctx); err != nil && ctx.Err() == nil {
			p.log.Warn("cannot have the store's timings fit the round trips, will retry", zap.Error(err))
		}
	}
}

// look measures once, and changes the timings if they have to be longer.
func (p *pace) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, defaultCall)
	defer cancel()
	if !p.leads(ctx) {
		p.newest = nil
		return nil
	}
	servers, _, err := store.List[*cluster.Server](ctx, p.store, cluster.PrefixSrvs)
	if err != nil {
		return err
	}
	farthest, longest := p.measure(ctx, servers)
	it, err := store.Get[*cluster.Config](ctx, p.store, cluster.KeyConfig)
	if err != nil || it.Value.Timings != nil && it.Value.Timings.Fixed {
		return err
	}
	now := lan.Tick
	if tick, _, err := it.Value.Timings.Durations(); err == nil && tick != 0 {
		now = tick
	}
	tick := voters.Tick(longest, now)
	if tick == now {
		return nil
	}
	it.Value.Timings = cluster.TimingsOf(tick, 10*tick)
	var change store.Change
	store.Put(&change, it, it.Value)
	if _, err := p.store.Commit(ctx, change); err != nil {
		return fmt.Errorf("set timings: %w", err)
	}
	p.log.Info("the store's timings are longer from now on, for the round trips between servers",
		zap.Duration("round_trip", longest), zap.String("to", farthest), zap.Duration("tick", tick))
	return nil
}

// measure is the longest round trip to any server that was measured often enough, each
// by the shortest of its newest: the rest is queues on the way.
func (p *pace) measure(ctx context.Context, servers []store.Item[*cluster.Server]) (farthest string, longest time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, syncWithin)
	defer cancel()
	trips := make([]time.Duration, len(servers)) // 0: no answer
	var asking sync.WaitGroup
	for i, it := range servers {
		address, err := joinService(it.Value.Address)
		if err != nil || last(it.Key) == p.name {
			continue
		}
		asking.Go(func() {
			if took, err := p.trip(ctx, address); err == nil {
				trips[i] = took
			}
		})
	}
	asking.Wait()
	newest := map[string][]time.Duration{} // of servers that there are
	for i, it := range servers {
		name := last(it.Key)
		list := p.newest[name]
		if trips[i] > 0 {
			list = append(list, trips[i])
		}
		list = list[max(0, len(list)-paceNeeds):]
		newest[name] = list
		if len(list) == paceNeeds && slices.Min(list) > longest {
			farthest, longest = name, slices.Min(list)
		}
	}
	p.newest = newest
	return farthest, longest
}
