package etcd

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/features"
	"go.uber.org/zap"
)

func ports(addresses ...string) []netip.AddrPort {
	var ps []netip.AddrPort
	for _, a := range addresses {
		ps = append(ps, netip.MustParseAddrPort(a))
	}
	return ps
}

func valid() Config {
	return Config{Name: "a", DataDir: "/data", ListenClient: ports("192.0.2.1:2379"), ListenPeer: ports("[2001:db8::1]:2380")}
}

func TestNewRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Config)
		want   string // empty: accepted
	}{
		"nothing":             {func(*Config) {}, ""},
		"no name":             {func(c *Config) { c.Name = "" }, "name is missing"},
		"no directory":        {func(c *Config) { c.DataDir = "" }, "data directory is missing"},
		"no client address":   {func(c *Config) { c.ListenClient = nil }, "client listen address is missing"},
		"no peer address":     {func(c *Config) { c.ListenPeer = nil }, "peer listen address is missing"},
		"port zero":           {func(c *Config) { c.ListenPeer = ports("127.0.0.1:0") }, "want an address and a port"},
		"any address":         {func(c *Config) { c.ListenClient = ports("0.0.0.0:2379") }, "others cannot dial it"},
		"any, but advertised": {func(c *Config) { c.ListenClient, c.AdvertiseClient = ports("[::]:2379"), c.ListenClient }, ""},
		"slow election":       {func(c *Config) { c.Timings.Election = time.Minute }, "to 50s"},
		"hasty election":      {func(c *Config) { c.Timings = Timings{Tick: time.Second, Election: 4 * time.Second} }, "5 ticks (5s)"},
		"tick below 1 ms":     {func(c *Config) { c.Timings.Tick = time.Microsecond }, "want 1ms or more"},
		"WAN":                 {func(c *Config) { c.Timings.Tick = 300 * time.Millisecond }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := valid()
			tt.change(&c)
			_, err := New(c)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestEmbedded names the settings that differ from etcd's defaults.
func TestEmbedded(t *testing.T) {
	c := valid()
	c.setDefaults()
	e, err := c.embedded(zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
	for what, ok := range map[string]bool{
		"no HTTP gateway":    !e.EnableGRPCGateway,
		"fsync":              !e.UnsafeNoFsync,
		"hourly compaction":  e.AutoCompactionMode == "periodic" && e.AutoCompactionRetention == "1h",
		"pre-vote":           e.PreVote,
		"compact hash check": e.ServerFeatureGate.Enabled(features.CompactHashCheck),
		"timings":            e.TickMs == 100 && e.ElectionMs == 1000,
		"initial cluster":    e.InitialCluster == "a=http://[2001:db8::1]:2380",
		"client URL":         len(e.AdvertiseClientUrls) == 1 && e.AdvertiseClientUrls[0].String() == "http://192.0.2.1:2379",
	} {
		if !ok {
			t.Errorf("%s: not so in %+v", what, e)
		}
	}
}

func TestPreflight(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	unlock, err := preflight(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := preflight(dir); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("locked twice: %v", err)
	}
	unlock()
	if n := needed(dir); n != 256<<20 {
		t.Errorf("an empty directory needs %d MiB", n>>20)
	}
	if err := os.Mkdir(filepath.Join(dir, "member"), 0o700); err != nil {
		t.Fatal(err)
	}
	if n := needed(dir); n != 64<<20 {
		t.Errorf("a directory with data needs %d MiB", n>>20)
	}
	unlock, err = preflight(dir)
	if err != nil {
		t.Fatalf("not unlocked: %v", err)
	}
	unlock()
	if _, err := preflight(filepath.Join(dir, "lock", "x")); err == nil {
		t.Error("a file's child was taken for a directory")
	}
	if err := checkFree(dir, 1<<62); err == nil || !strings.Contains(err.Error(), "free some") {
		t.Errorf("no disk has that much free: %v", err)
	}
}
