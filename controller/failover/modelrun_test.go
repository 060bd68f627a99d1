package failover

import (
	"flag"
	"strings"
	"testing"
)

var (
	firstSeed = flag.Uint64("seed", 1, "first seed of the model")
	seeds     = flag.Int("seeds", 300, "seeds of each kind of world")
)

// kinds are what happens in a model.
var kinds = map[string]func(*model){
	"faults": (*model).faults, "crash": (*model).crashes, "datacenter": (*model).datacenter,
	"part": (*model).part, "many": (*model).many, "liar": (*model).liar, "flaps": (*model).flaps,
}

// play runs one model and says what went wrong.
func play(kind string, seed uint64, off rule) (problems, log []string) {
	site := sites[seed%uint64(len(sites))]
	if kind == "part" {
		site = sites[2+seed%2]
	}
	m := newModel(seed, site, seed/4%3 != 0, off)
	kinds[kind](m)
	return m.problems, m.log
}

func TestModel(t *testing.T) {
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			for seed := *firstSeed; seed < *firstSeed+uint64(*seeds); seed++ {
				if problems, log := play(kind, seed, 0); len(problems) > 0 {
					t.Fatalf("seed %d: %s\n%s", seed, strings.Join(problems, "\n"), strings.Join(log, "\n"))
				}
			}
		})
	}
}
