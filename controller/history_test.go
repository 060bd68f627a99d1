package controller

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// events lists what the history says, a change each.
func (r *rig) events() (list []string, count int) {
	r.t.Helper()
	items, _, err := store.List[*cluster.Event](r.t.Context(), r.op, cluster.PrefixEvents)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, it := range items {
		for _, c := range it.Value.Changes {
			list = append(list, it.Value.By+" "+c.String())
		}
	}
	return list, len(items)
}

// TestHistoryTold: what the leader does is told in a few words, the same once.
func TestHistoryTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := twoVPCs(t)
		stop := r.start("a", r.mem)
		pass(time.Minute)
		r.edit("red", func(s *cluster.VPCSpec) { s.Members = "h1" })
		r.report("h2", "192.0.2.77", 1500)
		pass(time.Minute)
		r.report("h3", "2001:db8::3", 1500)
		pass(time.Minute)
		r.raw(cluster.PrefixAllocVTEP("gone")+"10.100.0.9", "garbage")
		pass(time.Minute)
		stop()
		r.start("b", r.mem)
		pass(time.Minute)
		got, _ := r.events()
		slices.Sort(got) // whose part comes first is the scheduler's
		want := []string{
			"server:a was elected the controller",
			"server:a brought up VPC blue: VNI 10000, MTU 1450",
			"server:a admitted h1, h2, h3 to VPC blue",
			"server:a brought up VPC red: VNI 10001, MTU 1450",
			"server:a admitted h1, h3 to VPC red",
			"server:a repointed VPC blue to h2",
			"server:a took h3 out of VPC red",
			"server:a repointed VPC blue to h3",
			"server:a reclaimed the record alloc/vtep/gone/10.100.0.9: nobody could read it",
			"server:b was elected the controller",
		}
		slices.Sort(want)
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
}

// TestHistoryNoStorm: many nodes that join are few events, each of bounded
// size.
func TestHistoryNoStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start("a", r.mem)
		for i := range 3 {
			r.vpc(fmt.Sprintf("v%d", i), spec("all", "10.100.0.0/16"))
		}
		for i := range 120 {
			r.node(fmt.Sprintf("h%03d", i))
			r.report(fmt.Sprintf("h%03d", i), netip.AddrFrom4([4]byte{192, 168, byte(i / 250), byte(i%250 + 1)}).String(), 1500)
			pass(100 * time.Millisecond)
		}
		pass(time.Minute)
		list, count := r.events()
		if count == 0 || count > 4 { // 12 s, and an end
			t.Errorf("%d events: %s", count, strings.Join(list, "\n"))
		}
		for _, text := range list {
			if len(text) > 400 || strings.Contains(text, "refused") {
				t.Error(text)
			}
		}
		if n := len(slices.DeleteFunc(list, func(s string) bool { return !strings.Contains(s, " more to VPC v0") })); n == 0 {
			t.Error("no event counts what it does not name")
		}
	})
}

// TestAlarmsToldSoon: what is alarming waits for nothing that is not, and draws what
// waits with it; many alarms are one event a second.
func TestAlarmsToldSoon(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	d := &digest{by: "server:a"}
	tell := func(at time.Duration) (told int) {
		if _, _, ok := d.event(start.Add(at)); ok {
			told = len(d.changes)
			d.told(start.Add(at))
		}
		return told
	}
	joined := cluster.Change{Verb: cluster.VerbAdmitted, Key: "vpcs/blue/net", Nodes: []string{"h1"}}
	fenced := cluster.Change{Verb: cluster.VerbFenced, Key: "fences/h1"}
	d.add(start, joined)
	if n := tell(digestAfter); n != 1 {
		t.Errorf("told %d changes after %v", n, digestAfter)
	}
	d.add(start.Add(3*time.Second), joined)
	d.add(start.Add(4*time.Second), fenced)
	if n := tell(4*time.Second + alarmsAfter - 1); n != 0 {
		t.Errorf("told %d changes at once", n)
	}
	if n := tell(4*time.Second + alarmsAfter); n != 2 {
		t.Errorf("an alarm drew %d changes with it", n)
	}
	d.add(start.Add(5*time.Second), fenced)
	if n := tell(5*time.Second + alarmsAfter - 1); n != 0 {
		t.Errorf("told %d changes within a second of the last", n)
	}
	if n := tell(5*time.Second + alarmsAfter); n != 1 {
		t.Errorf("told %d changes after a second", n)
	}
}

// TestHistoryTrimmed: what is old goes, and what is too much of whoever has most.
func TestHistoryTrimmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		start := time.Now()
		event := func(at time.Time, by string, n uint64) {
			r.put(cluster.KeyEvent(at, n), &cluster.Event{Time: cluster.At(at), By: by, Changes: []cluster.Change{{Verb: cluster.VerbCreated, Key: "nodes/n"}}})
		}
		event(start.Add(-historyTime-time.Hour), "user:old", 1)
		event(start.Add(-time.Hour), "user:bob", 2)
		for i := range historyMost + 50 {
			event(start.Add(-time.Minute).Add(time.Duration(i)*time.Millisecond), "user:eve", uint64(i))
		}
		r.start("a", r.mem)
		pass(time.Minute)
		items, _, err := store.List[*cluster.Event](t.Context(), r.op, cluster.PrefixEvents)
		if err != nil {
			t.Fatal(err)
		}
		of := map[string]int{}
		for _, it := range items {
			of[it.Value.By]++
		}
		if d := cmp.Diff(map[string]int{"user:bob": 1, "user:eve": historyMost - 1, "server:a": 1}, of); d != "" {
			t.Error(d)
		}
	})
}

// TestDoomedEvents: no more stay than may, the oldest of whoever has most go, and
// who has fewer than a fair share loses nothing.
func TestDoomedEvents(t *testing.T) {
	now := time.Unix(1800000000, 0)
	rapid.Check(t, func(t *rapid.T) {
		var all []eventItem
		has := map[string]int{}
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		for i := range rapid.IntRange(0, 60).Draw(t, "events") {
			by := fmt.Sprintf("user:u%d", random.IntN(1+random.IntN(5)))
			at := now.Add(time.Duration(i-60) * time.Second)
			if rapid.IntRange(0, 9).Draw(t, "old") == 0 {
				at = at.Add(-historyTime)
			} else {
				has[by]++
			}
			all = append(all, eventItem{Key: cluster.KeyEvent(at, uint64(i)), Value: &cluster.Event{By: by}})
		}
		slices.SortFunc(all, func(a, b eventItem) int { return strings.Compare(a.Key, b.Key) })
		most := rapid.IntRange(1, 40).Draw(t, "most")
		young := 0
		for _, n := range has {
			young += n
		}
		doomed := doomedEvents(all, now, most)
		if want := len(all) - min(young, most); len(doomed) != want {
			t.Fatalf("%d of %d go, want %d", len(doomed), len(all), want)
		}
		lost, last := map[string]int{}, map[string]string{}
		for _, it := range doomed {
			if it.Key >= cluster.KeyEventsSince(now.Add(-historyTime)) {
				lost[it.Value.By]++
			}
			last[it.Value.By] = it.Key
		}
		for by, n := range has {
			if fair := most / len(has); n <= fair && lost[by] > 0 {
				t.Errorf("%s has %d of %d and loses %d", by, n, most, lost[by])
			}
		}
		for _, it := range all {
			if it.Key < last[it.Value.By] && !slices.ContainsFunc(doomed, func(d eventItem) bool { return d.Key == it.Key }) {
				t.Errorf("%s stays, a younger one of %s goes", it.Key, it.Value.By)
			}
		}
	})
}
