package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/demo"
	"github.com/meshvpc/meshvpc/integration/lab"
)

// trio is a cluster of three servers, one of them a witness, and a host without.
type trio struct {
	*demo.Site
	t     *testing.T
	plain string // the host without a server
}

func newTrio(ctx context.Context, t *testing.T, name string) *trio {
	t.Helper()
	hosts, err := demo.Hosts(3, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	return newServers(ctx, t, name, hosts, hosts[2].Name)
}

// newServers is a cluster of these hosts, of which three have servers, not the one
// called plain.
func newServers(ctx context.Context, t *testing.T, name string, hosts []lab.HostConfig, plain string) *trio {
	t.Helper()
	l, err := lab.Start(ctx, lab.Config{Name: name, Hosts: hosts, Binary: binary})
	mustLab(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			for _, h := range hosts {
				text, _ := os.ReadFile(filepath.Join(l.Disk(h.Name).Log, "server.log")) // adds to the failure
				lines := strings.Split(string(text), "\n")
				t.Logf("server of %s:\n%s", h.Name, strings.Join(lines[max(0, len(lines)-15):], "\n"))
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &trio{Site: &demo.Site{Lab: l, Server: hosts[0].Name, Servers: demo.ServersOf(hosts)}, t: t, plain: plain}
	c.must(c.Found(ctx))
	var others []string
	for _, h := range hosts[1:] {
		others = append(others, h.Name)
	}
	c.must(c.Join(ctx, others...))
	c.must(c.AwaitVoters(ctx, c.plain, 3))
	for _, h := range hosts { // until each knows all
		c.must(c.Until(ctx, func() error {
			known, err := os.ReadFile(filepath.Join(l.Disk(h.Name).Var, "endpoints"))
			if err == nil && strings.Count(string(known), "\n") != 3 {
				err = fmt.Errorf("%s knows the servers %q", h.Name, known)
			}
			return err
		}))
	}
	return c
}

func (c *trio) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *trio) leader(ctx context.Context) string {
	c.t.Helper()
	var r struct{ Leader string }
	c.must(c.Until(ctx, func() error {
		err := c.JSON(ctx, &r, c.plain, "cluster", "status", "--timeout", "2s")
		if err == nil && r.Leader == "" {
			err = fmt.Errorf("nobody leads")
		}
		return err
	}))
	return r.Leader
}

// TestLeaderIsLost kills the leading server, freezes it, and powers its host off:
// each time writes work again, nothing acknowledged is lost, and a watcher misses
// nothing and sees nothing twice.
func TestLeaderIsLost(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	defer cancel()
	c := newTrio(ctx, t, "testleader")
	for _, fault := range []struct {
		name     string
		do, mend func(host string) error
	}{
		{"killed", func(h string) error { return c.Lab.Kill(ctx, h, "server") }, func(h string) error { return c.Lab.StartServices(ctx, h, "server") }},
		{"frozen", func(h string) error { return c.Lab.Freeze(ctx, h, "server") }, func(h string) error { return c.Lab.Thaw(ctx, h, "server") }},
		{"powered off", func(h string) error { return c.Lab.PowerOff(ctx, h) }, func(h string) error { return c.Lab.Boot(ctx, h) }},
	} {
		leader := c.leader(ctx)
		r := startTraffic(ctx, t, c.Site, c.plain).through(func() { c.must(fault.do(leader)) })
		t.Logf("%s, which led, %s: %d writes acknowledged, %d not, the longest gap %d ms", leader, fault.name, r.Acked, r.Refused, r.GapMS)
		if gap := time.Duration(r.GapMS) * time.Millisecond; gap > 15*time.Second {
			t.Errorf("%s: no write for %v", fault.name, gap)
		}
		if now := c.leader(ctx); now == leader {
			t.Errorf("%s: %s leads still", fault.name, leader)
		}
		c.must(fault.mend(leader))
		c.must(c.AwaitVoters(ctx, c.plain, 3))
	}
}

// TestServerGoesForGood: the first server, the only one that a host was told of,
// goes and is taken out. The host's agent goes on, and comes back from a restart;
// the server that was taken out says so and opens nothing.
func TestServerGoesForGood(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	defer cancel()
	c := newTrio(ctx, t, "testgone")
	agent := filepath.Join(c.Lab.Disk(c.plain).Etc, "agent.yaml")
	text, err := os.ReadFile(agent)
	c.must(err)
	first, err := c.Lab.Host(ctx, c.Server)
	c.must(err)
	if n := strings.Count(string(text), ":2379"); n != 1 || !strings.Contains(string(text), first.Underlay[0].Addr().String()) {
		t.Fatalf("want the first server's endpoint alone in %s:\n%s", agent, text)
	}
	c.must(c.AwaitNodes(ctx, 3))
	second := c.Servers[0].Name
	_, err = c.Meshvpc(ctx, second, "node", "remove", c.Server, "--yes")
	c.must(err)
	c.must(c.Until(ctx, func() error { // of two that are left one votes, the witness comes back as one that does not
		list, err := c.Members(ctx, second)
		if err == nil && (len(list) != 2 || !list[0].Healthy || !list[1].Healthy || !list[0].Voter || list[1].Voter || list[1].Name != "witness") {
			err = fmt.Errorf("want %s to vote and the witness to stand by: %+v", second, list)
		}
		return err
	}))
	readyAgain := func(n int) error {
		log, err := os.ReadFile(filepath.Join(c.Lab.Disk("witness").Log, "server.log"))
		if got := strings.Count(string(log), `"server ready"`); err == nil && got < n {
			err = fmt.Errorf("the witness was ready %d times, want %d", got, n)
		}
		return err
	}
	c.must(c.Until(ctx, func() error { return readyAgain(2) })) // when it joined, and as a learner
	c.must(c.Lab.Kill(ctx, "witness", "server"))
	c.must(c.Lab.StartServices(ctx, "witness", "server"))
	c.must(c.Until(ctx, func() error { return readyAgain(3) })) // a learner that starts again
	c.must(c.Until(ctx, func() error {                          // it stops by itself, and says why
		h, err := c.Lab.Host(ctx, c.Server)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(h.Services, func(s lab.ServiceState) bool { return s.Name == "server" }); h.Services[i].State != "exit 1" {
			return fmt.Errorf("the removed server: %s", h.Services[i].State)
		}
		return nil
	}))
	log, err := os.ReadFile(filepath.Join(c.Lab.Disk(c.Server).Log, "server.log"))
	c.must(err)
	if !strings.Contains(string(log), "was removed from the cluster") {
		t.Errorf("the removed server does not say so:\n%s", log)
	}
	c.must(c.Lab.Kill(ctx, c.Server, "agent"))
	_, err = c.Meshvpc(ctx, c.Server, "node", "purge", "--yes")
	c.must(err)
	c.must(c.Lab.PowerOff(ctx, c.Server))
	c.must(c.Lab.Kill(ctx, c.plain, "agent"))
	c.must(c.Lab.StartServices(ctx, c.plain, "agent"))
	c.must(c.Until(ctx, func() error {
		_, err := c.Meshvpc(ctx, c.plain, "status", "--check", "--timeout", "2s")
		return err
	}))
	if _, err := c.Meshvpc(ctx, second, "node", "remove", "witness", "--yes"); err != nil {
		t.Errorf("the third server goes: %v", err)
	}
	if _, err := c.Meshvpc(ctx, second, "node", "remove", second, "--yes"); err == nil || !strings.Contains(err.Error(), "only server that votes") {
		t.Errorf("the last server goes: %v", err)
	}
}
