package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// learned is what `endpoint where MAC` tells.
type learned struct {
	Node, State string
	Port        struct{ Device string }
	Learned     []struct{ Node, Device, Peer string }
	Silent      []string
}

// TestLearned looks for a workload that no record knows, has it flood, and has another
// lie.
func TestLearned(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // agents count once a minute
	t.Cleanup(cancel)
	m := newMesh(t, lab.Dual)
	m.awaitPings(ctx)
	m.finds(ctx)
	m.storm(ctx)
}

// finds looks for the MAC of a workload that is in a bridge by its name alone.
func (m *mesh) finds(ctx context.Context) {
	m.t.Helper()
	at := m.workloads[1]
	mac := m.output(ctx, at.Host, "ip netns exec "+at.Name+" cat /sys/class/net/eth0/address")
	var got learned
	m.must(m.JSON(ctx, &got, m.Server, "endpoint", "where", mac))
	ports := m.output(ctx, at.Host, "ls /sys/class/net/vpc1/brif")
	if got.Node != at.Host || got.State != "learned" || got.Port.Device == "" || !slices.Contains(strings.Fields(ports), got.Port.Device) {
		m.t.Errorf("%s is at %+v; want a port of %s, which are %q", mac, got, at.Host, ports)
	}
	if len(got.Learned) != len(m.hosts) || len(got.Silent) > 0 {
		m.t.Errorf("learned at %+v, no answer from %v; want that all %d hosts know", got.Learned, got.Silent, len(m.hosts))
	}
	m.refused(ctx, m.Server, "no bridge has learned it", "endpoint", "where", "02:00:00:00:99:99")
}

// storm floods from one workload: the others hear no more than the limit, and their
// pings, the storm's own host's among them, lose nothing. Within a minute the host tells.
func (m *mesh) storm(ctx context.Context) {
	m.t.Helper()
	const limit, frames = 100, 8000
	_, err := m.Meshvpc(ctx, m.Server, "vpc", "set", "vpc1", "--flood-limit", fmt.Sprint(limit))
	m.must(err)
	for _, h := range m.hosts {
		m.must(m.Until(ctx, func() error {
			rules, err := m.Lab.Drops(ctx, h)
			if _, there := rules[fmt.Sprintf("meshvpc flood %d told false", limit)]; err == nil && !there {
				err = fmt.Errorf("%s has no such limit: %v", h, rules)
			}
			return err
		}))
	}
	from, ear, third := m.workloads[0], m.workloads[1], m.workloads[2]
	text := []byte("a storm of broadcasts")
	frame := slices.Concat(slices.Repeat([]byte{0xff}, 6), []byte{2, 0, 0, 0, 0x77, 1, 0x88, 0xb5}, text, make([]byte, 40))
	sniff, err := m.Lab.StartSniff(ctx, lab.Sniff{Host: ear.Host, Workload: ear.Name, Match: lab.Match{Contains: text}})
	m.must(err)
	var pings []*lab.PingRun
	for _, p := range []struct{ from, to lab.Workload }{{from, ear}, {third, ear}} {
		run, err := m.Lab.StartPing(ctx, lab.Ping{Host: p.from.Host, Workload: p.from.Name, To: p.to.Prefixes[0].Addr(), Interval: 20 * time.Millisecond})
		m.must(err)
		pings = append(pings, run)
	}
	start := time.Now()
	m.must(m.Lab.SendFrames(ctx, lab.Frames{Host: from.Host, Workload: from.Name, Frame: frame, Count: frames, Interval: 50 * time.Microsecond}))
	took := time.Since(start)
	for i, run := range pings {
		r, err := run.Stop(ctx)
		m.must(err)
		if r.Lost > 0 || r.Received == 0 {
			m.t.Errorf("pings %d beside the storm: %d of %d lost", i, r.Lost, r.Sent)
		}
	}
	heard, err := sniff.Stop(ctx)
	m.must(err)
	most := 2*limit + int(limit*time.Since(start).Seconds()) + 1
	m.t.Logf("%d broadcasts in %v: another host heard %d, at most %d were to pass", frames, took, heard.Count, most)
	if heard.Count > most || heard.Count == 0 {
		m.t.Errorf("another host heard %d of %d broadcasts; want 1 to %d", heard.Count, frames, most)
	}
	m.must(m.Until(ctx, func() error {
		var s struct {
			Members []struct {
				Node    string
				Dropped uint64 `json:"flood_dropped"`
			}
		}
		if err := m.JSON(ctx, &s, m.Server, "vpc", "status", "vpc1"); err != nil {
			return err
		}
		for _, b := range s.Members {
			if b.Node == from.Host && b.Dropped >= uint64(frames-most) {
				return nil
			}
		}
		return fmt.Errorf("the report tells of no storm: %+v", s.Members)
	}))
}
