//go:build linux

package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// mustMesh makes VPC "vpc1" on every host by hand, with workload w<i> having
// 10.10.11.<i>/24 and fd00::<i>/64 on host i, from 1.
func mustMesh(t *testing.T, l *lab.Lab) []lab.Workload {
	t.Helper()
	s, err := l.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var list []lab.Workload
	for i, h := range s.Hosts {
		argv := []string{"meshvpc", "mesh", "vpc1", h.Underlay[0].Addr().String()}
		for _, p := range s.Hosts {
			if p.Name != h.Name {
				argv = append(argv, p.Underlay[0].Addr().String())
			}
		}
		run(t, l, h.Name, "", argv...)
		w := lab.Workload{Host: h.Name, Name: fmt.Sprintf("w%d", i+1), VPC: "vpc1", Prefixes: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.10.11.%d/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd00::%d/64", i+1)),
		}}
		if err := l.AddWorkload(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		list = append(list, w)
	}
	return list
}

func TestWorkloads(t *testing.T) {
	l := mustStart(t, lab.Config{})
	w := lab.Workload{Host: "jhoster1", Name: "early", VPC: "vpc1"}
	if err := l.AddWorkload(t.Context(), w); !errors.Is(err, lab.ErrNotFound) {
		t.Fatalf("without a bridge: got %v, want ErrNotFound", err)
	}
	bare := lab.Workload{Host: "jhoster1", Name: "bare"}
	if err := l.AddWorkload(t.Context(), bare); err != nil {
		t.Fatal(err)
	}
	if err := l.AddWorkload(t.Context(), bare); !errors.Is(err, lab.ErrExists) {
		t.Errorf("a second one of that name: got %v, want ErrExists", err)
	}
	if err := l.RemoveWorkload(t.Context(), bare.Host, bare.Name); err != nil {
		t.Errorf("one without a device is removed: %v", err)
	}
	list := mustMesh(t, l)
	for _, from := range list {
		for _, to := range list {
			for _, p := range to.Prefixes {
				r, err := l.Ping(t.Context(), lab.Ping{Host: from.Host, Workload: from.Name, To: p.Addr(), Size: 1430, DontFragment: true, Interval: time.Millisecond})
				if err != nil {
					t.Fatal(err)
				}
				if r.Lost != 0 || r.Duplicates != 0 || r.Received != 3 {
					t.Errorf("%s to %s: %+v, want 3 replies", from.Name, p, r)
				}
			}
		}
	}
	t.Run("larger than the MTU", func(t *testing.T) {
		r, err := l.Ping(t.Context(), lab.Ping{Host: list[0].Host, Workload: "w1", To: list[1].Prefixes[0].Addr(), Count: 2, Size: 1431, DontFragment: true, Timeout: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if r.Lost != 2 || r.Unsent != 2 || r.LastError == "" {
			t.Errorf("got %+v, want 2 refused by the kernel", r)
		}
	})
	t.Run("name is taken", func(t *testing.T) {
		if err := l.AddWorkload(t.Context(), list[0]); !errors.Is(err, lab.ErrExists) {
			t.Errorf("got %v, want ErrExists", err)
		}
	})
	t.Run("long name, command inside, removal", func(t *testing.T) {
		w := lab.Workload{Host: "jhoster1", Name: "a-workload-of-some-length", VPC: "vpc1", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.10.11.77/24")}}
		if err := l.AddWorkload(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		if got := run(t, l, w.Host, w.Name, "sh", "-c", "grep -c eth0 /proc/net/dev"); got != "1" {
			t.Errorf("%s devices called eth0 in the workload, want 1", got)
		}
		if err := l.RemoveWorkload(t.Context(), w.Host, w.Name); err != nil {
			t.Fatal(err)
		}
		if err := l.RemoveWorkload(t.Context(), w.Host, w.Name); !errors.Is(err, lab.ErrNotFound) {
			t.Errorf("again: got %v, want ErrNotFound", err)
		}
		if got := run(t, l, w.Host, "", "ls", "/run/netns"); got != "w1" {
			t.Errorf("namespaces %q, want w1", got)
		}
	})
	t.Run("a broadcast arrives exactly once everywhere", func(t *testing.T) {
		frame := make([]byte, 60)
		copy(frame, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 0x88, 0xb5})
		var runs []*lab.SniffRun
		for _, w := range list {
			r, err := l.StartSniff(t.Context(), lab.Sniff{Host: w.Host, Workload: w.Name, Match: lab.Match{EtherType: 0x88b5}, Keep: 1})
			if err != nil {
				t.Fatal(err)
			}
			runs = append(runs, r)
		}
		if err := l.SendFrames(t.Context(), lab.Frames{Host: list[0].Host, Workload: "w1", Frame: frame, Count: 10}); err != nil {
			t.Fatal(err)
		}
		// A full round trip after the broadcasts: they have arrived before it.
		for _, to := range list[1:] {
			if _, err := l.Ping(t.Context(), lab.Ping{Host: list[0].Host, Workload: "w1", To: to.Prefixes[0].Addr(), Count: 1}); err != nil {
				t.Fatal(err)
			}
		}
		for i, r := range runs {
			got, err := r.Stop(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			want := 10
			if i == 0 {
				want = 0 // the sender
			}
			if got.Count != want || got.Dropped != 0 || len(got.Frames) != min(want, 1) {
				t.Errorf("%s saw %d of 10 broadcasts, %d dropped, kept %d; want %d", list[i].Name, got.Count, got.Dropped, len(got.Frames), want)
			}
		}
	})
}
