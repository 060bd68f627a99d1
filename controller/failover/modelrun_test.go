package failover

import (
	"flag"
	"strings"
	"testing"
)

var (
	firstSeed = flag.Uint64("seed", 1, "first seed of the model")
	seeds     = flag.Int("seeds", 0, "seeds of each kind of world; 0: some of each")
)

// kind is what happens in a model, and how many seeds of it are run each time.
type kind struct {
	run   func(*model)
	seeds int
}

func kinds() map[string]kind {
	return map[string]kind{
		"faults":     {(*model).faults, 150},
		"crash":      {(*model).crashes, 400},
		"leader":     {(*model).leaders, 200},
		"datacenter": {(*model).datacenter, 200},
		"part":       {(*model).part, 40},
		"many":       {(*model).many, 30},
		"link":       {(*model).link, 200},
		"few":        {(*model).few, 200},
		"stale":      {(*model).stale, 200},
		"back":       {(*model).back, 200},
		"liar":       {(*model).liar, 200},
		"flaps":      {(*model).flaps, 12},
		"works":      {(*model).works, 80},
		"cut owner":  {(*model).cutOwner, 60},
		"crowd":      {(*model).crowd, 60},
		"word":       {(*model).word, 16},
		"ports":      {(*model).ports, 100},
		"nowhere":    {(*model).nowhere, 100},
		"strict":     {(*model).strictFaults, 200},
		"skewed":     {(*model).strictCrash, 200},
		"thaw":       {(*model).strictThaw, 200},
	}
}

// play runs one model and says what went wrong.
func play(of string, seed uint64, off rule) (problems, log []string) {
	site := sites[seed%uint64(len(sites))]
	if of == "part" {
		site = sites[2+seed%2]
	}
	m := newModel(seed, site, seed/4%3 != 0, off)
	switch of {
	case "strict", "skewed", "works", "cut owner", "nowhere", "ports":
		m.beStrict(seed, 0.01)
	case "thaw":
		m.beStrict(seed, 0)
	}
	kinds()[of].run(m)
	return m.problems, m.log
}

// TestModel: whatever goes wrong, nothing is served twice by a decision of the leader,
// nobody who is well is cut off, and what is lost comes up elsewhere in time. More of
// it: go test -run TestModel -seeds 100000 ./controller/failover.
func TestModel(t *testing.T) {
	for name, k := range kinds() {
		n := k.seeds
		switch {
		case *seeds > 0:
			n = *seeds
		case testing.Short():
			n = (n + 9) / 10
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := *firstSeed; seed < *firstSeed+uint64(n); seed++ {
				if problems, log := play(name, seed, 0); len(problems) > 0 {
					t.Fatalf("seed %d: %s\n%s", seed, strings.Join(problems, "\n"), strings.Join(log, "\n"))
				}
			}
		})
	}
}

// TestEachRuleMatters takes one rule away, and a world that goes well by all of them
// goes wrong.
func TestEachRuleMatters(t *testing.T) {
	for name, c := range map[string]struct {
		without rule
		kind    string
		seed    uint64
		says    string
	}{
		"grace":      {ruleGrace | ruleBehind, "stale", 25, "is up and fenced; 0 of"},
		"fresh":      {ruleFresh, "stale", 506, "is up and fenced; 0 of"},
		"behind":     {ruleBehind, "stale", 107, "is up and fenced; 0 of"},
		"unsure":     {ruleUnsure, "faults", 9, "is up and fenced"},
		"places":     {rulePlaces, "link", 72, "in 1 places"},
		"share":      {ruleShare, "few", 307, "is up and fenced; 3 of 7"},
		"keepalive":  {ruleKeepalive, "faults", 9, "reached the store"},
		"confirm":    {ruleConfirm, "crash", 1, "after it crashed"},
		"mass":       {ruleMass, "part", 1, "d1a is fenced 569"},
		"safe mode":  {ruleMass, "many", 3, "more is lost than can be explained"},
		"hold-down":  {ruleHoldDown, "datacenter", 1, "after all of d1 was lost"},
		"barrier":    {ruleBarrier, "crash", 1, "has not confirmed it"},
		"target":     {ruleTarget, "faults", 75, "which is fenced, drained or gone"},
		"held":       {ruleHeld, "crash", 1, "is held, and goes to"},
		"changes":    {ruleChanges, "flaps", 1, "moves for the 6th time"},
		"proof":      {ruleProof, "cut owner", 1, "and runs at"},
		"capacity":   {ruleCapacity, "crowd", 16, "which has 2 then, and may have 1"},
		"apart":      {ruleApart, "crowd", 172, "goes to d1a, which has e1"},
		"word":       {ruleWord, "word", 2, "is fenced, and more is lost than can be explained"},
		"port":       {rulePort, "ports", 3, "which cannot have its port"},
		"what lifts": {ruleLift, "back", 1, "is lifted, which serves"},
		"time":       {ruleTime, "strict", 51, "is open at"},
		"own guard":  {modelOwn, "strict", 78, "is open at"},
		"live guard": {modelLive, "thaw", 14, "is open at"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if problems, _ := play(c.kind, c.seed, 0); len(problems) > 0 {
				t.Errorf("by all rules: %s", problems[0])
			}
			problems, log := play(c.kind, c.seed, c.without)
			if text := strings.Join(problems, "\n"); !strings.Contains(text, c.says) {
				t.Errorf("without it: %q, want %q\n%s", text, c.says, strings.Join(log, "\n"))
			}
		})
	}
}

// TestModelSeesTwo: hosts that say too early that a workload has ended are seen.
func TestModelSeesTwo(t *testing.T) {
	m := newModel(2, sites[1], true, 0)
	m.beStrict(2, 0.01)
	m.hasty = true
	m.cutOwner()
	if !strings.Contains(strings.Join(m.problems, "\n"), "and runs at") {
		t.Errorf("%q", m.problems)
	}
}

// TestModelIsRepeatable: one seed, one story.
func TestModelIsRepeatable(t *testing.T) {
	for name := range kinds() {
		for seed := uint64(1); seed < 9; seed++ {
			_, a := play(name, seed, 0)
			_, b := play(name, seed, 0)
			if strings.Join(a, "\n") != strings.Join(b, "\n") {
				t.Fatalf("%s, seed %d:\n%s\nand:\n%s", name, seed, strings.Join(a, "\n"), strings.Join(b, "\n"))
			}
		}
	}
}
