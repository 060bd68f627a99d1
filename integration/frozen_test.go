package integration

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/integration/history"
)

// TestFrozenServer freezes a server that does not lead: a client that speaks to it and
// others reads, and changes what is there, by the others; nothing is done twice, also
// when the server goes on with what it had taken in. The client is alone: a change
// that lost a race, too, waits for what became of its first try.
func TestFrozenServer(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := newTrio(ctx, t, "testfrozen")
	leader := c.leader(ctx)
	frozen := slices.DeleteFunc(c.servers(), func(s string) bool { return s == leader })[0]
	client := c.startRegisters(ctx, c.plain, registerClient{Name: c.plain, Within: store.DefaultTimeout, Workers: 1})
	watched := &watchedTrio{c, map[string]*recorder{c.plain: client}}
	watched.works(ctx, 0, 20, c.plain)
	c.must(c.Lab.Freeze(ctx, frozen, "server"))
	from := history.Now()
	c.must(c.Until(ctx, func() error { // until it has met the frozen server
		if _, unknown := client.within(from, math.MaxInt64); len(unknown) == 0 {
			return fmt.Errorf("every operation has an answer")
		}
		return nil
	}))
	watched.works(ctx, from, 30, c.plain)
	c.must(c.Lab.Thaw(ctx, frozen, "server"))
	to := history.Now()
	watched.works(ctx, to, 20, c.plain)
	longest, answers := map[history.Kind]time.Duration{}, map[history.Kind]int{}
	answered, unknown := client.within(from, to)
	for _, o := range slices.Concat(answered, unknown) {
		took, kind := time.Duration(o.Return-o.Call), o.Kind
		if kind == history.Guarded && o.Guard == 0 {
			kind = "new key"
		}
		longest[kind] = max(longest[kind], took.Round(time.Millisecond))
		answers[kind]++
		if took > 4*time.Second && (kind == history.Get || kind == history.Guarded) {
			t.Errorf("it took %v, as long as there is patience: %+v", took, o)
		}
	}
	t.Logf("%s was frozen for %v: %v operations, of which %d had no answer, the longest took %v", frozen,
		time.Duration(to-from).Round(time.Millisecond), answers, len(unknown), longest)
	watched.judge(ctx, []*recorder{client})
}
