package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/demo"
)

// TestDamagedStore changes the log of one of three servers while it is off: it ends
// and says what to do, the others go on, and what it says puts it right.
func TestDamagedStore(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	defer cancel()
	c := newTrio(ctx, t, "testdamage")
	m := &mesh{Site: c.Site, t: t}
	bad := c.Servers[0].Name
	c.must(c.Lab.Kill(ctx, bad, "server"))
	logs, err := filepath.Glob(filepath.Join(c.Lab.Disk(bad).Var, "store", "member", "wal", "*.wal"))
	c.must(err)
	for _, path := range logs {
		b, err := os.ReadFile(path)
		c.must(err)
		if end := len(bytes.TrimRight(b, "\x00")); end > 3 {
			b[end-3] ^= 0xff // in the last record
		}
		c.must(os.WriteFile(path, b, 0o600))
	}
	r := startTraffic(ctx, t, c.Site, c.plain).through(func() {
		c.must(c.Lab.StartServices(ctx, bad, "server"))
		m.says(ctx, bad, "meshvpc: start server: start etcd: the store is damaged")
		m.says(ctx, bad, "hint: the other servers have it: where an admin is, meshvpc node remove "+bad)
		if _, err := c.Meshvpc(ctx, c.Server, "node", "remove", bad, "--yes", "--timeout", "5s"); err != nil {
			t.Logf("node remove says: %v", err)
		}
		c.must(c.Until(ctx, func() error {
			list, err := c.Members(ctx, c.plain)
			if err == nil && slices.ContainsFunc(list, func(m demo.Member) bool { return m.Name == bad }) {
				err = fmt.Errorf("%s is a member still: %+v", bad, list)
			}
			return err
		}))
		c.must(c.Lab.StartServices(ctx, bad, "server"))
		m.says(ctx, bad, "was removed from the cluster")
		c.must(c.Lab.Kill(ctx, bad, "agent"))
		_, err := c.Meshvpc(ctx, bad, "node", "purge", "--yes")
		c.must(err)
		c.must(c.Join(ctx, bad))
		c.must(c.AwaitVoters(ctx, c.plain, 3))
	})
	t.Logf("%d writes acknowledged, %d not, the longest gap %d ms", r.Acked, r.Refused, r.GapMS)
}
