package integration

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// TestServersStopInTurn stops each server as an upgrade does, the leader among them,
// and starts it again, while many write: no write is refused, not even one that comes
// as the lead goes from one server to another.
func TestServersStopInTurn(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
	defer cancel()
	c := newTrio(ctx, t, "testturn")
	traffic := startTraffic(ctx, t, c.Site, c.plain, crowdWord+"=16")
	r := traffic.through(func() {
		for _, host := range append([]string{c.leader(ctx), c.Server}, serverNames(c)...) {
			begun := time.Now()
			c.stop(ctx, host, "server")
			stopped := time.Now()
			c.must(c.Lab.StartServices(ctx, host, "server"))
			c.must(c.AwaitVoters(ctx, c.plain, 3))
			t.Logf("%s stopped in %v, and was back after %v", host, stopped.Sub(begun), time.Since(stopped))
		}
	})
	t.Logf("%d and %d writes acknowledged, %d not, the longest gap %d ms", r.Acked, r.Crowd, r.Refused, r.GapMS)
	if r.Crowd == 0 {
		t.Error("nobody else wrote")
	}
	if r.Refused > 0 {
		t.Errorf("%d writes were refused", r.Refused)
	}
}

// stop ends a service as service managers do, and waits for it.
func (c *trio) stop(ctx context.Context, host, name string) {
	c.t.Helper()
	state := func() lab.ServiceState {
		h, err := c.Lab.Host(ctx, host)
		c.must(err)
		return h.Services[slices.IndexFunc(h.Services, func(s lab.ServiceState) bool { return s.Name == name })]
	}
	code, err := c.Lab.Exec(ctx, lab.Command{Host: host, Argv: []string{"kill", "-TERM", strconv.Itoa(state().PID)}, Stdout: io.Discard, Stderr: c.t.Output()})
	if err != nil || code != 0 {
		c.t.Fatalf("stop %s: exit %d, %v", name, code, err)
	}
	c.must(c.Until(ctx, func() error {
		if s := state().State; s != "exit 0" {
			return fmt.Errorf("%s of %s: %s", name, host, s)
		}
		return nil
	}))
}
