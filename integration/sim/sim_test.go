package sim

import (
	"flag"
	"testing"
	"time"
)

var (
	seeds = flag.Int("seeds", 200, "how many worlds to run")
	first = flag.Uint64("seed", 1, "the first world's seed; with -seeds 1 it tells its story")
)

// TestWorlds runs a world for each seed. A failing seed replays exactly:
//
//	go test ./integration/sim -run TestWorlds -seed N -seeds 1 -v
func TestWorlds(t *testing.T) { runWorlds(t, Config{}) }

func runWorlds(t *testing.T, cfg Config) {
	steps := 0
	for i := range *seeds {
		cfg.Seed = *first + uint64(i)
		if *seeds == 1 {
			cfg.Trace = func(s string) { t.Log(s) }
		}
		w := New(cfg)
		for _, p := range w.Run() {
			t.Errorf("seed %d: %s", cfg.Seed, p)
		}
		steps += w.steps
		if t.Failed() && *seeds > 1 {
			t.Fatalf("replay it: go test ./integration/sim -run %s -seed %d -seeds 1 -v", t.Name(), cfg.Seed)
		}
	}
	t.Logf("%d events in %d worlds", steps, *seeds)
}

// TestServices runs worlds in which endpoints move by themselves, one for each five
// seeds: they last longer.
func TestServices(t *testing.T) {
	moves, vacated, worlds := 0, 0, max(*seeds/5, 1)
	for i := range worlds {
		cfg := Config{Seed: *first + uint64(i), Trouble: 5 * time.Minute}
		if *seeds == 1 {
			cfg.Trace = func(s string) { t.Log(s) }
		}
		problems, n, ended := Services(cfg)
		for _, p := range problems {
			t.Errorf("seed %d: %s", cfg.Seed, p)
		}
		moves, vacated = moves+n, vacated+ended
		if t.Failed() && *seeds > 1 {
			t.Fatalf("replay it: go test ./integration/sim -run %s -seed %d -seeds 1 -v", t.Name(), cfg.Seed)
		}
	}
	t.Logf("%d moves in %d worlds, %d leads ended by another candidate", moves, worlds, vacated)
	if moves < worlds || *seeds > 50 && vacated == 0 {
		t.Error("too little moves: these worlds show nothing")
	}
}

// TestNoFrameIsLost runs gentle worlds: transports change, hosts join, agents,
// controllers and the store fail, and frames flow.
func TestNoFrameIsLost(t *testing.T) {
	runWorlds(t, Config{Gentle: true})
}

// TestSameSeedSameWorld runs worlds twice: every line of their stories is the
// same, each record among them.
func TestSameSeedSameWorld(t *testing.T) {
	for i := range max(*seeds/10, 1) {
		seed := *first + uint64(i)
		story := func() (lines []string) {
			New(Config{Seed: seed, Trace: func(s string) { lines = append(lines, s) }}).Run()
			return lines
		}
		one, two := story(), story()
		for i := range min(len(one), len(two)) {
			if one[i] != two[i] {
				t.Fatalf("seed %d, line %d of its story:\n%s\nand then\n%s", seed, i, one[i], two[i])
			}
		}
		if len(one) != len(two) {
			t.Fatalf("seed %d told %d lines, then %d", seed, len(one), len(two))
		}
	}
}
