package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestTimingsChange has three servers run with the timings of a WAN: their stores
// begin anew one at a time, who leads last, their processes go on, and no write is
// refused.
func TestTimingsChange(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
	defer cancel()
	c := newTrio(ctx, t, "testtimings")
	leader := c.leader(ctx)
	most, r := 0, startTraffic(ctx, t, c.Site, c.plain)
	var order []string
	tally := r.through(func() {
		_, err := c.Meshvpc(ctx, c.plain, "cluster", "timings", "200ms")
		c.must(err)
		c.must(c.Until(ctx, func() error {
			var list []struct {
				Name       string
				Restarting bool
				Timings    *struct{ Tick, Election string }
			}
			if err := c.JSON(ctx, &list, c.plain, "cluster", "members"); err != nil {
				return err
			}
			at, now := 0, 0
			for _, s := range list {
				if s.Restarting {
					at++
					if len(order) == 0 || order[len(order)-1] != s.Name {
						order = append(order, s.Name)
					}
				}
				if s.Timings != nil && s.Timings.Tick == "200ms" && s.Timings.Election == "2s" && !s.Restarting {
					now++
				}
			}
			if most = max(most, at); now < 3 {
				return fmt.Errorf("%d servers run with the new timings: %+v", now, list)
			}
			return nil
		}))
	})
	t.Logf("%v began anew, %s led; %d writes acknowledged, %d not, the longest gap %d ms", order, leader, tally.Acked, tally.Refused, tally.GapMS)
	if most != 1 || len(order) != 3 || order[2] != leader {
		t.Errorf("%d at a time, in the order %v; want one, and %s last", most, order, leader)
	}
	if tally.Refused > 0 {
		t.Errorf("%d writes were refused", tally.Refused)
	}
	for _, host := range append([]string{c.Server}, serverNames(c)...) {
		log, err := os.ReadFile(filepath.Join(c.Lab.Disk(host).Log, "server.log"))
		c.must(err)
		if n := strings.Count(string(log), "the store begins anew, with other timings"); n != 1 && host != c.plain {
			t.Errorf("%s began anew %d times", host, n)
		}
	}
}
