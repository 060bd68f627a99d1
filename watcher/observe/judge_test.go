package observe

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
)

// site makes targets by their datacenters, "a a b": a1, a2, b3.
func site(text string) (targets []Target) {
	for i, dc := range strings.Fields(text) {
		targets = append(targets, Target{Node: fmt.Sprint(dc, i+1), Datacenter: dc})
	}
	return targets
}

// answers is who answers in a round: "a1 a2/agent b3/kernel".
func answers(text string) map[string]Heard {
	heard := map[string]Heard{}
	for _, word := range strings.Fields(text) {
		name, only, some := strings.Cut(word, "/")
		heard[name] = Heard{Agent: !some || only == "agent", Kernel: !some || only == "kernel"}
	}
	return heard
}

// say is a verdict in short: "unsure a1- b3/kernel".
func say(v cluster.Verdicts) string {
	var words []string
	if v.Unsure {
		words = append(words, "unsure")
	}
	for _, s := range v.Suspects {
		word := s.Node
		switch {
		case s.KernelUnknown && s.Kernel:
			word += "/unknown"
		case s.Kernel:
			word += "/kernel"
		}
		if s.Agent {
			word += "/agent"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func TestJudge(t *testing.T) {
	const late = "late"
	for name, tt := range map[string]struct {
		me, targets string
		blind       bool
		rounds      []string // what is heard; "N* …" N times
		want        []string // after each entry of rounds
	}{
		"all answer": {"a", "a a b", false, []string{"a1 a2 b3", "2* a1 a2 b3"}, []string{"unsure", ""}},
		"one is off": {"a", "a a b", false, []string{"3* a1 a2 b3", "a1 a2", "a1 a2", "a1 a2", "9* a1 a2"}, []string{"", "", "", "b3", "b3"}},
		"one is off and comes back": {"a", "a a b", false, []string{"3* a1 a2 b3", "3* a1 a2", "a1 a2 b3", "2* a1 a2", "a1 a2"},
			[]string{"", "b3", "", "", "b3"}},
		"misses in between do not count": {"a", "a a b", false, []string{"3* a1 a2 b3", "2* a1 a2", "a1 a2 b3", "2* a1 a2", "a1 a2 b3"}, []string{"", "", "", "", ""}},
		"an agent is frozen":             {"a", "a a b", false, []string{"3* a1 a2 b3", "3* a1 a2 b3/kernel"}, []string{"", "b3/kernel"}},
		"then its host goes":             {"a", "a a b", false, []string{"3* a1 a2 b3", "3* a1 a2 b3/kernel", "3* a1 a2"}, []string{"", "b3/kernel", "b3"}},
		"an answer in three is enough":   {"a", "a a b", false, []string{"3* a1 a2 b3", "2* a1 a2", "a1 a2 b3/agent", "2* a1 a2"}, []string{"", "", "", ""}},
		"a kernel that is filtered":      {"a", "a a b", false, []string{"3* a1 a2 b3/agent", "6* a1 a2"}, []string{"", "b3/unknown"}},
		"was off before":                 {"a", "a a b", false, []string{"3* a1 a2"}, []string{"b3"}},
		"a blind observer":               {"a", "a a b", true, []string{"3* a1/agent a2/agent b3/agent", "3* a1/agent a2/agent"}, []string{"", "b3/unknown"}},

		"late forgets": {"a", "a a b", false, []string{"3* a1 a2 b3", "3* a1 a2", late, "a1 a2", "a1 a2", "a1 a2"},
			[]string{"", "b3", "unsure", "unsure", "unsure", "b3"}},
		"late, and all is well": {"a", "a a b", false, []string{"3* a1 a2 b3", late, "2* a1 a2 b3", "a1 a2 b3"}, []string{"", "unsure", "unsure", ""}},

		"a datacenter is lost":             {"a", "a a b b", false, []string{"3* a1 a2 b3 b4", "3* a1 a2"}, []string{"", "b3 b4"}},
		"the larger one":                   {"a", "a b b b", false, []string{"3* a1 b2 b3 b4", "3* a1"}, []string{"", "b2 b3 b4"}},
		"its own":                          {"a", "a a a b", false, []string{"3* a1 a2 a3 b4", "3* b4"}, []string{"", "unsure a1 a2 a3"}},
		"a witness sees one lost":          {"w", "a a b b", false, []string{"3* a1 a2 b3 b4", "3* b3 b4"}, []string{"", "a1 a2"}},
		"a witness that is cut off":        {"w", "a a b b", false, []string{"3* a1 a2 b3 b4", "3*"}, []string{"", "unsure a1 a2 b3 b4"}},
		"a witness of one datacenter":      {"w", "a a a", false, []string{"3* a1 a2 a3", "3*"}, []string{"", "a1 a2 a3"}},
		"a datacenter, and one more":       {"a", "a b b c c", false, []string{"3* a1 b2 b3 c4 c5", "3* a1 c5"}, []string{"", "b2 b3 c4"}},
		"a datacenter, and most of others": {"a", "a b b c c", false, []string{"3* a1 b2 b3 c4 c5", "3* a1"}, []string{"", "unsure b2 b3 c4 c5"}},
		"half":                             {"a", "a a b b", false, []string{"3* a1 a2 b3 b4", "3* a2 b4"}, []string{"", "a1 b3"}},
		"frozen agents are not its network": {"a", "a a a b", false, []string{"3* a1 a2 a3 b4", "3* a1/kernel a2/kernel a3/kernel b4"},
			[]string{"", "a1/kernel a2/kernel a3/kernel"}},
		"two targets":           {"a", "a a", false, []string{"3* a1 a2", "3*"}, []string{"", "a1 a2"}},
		"two of a lost site":    {"a", "b b", false, []string{"3* b1 b2", "3*"}, []string{"", "b1 b2"}},
		"a single one":          {"a", "b", false, []string{"3* b1", "3*"}, []string{"", "b1"}},
		"three of its own site": {"a", "a a a", false, []string{"3* a1 a2 a3", "3* a1"}, []string{"", "unsure a2 a3"}},
	} {
		t.Run(name, func(t *testing.T) {
			var j judge
			j.watch(tt.me, 3, site(tt.targets))
			j.blind = tt.blind
			var got []string
			for _, r := range tt.rounds {
				n := 1
				if times, rest, many := strings.Cut(r, "*"); many {
					n, r = int(times[0]-'0'), rest
				}
				var v cluster.Verdicts
				for range n {
					v = j.round(r == late, answers(r))
				}
				got = append(got, say(v))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("verdicts (-want +got):\n%s", diff)
			}
		})
	}
}

// TestJudgeKeepsWhatItKnows of targets that stay when others come, and not of those
// that come back.
func TestJudgeKeepsWhatItKnows(t *testing.T) {
	var j judge
	j.watch("a", 3, site("a a b"))
	for range 3 {
		j.round(false, answers("a1 a2"))
	}
	j.watch("a", 3, site("a a b c"))
	if got := say(j.round(false, answers("a1 a2 c4"))); got != "b3" {
		t.Errorf("after another came: %q", got)
	}
	j.watch("a", 3, site("a a"))
	j.watch("a", 3, site("a a b"))
	if got := say(j.round(false, answers("a1 a2"))); got != "" {
		t.Errorf("after it went and came: %q", got)
	}
	j.watch("a", 4, site("a a b"))
	if got := say(j.round(false, answers("a1 a2 b3"))); got != "unsure" {
		t.Errorf("with another profile: %q", got)
	}
}

func TestTardy(t *testing.T) {
	const period = 200 * time.Millisecond
	began := time.Now()
	for name, tt := range map[string]struct {
		now  time.Time
		want bool
	}{
		"in time":               {began.Add(period), false},
		"a bit late":            {began.Add(2 * period), false},
		"more than a period":    {began.Add(2*period + 1), true},
		"the wall clock alone":  {began.Round(0).Add(time.Hour), true},
		"the wall clock back":   {began.Round(0).Add(-time.Hour), false},
		"early, by some jitter": {began.Add(period * 9 / 10), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tardy(began, tt.now, period, period); got != tt.want {
				t.Errorf("tardy %v, want %v", got, tt.want)
			}
		})
	}
}
