//go:build linux

package lab_test

import (
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/lab"
)

func TestLargeLab(t *testing.T) {
	if testing.Short() {
		t.Skip("100 hosts take a second")
	}
	hosts, err := lab.Topology(100, 3, false)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	l := mustStart(t, lab.Config{Hosts: hosts})
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("up after %v, want 10 s at most", took)
	}
	for _, h := range hosts[1:] {
		wantReach(t, l, hosts[0].Name, h.Name, true)
	}
	began = time.Now()
	if err := l.Cut(t.Context(), "dc1", ""); err != nil { // 34 x 66 x 2 directions
		t.Fatal(err)
	}
	t.Logf("cut after %v", time.Since(began).Round(time.Millisecond))
	wantReach(t, l, "host-001", "host-002", false)
	wantReach(t, l, "host-097", "host-099", false)
	wantReach(t, l, "host-001", "host-100", true)
	wantReach(t, l, "host-002", "host-003", true)
	began = time.Now()
	if err := l.PowerOff(t.Context(), "dc2"); err != nil {
		t.Fatal(err)
	}
	t.Logf("33 hosts off after %v", time.Since(began).Round(time.Millisecond))
	began = time.Now()
	if err := l.Boot(t.Context(), "dc2"); err != nil {
		t.Fatal(err)
	}
	t.Logf("33 hosts booted after %v", time.Since(began).Round(time.Millisecond))
	wantReach(t, l, "host-002", "host-003", true)
	began = time.Now()
	if err := l.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("down after %v", time.Since(began).Round(time.Millisecond))
}
