package integration

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/demo"
	"github.com/meshvpc/meshvpc/integration/lab"
)

// TestReplaceServers makes five servers of three and three of five, until none of the
// first is left, while somebody writes and watches all the time.
func TestReplaceServers(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := newTrio(ctx, t, "testreplace")
	former := c.servers()
	r := startTraffic(ctx, t, c.Site, c.plain).through(func() {
		c.grow(ctx, lab.HostConfig{Name: "fourth", Datacenter: "skynet"}, lab.HostConfig{Name: "fifth", Datacenter: "hetzner"})
		c.must(c.AwaitVoters(ctx, c.plain, 5))
		c.Server = "fourth" // where commands are typed from now on
		for _, name := range former[:2] {
			c.takeOut(ctx, name)
		}
		c.must(c.AwaitVoters(ctx, c.plain, 3))
		c.grow(ctx, lab.HostConfig{Name: "sixth", Datacenter: "third"})
		c.must(c.Until(ctx, func() error { // it stands by
			list, err := c.Members(ctx, c.plain)
			i := slices.IndexFunc(list, func(m demo.Member) bool { return m.Name == "sixth" })
			if err == nil && (i < 0 || !list[i].Healthy) {
				err = fmt.Errorf("the sixth server is not ready: %+v", list)
			}
			return err
		}))
		c.takeOut(ctx, former[2])
		c.must(c.AwaitVoters(ctx, c.plain, 3))
	})
	list, err := c.Members(ctx, c.plain)
	c.must(err)
	for _, m := range list {
		if slices.Contains(former, m.Name) {
			t.Errorf("%s is a server still: %+v", m.Name, list)
		}
	}
	t.Logf("%d writes acknowledged, %d not, the longest gap %d ms", r.Acked, r.Refused, r.GapMS)
	if gap := time.Duration(r.GapMS) * time.Millisecond; gap > 15*time.Second {
		t.Errorf("no write for %v", gap)
	}
}

// grow makes hosts, and servers of the cluster on them.
func (c *trio) grow(ctx context.Context, hosts ...lab.HostConfig) {
	c.t.Helper()
	var names []string
	for _, h := range hosts {
		_, err := c.Lab.AddHost(ctx, h)
		c.must(err)
		c.Servers = append(c.Servers, h)
		names = append(names, h.Name)
	}
	c.must(c.Join(ctx, names...))
}

// takeOut removes a server's node and, when it has said that it is none any more,
// switches its host off. A removal that had no answer is asked for again.
func (c *trio) takeOut(ctx context.Context, name string) {
	c.t.Helper()
	c.must(c.Until(ctx, func() error {
		_, err := c.Meshvpc(ctx, c.Server, "node", "remove", name, "--yes", "--timeout", "30s")
		return err
	}))
	(&mesh{Site: c.Site, t: c.t}).says(ctx, name, "was removed from the cluster")
	c.must(c.Lab.PowerOff(ctx, name))
}
