package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sync/errgroup"
)

// ids are names of containers.
func ids(prefix string, n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("%s%d", prefix, i))
	}
	return list
}

// each does something about containers, so many at once, and returns what went wrong.
func each(ids []string, atOnce int, do func(id string) error) error {
	var g errgroup.Group
	g.SetLimit(atOnce)
	errs := make([]error, len(ids))
	for i, id := range ids {
		g.Go(func() error {
			if err := do(id); err != nil {
				errs[i] = fmt.Errorf("%s: %w", id, err)
			}
			return nil
		})
	}
	_ = g.Wait() // the errors are in errs
	return errors.Join(errs...)
}

// patiently is what a runtime does that is told to try again later.
func patiently(ctx context.Context, do func() error) error {
	for {
		err := do()
		if e, ok := errors.AsType[*types.Error](err); !ok || e.Code != types.ErrTryAgainLater || ctx.Err() != nil {
			return err
		}
	}
}

// TestManyContainers: 500 come and go, 16 at once, and nothing is left.
func TestManyContainers(t *testing.T) {
	once(t)
	m := newPodNetwork(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	p := m.podsOn(m.hosts[1], "net1", `{"type": "meshvpc", "vpc": "vpc1"}`)
	all := ids("c", 500)
	p.start(ctx, all...)
	var mu sync.Mutex
	owner := map[string]string{}
	begun := time.Now()
	m.must(each(all, 16, func(id string) error {
		ips, err := p.add(ctx, id)
		mu.Lock()
		defer mu.Unlock()
		for _, ip := range ips {
			if other, taken := owner[ip.String()]; taken {
				err = errors.Join(err, fmt.Errorf("%s is also %s's", ip, other))
			}
			owner[ip.String()] = id
		}
		return err
	}))
	added := time.Now()
	if len(owner) != 2*len(all) {
		t.Errorf("%d containers have %d addresses; want one of each family", len(all), len(owner))
	}
	m.must(each(all, 16, func(id string) error { return p.del(ctx, id) }))
	t.Logf("500 ADD in %v, 500 DEL in %v", added.Sub(begun).Round(time.Millisecond), time.Since(added).Round(time.Millisecond))
	m.nothingOfPods(ctx)
}

// TestContainersAmongCrashes: plugins, an agent and the server are killed while
// containers are added. Those that were added are as they should be, and when all
// are deleted, or have ended without a word, nothing is left.
func TestContainersAmongCrashes(t *testing.T) {
	once(t)
	m := newPodNetwork(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	host := m.hosts[1]
	p := m.podsOn(host, "net1", `{"type": "meshvpc", "vpc": "vpc1"}`)
	plugins, agents, servers := ids("p", 16), ids("a", 16), ids("s", 16)
	all := slices.Concat(plugins, agents, servers)
	p.start(ctx, all...)
	var mu sync.Mutex
	var added []string
	add := func(ctx context.Context, id string) error {
		_, err := p.add(ctx, id)
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			added = append(added, id)
		}
		return nil // whether it came to be is not what is tried
	}
	m.must(each(plugins, 8, func(id string) error { // each dies some moments later than the one before
		ctx, cancel := context.WithTimeout(ctx, time.Duration(slices.Index(plugins, id))*25*time.Millisecond)
		defer cancel()
		return add(ctx, id)
	}))
	m.must(m.whileAdding(ctx, agents, add, func() error {
		return errors.Join(m.Lab.Kill(ctx, host, "agent"), m.Lab.StartServices(ctx, host, "agent"))
	}))
	m.must(m.whileAdding(ctx, servers, add, func() error {
		return errors.Join(m.Lab.Kill(ctx, m.Server, "server"), m.Lab.StartServices(ctx, m.Server, "server"))
	}))
	m.must(each(added, 8, func(id string) error { return patiently(ctx, func() error { return p.check(ctx, id) }) }))
	t.Logf("%d of %d containers were added", len(added), len(all))
	m.must(each(agents, 8, func(id string) error { return patiently(ctx, func() error { return p.del(ctx, id) }) }))
	p.end(ctx, servers...) // and no DEL comes
	m.must(p.gc(ctx, slices.Concat(agents, servers)...))
	m.nothingOfPods(ctx)
}

// whileAdding disturbs when the first of containers are under way.
func (m *mesh) whileAdding(ctx context.Context, ids []string, add func(context.Context, string) error, disturb func() error) error {
	var g errgroup.Group
	var once sync.Once
	begun := make(chan struct{})
	g.Go(func() error {
		<-begun
		return disturb()
	})
	g.Go(func() error {
		return each(ids, 8, func(id string) error {
			err := add(ctx, id)
			once.Do(func() { close(begun) })
			return err
		})
	})
	return g.Wait()
}
