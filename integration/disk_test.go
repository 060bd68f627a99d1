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

// TestDiskOfOneServer fills the disk of the server that leads, then makes it
// read-only: each time it ends and says what is wrong and what mends that, the others
// go on, and it comes back with all once that is done.
func TestDiskOfOneServer(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 240*time.Second)
	defer cancel()
	c := newTrio(ctx, t, "testdisk")
	m := &mesh{Site: c.Site, t: t}
	bad := c.leader(ctx)
	dir := filepath.Join(c.Lab.Disk(bad).Var, "store")
	tamper := func(words ...string) {
		t.Helper()
		c.must(c.Lab.Tamper(ctx, bad, "", words...))
	}
	c.must(c.Lab.Kill(ctx, bad, "server"))
	tamper("disk-small", dir, "480")
	c.must(c.Lab.StartServices(ctx, bad, "server"))
	c.must(c.AwaitVoters(ctx, c.plain, 3))
	out, err := c.Meshvpc(ctx, c.plain, "cluster", "status")
	c.must(err)
	if warning := "warning: server " + bad + ": little disk space: "; strings.Count(out, warning) != 1 || strings.Count(out, "little disk space") != 1 {
		t.Errorf("cluster status says\n%s\nwant %q, and no other of that", out, warning)
	}
	for _, fault := range []struct {
		name  string
		do    func()
		says  []string
		mends func()
	}{
		{"full", func() {
			tamper("disk-fill", dir, "0")
			m.says(ctx, bad, "gave up the ballast")
			tamper("disk-fill", dir, "8")
		}, []string{"meshvpc: disk of " + dir + ": serve etcd: the disk is too full: ", " MiB are free, etcd needs 64 MiB to start",
			"hint: find what fills it: du -xh " + dir + " | sort -h | tail; free some, or move data_dir to a larger disk; then start again: meshvpc server; nothing acknowledged is lost, the other servers go on meanwhile"},
			func() { tamper("disk-unfill", dir) }},
		{"read-only", func() { tamper("disk-readonly", dir) }, []string{"meshvpc: disk of " + dir + ": serve etcd: the disk is read-only",
			"hint: see why: dmesg; then mount it for writing: mount -o remount,rw " + dir}, func() { tamper("disk-writable", dir) }},
	} {
		for lead := c.leader(ctx); lead != bad; lead = c.leader(ctx) {
			c.must(c.Lab.Freeze(ctx, lead, "server"))
			c.must(c.Until(ctx, func() error {
				if c.leader(ctx) == lead {
					return fmt.Errorf("%s leads still", lead)
				}
				return nil
			}))
			c.must(c.Lab.Thaw(ctx, lead, "server"))
		}
		r := startTraffic(ctx, t, c.Site, c.plain).through(func() {
			fault.do()
			for _, words := range fault.says {
				m.says(ctx, bad, words)
			}
			c.ended(ctx, bad)
		})
		t.Logf("%s: %d writes acknowledged, %d not, the longest gap %d ms", fault.name, r.Acked, r.Refused, r.GapMS)
		c.must(c.Lab.StartServices(ctx, bad, "server"))
		c.ended(ctx, bad)
		fault.mends()
		c.must(c.Lab.StartServices(ctx, bad, "server"))
		c.must(c.AwaitVoters(ctx, c.plain, 3))
	}
	if log, err := os.ReadFile(filepath.Join(c.Lab.Disk(bad).Log, "server.log")); err != nil || strings.Contains(string(log), "goroutine ") {
		t.Errorf("a server ended with a stack: %v\n%s", err, log)
	}
}

// ended waits until a host's server has ended by itself, as failed.
func (c *trio) ended(ctx context.Context, host string) {
	c.t.Helper()
	c.must(c.Until(ctx, func() error {
		h, err := c.Lab.Host(ctx, host)
		for _, s := range h.Services {
			if s.Name == "server" && s.State != "exit 1" {
				err = fmt.Errorf("the server of %s: %s", host, s.State)
			}
		}
		return err
	}))
}
