//go:build linux

package lab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/lab"
)

func TestMain(m *testing.M) {
	if handled, exit := lab.Stage(os.Args); handled {
		os.Exit(exit)
	}
	if handled, exit := helper(); handled {
		os.Exit(exit)
	}
	os.Exit(m.Run())
}

// mustStart starts a lab named after the test, and ends it with it.
func mustStart(t *testing.T, cfg lab.Config) *lab.Lab {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = labName(t)
	}
	l := start(t, cfg)
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
		if left := leftovers(t, cfg.Name); len(left) > 0 {
			t.Errorf("left behind: %s", strings.Join(left, "; "))
		}
	})
	return l
}

// start starts a lab that the test ends itself. Where the machine refuses labs
// the test is skipped, unless MESHVPC_REQUIRE_NETNS forbids that.
func start(t *testing.T, cfg lab.Config) *lab.Lab {
	t.Helper()
	began := time.Now()
	l, err := lab.Start(t.Context(), cfg)
	if errors.Is(err, lab.ErrRefused) && os.Getenv("MESHVPC_REQUIRE_NETNS") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("up after %v", time.Since(began).Round(time.Millisecond))
	t.Cleanup(func() { // whatever the test came to
		if err := lab.Down(context.Background(), cfg.Name); err != nil && !errors.Is(err, lab.ErrNotFound) {
			t.Error(err)
		}
	})
	return l
}

func labName(t *testing.T) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(strings.TrimPrefix(t.Name(), "Test")))
	return fmt.Sprintf("t%d-%s", os.Getpid(), name)
}

// run runs a command on a host and returns its trimmed output.
func run(t *testing.T, l *lab.Lab, host, workload string, argv ...string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	code, err := l.Exec(t.Context(), lab.Command{Host: host, Workload: workload, Argv: argv, Stdout: &out, Stderr: &errOut})
	if err != nil || code != 0 {
		t.Fatalf("%v on %s: exit %d, %v: %s", argv, host, code, err, errOut.String())
	}
	return strings.TrimSpace(out.String())
}

// reach reports how many of n pings between two hosts' underlay addresses come
// back, over every family.
func reach(t *testing.T, l *lab.Lab, from, to string, n int) (sent, received int) {
	t.Helper()
	h, err := l.Host(t.Context(), to)
	if err != nil {
		t.Error(err)
		return 0, 0
	}
	for _, p := range h.Underlay {
		r, err := l.Ping(t.Context(), lab.Ping{Host: from, To: p.Addr(), Count: n, Interval: time.Millisecond, Timeout: 150 * time.Millisecond})
		if err != nil {
			t.Error(err)
			return sent, received
		}
		sent, received = sent+r.Sent, received+r.Received
	}
	return sent, received
}

func wantReach(t *testing.T, l *lab.Lab, from, to string, want bool) {
	t.Helper()
	if want { // a router that asked for a host that was off waits a second until it asks again
		eventually(t, to+" answers "+from, func() bool {
			sent, received := reach(t, l, from, to, 1)
			return received == sent
		})
	}
	sent, received := reach(t, l, from, to, 3)
	if want && received != sent || !want && received != 0 {
		t.Errorf("%s to %s: %d of %d pings answered, want reachable %v", from, to, received, sent, want)
	}
}

func TestHostsReachEachOther(t *testing.T) {
	for _, underlay := range []lab.Underlay{lab.IPv6, lab.IPv4, lab.Dual} {
		t.Run(string(underlay), func(t *testing.T) {
			l := mustStart(t, lab.Config{Underlay: underlay})
			s, err := l.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(s.Hosts) != 3 {
				t.Fatalf("%d hosts, want 3", len(s.Hosts))
			}
			for _, from := range s.Hosts {
				if want := map[lab.Underlay]int{lab.IPv6: 1, lab.IPv4: 1, lab.Dual: 2}[underlay]; len(from.Underlay) != want {
					t.Errorf("%s has %v, want %d addresses", from.Name, from.Underlay, want)
				}
				for _, to := range s.Hosts {
					wantReach(t, l, from.Name, to.Name, true)
				}
				wantReach(t, l, lab.Stranger, from.Name, true)
			}
		})
	}
}
