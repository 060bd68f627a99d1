package controller

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// TestSettleMAC: one decision each, about a MAC at port p of node a with sequence 3,
// which came there a minute ago.
func TestSettleMAC(t *testing.T) {
	at := func(d time.Duration) cluster.Time { return cluster.At(noon.Add(d)) }
	says := func(node string, sequence uint64, mod int64) claim {
		return claim{node: node, port: "p", sequence: sequence, mod: mod}
	}
	a3 := cluster.PublishedMAC{Node: "a", Port: "p", Sequence: 3, Since: at(-time.Minute)}
	with := func(f func(*cluster.PublishedMAC)) *cluster.PublishedMAC { p := a3; f(&p); return &p }
	moved := func(moves int, since time.Duration) func(*cluster.PublishedMAC) {
		return func(p *cluster.PublishedMAC) { p.Moves, p.Moving = moves, at(since) }
	}
	frozen := func(since time.Duration) func(*cluster.PublishedMAC) {
		return func(p *cluster.PublishedMAC) {
			p.Moves, p.Moving, p.Duplicate = cluster.MovesMost, at(since), &cluster.Duplicate{Node: "b", Port: "p", At: at(since)}
		}
	}
	toB := func(sequence uint64, moves int, since time.Duration) *cluster.PublishedMAC {
		return &cluster.PublishedMAC{Node: "b", Port: "p", Sequence: sequence, Since: at(0), Moves: moves, Moving: at(since)}
	}
	for name, tt := range map[string]struct {
		is     *cluster.PublishedMAC
		claims []claim
		want   *cluster.PublishedMAC
		again  time.Time
	}{
		"nobody has it":                       {nil, nil, nil, time.Time{}},
		"the first has it":                    {nil, []claim{says("b", 0, 8), says("a", 0, 7)}, &cluster.PublishedMAC{Node: "a", Port: "p", Since: at(0)}, time.Time{}},
		"the greater sequence has it":         {nil, []claim{says("b", 4, 8), says("a", 3, 7)}, &cluster.PublishedMAC{Node: "b", Port: "p", Sequence: 4, Since: at(0)}, time.Time{}},
		"it stays":                            {&a3, []claim{says("a", 3, 7)}, &a3, time.Time{}},
		"it stays with the first":             {&a3, []claim{says("a", 3, 9), says("b", 3, 7)}, &a3, time.Time{}},
		"an old claim does not draw it":       {&a3, []claim{says("a", 0, 7), says("b", 3, 8)}, &a3, time.Time{}},
		"at another port":                     {&a3, []claim{{node: "a", port: "q", sequence: 3}}, with(func(p *cluster.PublishedMAC) { p.Port = "q" }), time.Time{}},
		"it moves":                            {&a3, []claim{says("a", 3, 7), says("b", 4, 8)}, toB(4, 1, 0), time.Time{}},
		"it moves, and was given up":          {&a3, []claim{says("b", 4, 8)}, toB(4, 1, 0), time.Time{}},
		"it was given up, another had it too": {&a3, []claim{says("b", 3, 8)}, toB(4, 1, 0), time.Time{}},
		"it is gone":                          {&a3, nil, nil, time.Time{}},
		"the fourth move":                     {with(moved(3, -time.Minute)), []claim{says("a", 3, 7), says("b", 4, 8)}, toB(4, 4, -time.Minute), time.Time{}},
		"the fifth move is none": {with(moved(4, -time.Minute)), []claim{says("a", 3, 7), says("b", 4, 8)}, with(func(p *cluster.PublishedMAC) {
			p.Moves, p.Moving, p.Duplicate = 5, at(-time.Minute), &cluster.Duplicate{Node: "b", Port: "p", At: at(0)}
		}), noon.Add(cluster.FrozenFor)},
		"the fifth in more time":           {with(moved(4, -cluster.MovesWithin-1e6)), []claim{says("a", 3, 7), says("b", 4, 8)}, toB(4, 1, 0), time.Time{}},
		"the fifth by a clock set back":    {with(moved(4, time.Minute)), []claim{says("a", 3, 7), says("b", 4, 8)}, toB(4, 1, 0), time.Time{}},
		"the fifth, from who gave it up":   {with(moved(4, -time.Minute)), []claim{says("b", 4, 8)}, toB(4, 5, -time.Minute), time.Time{}},
		"frozen, it stays":                 {with(frozen(-time.Minute)), []claim{says("a", 3, 7), says("b", 4, 8)}, with(frozen(-time.Minute)), noon.Add(cluster.FrozenFor - time.Minute)},
		"frozen, and alone":                {with(frozen(-time.Minute)), []claim{says("a", 3, 7)}, with(frozen(-time.Minute)), noon.Add(cluster.FrozenFor - time.Minute)},
		"frozen, and gone from there":      {with(frozen(-time.Minute)), []claim{says("b", 4, 8)}, toB(4, 1, 0), time.Time{}},
		"frozen, and gone":                 {with(frozen(-time.Minute)), nil, nil, time.Time{}},
		"frozen for long enough":           {with(frozen(-cluster.FrozenFor)), []claim{says("a", 3, 7)}, &a3, time.Time{}},
		"frozen for long enough, wanted":   {with(frozen(-cluster.FrozenFor)), []claim{says("a", 3, 7), says("b", 4, 8)}, toB(4, 1, 0), time.Time{}},
		"who has it says what nobody knew": {&a3, []claim{says("a", 6, 7), says("b", 5, 8)}, with(func(p *cluster.PublishedMAC) { p.Sequence = 6 }), time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, again := settleMAC(tt.is, tt.claims, noon)
			if diff := cmp.Diff(tt.want, got); diff != "" || !again.Equal(tt.again) {
				t.Errorf("again %v, want %v; record (-want +got):\n%s", again, tt.again, diff)
			}
			if got != nil && got.Validate() != nil {
				t.Error(got.Validate())
			}
		})
	}
}

// TestSettleMACProperties: whatever is claimed, a MAC is at somebody who claims it, its
// sequence never falls, each move raises it, and those from who holds on to it are few.
func TestSettleMACProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var is *cluster.PublishedMAC
		var moves []time.Time
		now, claims := noon, map[string]claim{}
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 60).Draw(t, "seconds")) * time.Second)
			node := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "node")
			var seen uint64
			if is != nil {
				seen = is.Sequence
			}
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				delete(claims, node)
			case 1:
				claims[node] = claim{node: node, port: "old", sequence: seen, mod: int64(i)}
			default:
				claims[node] = claim{node: node, port: "p", sequence: seen + 1, mod: int64(i)}
			}
			var list []claim
			for _, n := range []string{"a", "b", "c"} {
				if c, ok := claims[n]; ok {
					list = append(list, c)
				}
			}
			was := is
			is, _ = settleMAC(was, list, now)
			if len(list) > 0 && is == nil || is != nil && claims[is.Node].node == "" {
				t.Fatalf("%+v of claims %+v", is, list)
			}
			if again, _ := settleMAC(is, list, now); !cmp.Equal(is, again) {
				t.Fatalf("looked at again, %+v becomes %+v", is, again)
			}
			if was == nil || is == nil {
				continue
			}
			if moved := was.Node != is.Node; is.Sequence < was.Sequence || moved && is.Sequence == was.Sequence {
				t.Fatalf("sequence %d after %d, moved %v", is.Sequence, was.Sequence, moved)
			}
			if _, held := claims[was.Node]; was.Node == is.Node || !held {
				if !held {
					moves = nil
				}
				continue
			}
			const most = 2*cluster.MovesMost - 1 // at the end of one span of counting and the start of the next
			if moves = append(moves, now); len(moves) >= most && now.Sub(moves[len(moves)-most]) <= cluster.MovesWithin {
				t.Fatalf("%d moves within %v: %v", most, cluster.MovesWithin, moves)
			}
		}
	})
}

// claims puts what a node says of a MAC.
func (r *rig) claims(node, vpc string, mac cluster.MAC, sequence uint64) {
	r.t.Helper()
	r.put(cluster.KeyMACStatus(node, vpc, mac), &cluster.MACStatus{NodeID: "id-" + node, Port: "port-of-" + node, Sequence: sequence})
}

// published lists what the store holds, as "node sequence" by MAC.
func (r *rig) published(vpc string) map[cluster.MAC]string {
	r.t.Helper()
	got := map[cluster.MAC]string{}
	for it := range store.Below[*cluster.PublishedMAC](viewOf(r.t, r.mem), cluster.PrefixPublished(vpc)) {
		k, err := cluster.ParseKey(it.Key)
		if err != nil {
			r.t.Fatal(err)
		}
		got[macOf(k)] = fmt.Sprint(it.Value.Node, " ", it.Value.Sequence)
	}
	return got
}

// TestPublish: records follow what members claim, an endpoint's MAC is nobody else's,
// and all goes with the VPC, its way of learning, or the member.
func TestPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.startHosts()
		r.start("a", r.mem)
		r.join("h1", "192.0.2.1")
		r.join("h2", "192.0.2.2")
		s := spec("all", "10.100.0.0/16")
		s.Learning = cluster.LearnPublish
		r.vpc("blue", s)
		settle()
		if net := get[*cluster.VPCNet](r, cluster.KeyVPCNet("blue")); net.Learning != cluster.LearnPublish || net.Needs != 4 {
			t.Fatalf("in force: %+v, want publish, for hosts that know of it", net)
		}
		m, own := cluster.MAC{2, 0, 0, 0, 0, 1}, cluster.MAC{2, 0, 0, 0, 0, 2}
		is := func(step string, want map[cluster.MAC]string) {
			t.Helper()
			settle()
			if diff := cmp.Diff(want, r.published("blue")); diff != "" {
				t.Errorf("%s (-want +got):\n%s", step, diff)
			}
		}
		r.put(cluster.KeyEndpointSpec("blue", "web1"), &cluster.EndpointSpec{State: cluster.EndpointActive, MAC: own})
		r.claims("h1", "blue", m, 0)
		r.claims("h1", "blue", own, 0)
		r.claims("h9", "blue", cluster.MAC{2, 0, 0, 0, 0, 3}, 0)
		is("claimed", map[cluster.MAC]string{m: "h1 0"})
		r.claims("h2", "blue", m, 1)
		is("claimed elsewhere", map[cluster.MAC]string{m: "h2 1"})
		for i := range 4 {
			r.claims([]string{"h1", "h2"}[i%2], "blue", m, uint64(i+2))
			settle()
		}
		is("claimed to and fro", map[cluster.MAC]string{m: "h1 4"})
		if d := get[*cluster.PublishedMAC](r, cluster.KeyPublished("blue", m)).Duplicate; d == nil || d.Node != "h2" || d.Port != "port-of-h2" {
			t.Errorf("duplicate %+v, want h2's port", d)
		}
		if want := "found twice MAC 02:00:00:00:00:01 of VPC blue: port port-of-h1 of h1 and port port-of-h2 of h2"; !strings.Contains(r.rung(), want) {
			t.Errorf("alarms %q, want %q in them", r.rung(), want)
		}
		r.delete(cluster.KeyMACStatus("h1", "blue", m))
		is("who had it has it no more", map[cluster.MAC]string{m: "h2 5"})
		r.put(cluster.KeyEndpointSpec("blue", "web2"), &cluster.EndpointSpec{State: cluster.EndpointActive, MAC: m})
		is("an endpoint has it", map[cluster.MAC]string{})
		r.delete(cluster.KeyEndpointSpec("blue", "web2"), cluster.KeyEndpointOwn("blue", "web2"))
		is("no endpoint has it", map[cluster.MAC]string{m: "h2 5"})
		s.Learning = ""
		r.put(cluster.KeyVPCSpec("blue"), s)
		is("nothing is published", map[cluster.MAC]string{})
		s.Learning = cluster.LearnPublish
		r.put(cluster.KeyVPCSpec("blue"), s)
		is("published again", map[cluster.MAC]string{m: "h2 5"})
		s.State = cluster.VPCDeleting
		r.put(cluster.KeyVPCSpec("blue"), s)
		settle()
		time.Sleep(time.Minute)
		synctest.Wait()
		is("deleted", map[cluster.MAC]string{})
		if left := r.dump(cluster.PrefixVPC("blue"), cluster.PrefixMACStatus("h1", "blue"), cluster.PrefixMACStatus("h2", "blue")); left != "" {
			t.Errorf("left: %s", left)
		}
	})
}

// TestPublishIsBounded: one node's MACs leave room for others', and what is published
// stays when there is no room for more.
func TestPublishIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.startHosts()
		r.start("a", r.mem)
		r.join("h1", "192.0.2.1")
		r.join("h2", "192.0.2.2")
		s := spec("all", "10.100.0.0/16")
		s.Learning = cluster.LearnPublish
		r.vpc("blue", s)
		settle()
		first := cluster.MAC{2, 0, 0, 1}
		r.claims("h1", "blue", first, 0)
		settle()
		for i := range cluster.MaxPublishedNode + 10 {
			r.claims("h1", "blue", cluster.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}, 0)
		}
		r.claims("h2", "blue", cluster.MAC{2, 0, 0, 2}, 0)
		settle()
		got := r.published("blue")
		if len(got) != cluster.MaxPublishedNode+1 || got[first] != "h1 0" || got[cluster.MAC{2, 0, 0, 2}] != "h2 0" {
			t.Errorf("%d are published, the first is %q; want %d, and it at h1", len(got), got[first], cluster.MaxPublishedNode+1)
		}
		if reason := get[*cluster.VPCNet](r, cluster.KeyVPCNet("blue")).Reason; !strings.Contains(reason, "not all MACs are published") {
			t.Errorf("reason %q", reason)
		}
	})
}
