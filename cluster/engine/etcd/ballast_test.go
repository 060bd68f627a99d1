package etcd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestJudgeSpace(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for name, tt := range map[string]struct {
		s     space
		held  uint64
		was   level
		level level
		step  step
	}{
		"room, no ballast":                     {space{free: 9 * gib, usable: 9 * gib, total: 20 * gib}, 0, roomy, roomy, lay},
		"room and ballast":                     {space{free: 9 * gib, usable: 9 * gib, total: 20 * gib}, 64 * mib, roomy, roomy, wait},
		"a ballast that was cut short":         {space{free: 9 * gib, usable: 9 * gib, total: 20 * gib}, 63 * mib, roomy, roomy, lay},
		"less than 1 GiB":                      {space{free: gib - 1, usable: gib - 1, total: 20 * gib}, 64 * mib, roomy, low, wait},
		"just 1 GiB":                           {space{free: gib, usable: gib, total: 20 * gib}, 64 * mib, roomy, roomy, wait},
		"just 1 GiB again":                     {space{free: gib, usable: gib, total: 20 * gib}, 64 * mib, low, low, wait},
		"128 MiB more":                         {space{free: gib + 128*mib, usable: gib + 128*mib, total: 20 * gib}, 64 * mib, low, roomy, wait},
		"little, no ballast":                   {space{free: 319 * mib, usable: 319 * mib, total: 20 * gib}, 0, low, low, wait},
		"enough for the ballast":               {space{free: 320 * mib, usable: 320 * mib, total: 20 * gib}, 0, low, low, lay},
		"no room for the log":                  {space{free: 64*mib - 1, usable: 64*mib - 1, total: 20 * gib}, 64 * mib, low, tight, giveUp},
		"that, all at once":                    {space{free: 0, usable: 0, total: 20 * gib}, 64 * mib, roomy, tight, giveUp},
		"the ballast is used":                  {space{free: 16 * mib, usable: 16 * mib, total: 20 * gib}, 0, tight, tight, wait},
		"nothing is left":                      {space{free: 16*mib - 1, usable: 16*mib - 1, total: 20 * gib}, 0, tight, tight, end},
		"what only root may use":               {space{free: 0, usable: gib, total: 20 * gib}, 64 * mib, low, low, wait},
		"root's space is not for the ballast":  {space{free: 100 * mib, usable: gib, total: 20 * gib}, 0, low, low, wait},
		"tight until there is as much as then": {space{free: 127 * mib, usable: 127 * mib, total: 20 * gib}, 0, tight, tight, wait},
		"a small disk's":                       {space{free: 290 * mib, usable: 290 * mib, total: 400 * mib}, 0, roomy, low, lay},
		"and that is enough":                   {space{free: 290 * mib, usable: 290 * mib, total: 400 * mib}, 25 * mib, low, low, wait},
		"read-only":                            {space{free: 9 * gib, usable: 9 * gib, total: 20 * gib, readOnly: true}, 64 * mib, roomy, roomy, end},
	} {
		t.Run(name, func(t *testing.T) {
			if level, step := judgeSpace(tt.s, tt.held, tt.was); level != tt.level || step != tt.step {
				t.Errorf("got level %d, step %d; want %d, %d", level, step, tt.level, tt.step)
			}
		})
	}
}

// TestFill: what is laid out where the system cannot do that by itself has its size.
func TestFill(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := fill(f, 3<<20+5); err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != 3<<20+5 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestTellLevel: each change is told of once.
func TestTellLevel(t *testing.T) {
	core, logged := observer.New(zap.InfoLevel)
	b := &ballast{log: zap.New(core)}
	for _, l := range []level{roomy, low, low, tight, low, roomy, roomy, low} {
		b.tell(l, space{})
	}
	var got []string
	for _, e := range logged.TakeAll() {
		got = append(got, e.Level.String())
	}
	if want := "warn warn info warn"; strings.Join(got, " ") != want {
		t.Errorf("logged %q, want %q", got, want)
	}
}
