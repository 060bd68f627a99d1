package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// errTimingsChanged ends a server whose store is to run with other timings: etcd reads
// them when it starts. It begins anew at once.
var errTimingsChanged = errors.New("the store's timings have changed")

// settleFor is how long a server that has begun anew waits until others may: clients
// that lost it try again within 3 s.
const settleFor = 4 * time.Second

// turn is what a server needs to have its store begin anew when no other does.
type turn struct {
	name  string
	store *store.Store
	cli   *clientv3.Client
}

// take says why the store may not begin anew now, "" if this server's record says that
// it does. wants are the timings that all are to have; nil if it is for another reason,
// by which the order is given and that cannot wait for servers that are away.
func (t turn) take(ctx context.Context, wants *cluster.Timings, behind []string) (wait string, err error) {
	records, _, err := store.List[*cluster.Server](ctx, t.store, cluster.PrefixSrvs)
	if err != nil {
		return "", err
	}
	all := membership.Servers{Records: byName(records), Behind: behind}
	if wants != nil {
		all.Healthy, all.Leader = t.health(ctx, records)
		all.Stale = map[string]bool{}
		for name, r := range all.Records {
			all.Stale[name] = !sameTimings(r.Timings, wants)
		}
	}
	if wait := all.Wait(t.name); wait != "" {
		return wait, nil
	}
	var change store.Change
	for _, it := range records {
		if last(it.Key) != t.name {
			change.Require(it.Key, it.Mod)
			continue
		}
		it.Value.Restarting = true
		store.Put(&change, it, it.Value)
	}
	if _, err = t.store.Commit(ctx, change); errors.Is(err, store.ErrConflict) {
		return "another server's record has changed", nil
	}
	return "", err
}

// health asks the stores of all servers.
func (t turn) health(ctx context.Context, records []store.Item[*cluster.Server]) (healthy map[string]bool, leader string) {
	healthy = map[string]bool{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, it := range records {
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, syncWithin)
			defer cancel()
			st, err := t.cli.Status(ctx, "https://"+it.Value.Address)
			mu.Lock()
			defer mu.Unlock()
			healthy[last(it.Key)] = err == nil && st.Leader != 0
			if err == nil && st.Leader == st.Header.MemberId {
				leader = last(it.Key)
			}
		})
	}
	asking.Wait()
	return healthy, leader
}

// back says in this server's record that it does not begin anew any more, and with
// which timings it runs.
func (t turn) back(ctx context.Context, now *cluster.Timings) error {
	it, err := store.Get[*cluster.Server](ctx, t.store, cluster.KeyServer(t.name))
	if err != nil || !it.Value.Restarting && sameTimings(it.Value.Timings, now) {
		return err
	}
	it.Value.Restarting, it.Value.Timings = false, now
	var change store.Change
	store.Put(&change, it, it.Value)
	_, err = t.store.Commit(ctx, change)
	return err
}

// follow says how the store runs once it has for a while, and has it begin anew, when
// it is its turn, if the config asks for other timings.
func (t turn) follow(ctx context.Context, cfg serverConfig, now etcd.Timings, log *zap.Logger) error {
	run, said, told, begun := cluster.TimingsOf(now.Tick, now.Election), "", false, time.Now()
	return store.Look(ctx, store.MirrorConfig{Store: t.store, Log: log.Named("mirror")}, func(ctx context.Context, m *store.Mirror) (time.Duration, error) {
		wait, err := t.step(ctx, cfg, run, time.Since(begun) >= settleFor, &told, m)
		switch {
		case errors.Is(err, errTimingsChanged):
			log.Info("the store begins anew, with other timings")
			return 0, err
		case err != nil:
			wait = err.Error()
		}
		if wait != said && ctx.Err() == nil {
			if said = wait; wait != "" {
				log.Info("the store's timings wait", zap.String("why", wait))
			}
		}
		switch {
		case !told:
			return max(settleFor-time.Since(begun), trustRetry), nil
		case wait != "":
			return trustRetry, nil
		}
		return 0, nil
	}, cluster.KeyConfig)
}

func (t turn) step(ctx context.Context, cfg serverConfig, run *cluster.Timings, settled bool, told *bool, m *store.Mirror) (wait string, err error) {
	ctx, cancel := context.WithTimeout(ctx, defaultCall)
	defer cancel()
	if !*told && settled {
		if err := t.back(ctx, run); err != nil {
			return "", err
		}
		*told = true
	}
	it, ok := store.At[*cluster.Config](m.Pull(), cluster.KeyConfig)
	if !ok || !*told || sameTimings(run, it.Value.Timings) {
		return "", nil
	}
	tick, election, err := it.Value.Timings.Durations()
	if err != nil {
		return "", err
	}
	wants := etcd.Timings{Tick: cmp.Or(tick, lan.Tick), Election: cmp.Or(election, lan.Election)}
	if err := writeFile(timingsFile(cfg), fmt.Appendln(nil, wants.Tick, wants.Election)); err != nil { // also for a start of another reason
		return "", err
	}
	if wait, err := t.take(ctx, cluster.TimingsOf(wants.Tick, wants.Election), nil); wait != "" || err != nil {
		return wait, err
	}
	return "", errTimingsChanged
}

// lan are the timings of a cluster whose config has none.
var lan = etcd.Timings{Tick: 100 * time.Millisecond, Election: time.Second}

// sameTimings takes nil for those of a LAN.
func sameTimings(a, b *cluster.Timings) bool {
	of := func(t *cluster.Timings) etcd.Timings {
		tick, election, _ := t.Durations() // what is invalid was refused when it was read
		return etcd.Timings{Tick: cmp.Or(tick, lan.Tick), Election: cmp.Or(election, lan.Election)}
	}
	return of(a) == of(b)
}

// timingsFile holds the timings of this server's store, "200ms 2s": they have to be
// known before its store is there to ask.
func timingsFile(cfg serverConfig) string { return filepath.Join(dataDir(cfg), "timings") }

// readTimings is what is in that file; without one, a LAN's.
func readTimings(cfg serverConfig) (etcd.Timings, error) {
	text, err := os.ReadFile(timingsFile(cfg))
	if errors.Is(err, fs.ErrNotExist) {
		return lan, nil
	}
	if err != nil {
		return lan, fmt.Errorf("read the store's timings: %w", err)
	}
	tick, election, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	t := &cluster.Timings{Tick: tick, Election: election}
	var now etcd.Timings
	if now.Tick, now.Election, err = t.Durations(); err != nil {
		return lan, fmt.Errorf("read %s, which may be removed: %w", timingsFile(cfg), err)
	}
	return now, nil
}
