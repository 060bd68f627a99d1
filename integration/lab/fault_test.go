//go:build linux

package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/meshvpc/meshvpc/integration/lab"
)

const (
	jhoster, gold1, gold2 = "jhoster1", "gold-hoster-01", "gold-hoster-02"
)

func TestCutAndHeal(t *testing.T) {
	l := mustStart(t, lab.Config{Underlay: lab.Dual})
	type pair struct{ from, to string }
	all := []pair{{jhoster, gold1}, {gold1, jhoster}, {jhoster, gold2}, {gold2, gold1}, {lab.Stranger, jhoster}, {lab.Stranger, gold1}}
	wantCut := func(t *testing.T, cut map[pair]bool) {
		t.Helper()
		var group sync.WaitGroup
		for _, p := range all {
			group.Go(func() { wantReach(t, l, p.from, p.to, !cut[p]) })
		}
		group.Wait()
	}
	wantCut(t, nil)
	for name, tt := range map[string]struct {
		a, b string
		cut  map[pair]bool
	}{
		"two hosts":              {gold2, gold1, map[pair]bool{{gold2, gold1}: true}},
		"a host from everybody":  {jhoster, "", map[pair]bool{{jhoster, gold1}: true, {gold1, jhoster}: true, {jhoster, gold2}: true, {lab.Stranger, jhoster}: true}},
		"a host from datacenter": {jhoster, "hetzner", map[pair]bool{{jhoster, gold1}: true, {gold1, jhoster}: true, {jhoster, gold2}: true}},
		"a datacenter":           {"hetzner", "", map[pair]bool{{jhoster, gold1}: true, {gold1, jhoster}: true, {jhoster, gold2}: true, {lab.Stranger, gold1}: true}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := l.Cut(t.Context(), tt.a, tt.b); err != nil {
				t.Fatal(err)
			}
			wantCut(t, tt.cut)
			s, err := l.Status(t.Context())
			if err != nil || len(s.Cuts) != 1 || s.Cuts[0] != (lab.Cut{A: tt.a, B: tt.b}) {
				t.Errorf("status says %v, %v", s.Cuts, err)
			}
			if err := l.Heal(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantCut(t, nil)
		})
	}
	for _, side := range []string{gold1, "skynet"} {
		if err := l.Cut(t.Context(), side, side); err == nil || !strings.Contains(err.Error(), "name two sides") {
			t.Errorf("%s was cut from itself: %v", side, err)
		}
	}
	if err := l.Cut(t.Context(), "hetzner", "hetzner"); err != nil {
		t.Errorf("cut of a datacenter's hosts from one another: %v", err)
	}
	wantCut(t, map[pair]bool{{gold2, gold1}: true})
	if err := l.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Cut(t.Context(), "nowhere", ""); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("cut of an unknown place: got %v, want ErrNotFound", err)
	}
}

// TestOneWay: what is sent against the cut arrives, and its answer does not.
func TestOneWay(t *testing.T) {
	l := mustStart(t, lab.Config{Underlay: lab.Dual})
	ctx := t.Context()
	arrive := func(from, to string) int {
		t.Helper()
		h, err := l.Host(ctx, to)
		if err != nil {
			t.Fatal(err)
		}
		sniff, err := l.StartSniff(ctx, lab.Sniff{Host: to, Match: lab.Match{IPProtocol: 17, Contains: []byte("passes")}})
		if err != nil {
			t.Fatal(err)
		}
		for _, addr := range h.Underlay { // of both families
			if err := l.SendUDP(ctx, lab.Datagrams{Host: from, To: netip.AddrPortFrom(addr.Addr(), 4789), Payload: []byte("passes")}); err != nil {
				t.Fatal(err)
			}
		}
		wantReach(t, l, lab.Stranger, to, true) // after the datagrams
		got, err := sniff.Stop(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return got.Count
	}
	if err := l.OneWay(ctx, jhoster, "hetzner"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		from, to string
		want     int
	}{{jhoster, gold1, 0}, {jhoster, gold2, 0}, {gold1, jhoster, 2}, {gold2, jhoster, 2}, {gold1, gold2, 2}} {
		if got := arrive(tt.from, tt.to); got != tt.want {
			t.Errorf("%d datagrams from %s arrive at %s, want %d", got, tt.from, tt.to, tt.want)
		}
	}
	wantReach(t, l, gold1, jhoster, false)
	s, err := l.Status(ctx)
	if err != nil || len(s.Cuts) != 1 || s.Cuts[0] != (lab.Cut{A: jhoster, B: "hetzner", OneWay: true}) {
		t.Errorf("status says %v, %v", s.Cuts, err)
	}
	if err := l.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	wantReach(t, l, gold1, jhoster, true)
}

// TestImpair: what is delayed takes its time and no less, what is lossy is lost in
// part, others are as they were, and a cut is a cut also there.
func TestImpair(t *testing.T) {
	l := mustStart(t, lab.Config{Underlay: lab.Dual})
	ctx := t.Context()
	ping := func(from, to string, count int) (list []lab.PingResult) {
		t.Helper()
		h, err := l.Host(ctx, to)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range h.Underlay {
			r, err := l.Ping(ctx, lab.Ping{Host: from, To: a.Addr(), Count: count, Interval: time.Millisecond, Timeout: 5 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, r)
		}
		return list
	}
	const delay = 40 * time.Millisecond
	impair := func(i lab.Impairment) {
		t.Helper()
		err := l.Impair(ctx, i)
		if errors.Is(err, lab.ErrRefused) && os.Getuid() != 0 {
			t.Skip("/dev/net/tun is root's alone on this machine")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	impair(lab.Impairment{A: "skynet", B: "hetzner", Delay: delay})
	for _, r := range ping(gold2, jhoster, 5) {
		if r.Lost > 0 || r.Min < 2*delay {
			t.Errorf("delayed by %v each way: %d lost, round trips from %v on", delay, r.Lost, r.Min)
		}
	}
	for _, r := range ping(gold2, gold1, 5) {
		if r.Lost > 0 || r.Min >= 2*delay {
			t.Errorf("within a datacenter: %d lost, round trips from %v on", r.Lost, r.Min)
		}
	}
	if _, err := l.Readdress(ctx, gold2); err != nil {
		t.Fatal(err)
	}
	impair(lab.Impairment{A: gold2, Loss: 0.3})
	for _, r := range ping(gold2, jhoster, 200) { // 98 come back of 200, give or take 7
		if r.Received < 40 || r.Received > 160 || r.Min < 2*delay {
			t.Errorf("30%% lost each way: %d of 200 came back, after %v", r.Received, r.Min)
		}
	}
	for _, r := range ping(gold1, jhoster, 5) {
		if r.Lost > 0 || r.Min < 2*delay {
			t.Errorf("delayed, not lossy: %d lost, round trips from %v on", r.Lost, r.Min)
		}
	}
	if err := l.Cut(ctx, gold1, jhoster); err != nil {
		t.Fatal(err)
	}
	wantReach(t, l, gold1, jhoster, false)
	s, err := l.Status(ctx)
	if err != nil || len(s.Impaired) != 2 || s.Impaired[1] != (lab.Impairment{A: gold2, Loss: 0.3}) {
		t.Errorf("status says %v, %v", s.Impaired, err)
	}
	if err := l.Impair(ctx, lab.Impairment{A: gold1, Loss: 1.1}); err == nil || !strings.Contains(err.Error(), "a loss of at most 1") {
		t.Errorf("a loss of 110%%: %v", err)
	}
	if err := l.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	for _, r := range ping(gold2, jhoster, 50) {
		if r.Lost > 0 || r.Min >= 2*delay {
			t.Errorf("healed: %d lost, round trips from %v on", r.Lost, r.Min)
		}
	}
}

func TestCutHoldsForHostsThatComeLater(t *testing.T) {
	l := mustStart(t, lab.Config{})
	if err := l.Cut(t.Context(), "skynet", "hetzner"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.AddHost(t.Context(), lab.HostConfig{Name: "late", Datacenter: "hetzner"}); err != nil {
		t.Fatal(err)
	}
	wantReach(t, l, "late", jhoster, false)
	wantReach(t, l, "late", gold1, true)
	if err := l.PowerOff(t.Context(), gold1); err != nil {
		t.Fatal(err)
	}
	if err := l.Boot(t.Context(), gold1); err != nil {
		t.Fatal(err)
	}
	wantReach(t, l, gold1, jhoster, false)
	wantReach(t, l, gold1, "late", true)
}

func TestReaddress(t *testing.T) {
	l := mustStart(t, lab.Config{Underlay: lab.Dual})
	before, err := l.Host(t.Context(), gold1)
	if err != nil {
		t.Fatal(err)
	}
	after, err := l.Readdress(t.Context(), gold1)
	if err != nil {
		t.Fatal(err)
	}
	for i := range before.Underlay {
		if before.Underlay[i].Masked() == after.Underlay[i].Masked() {
			t.Errorf("%v is of the same subnet as %v", after.Underlay[i], before.Underlay[i])
		}
		r, err := l.Ping(t.Context(), lab.Ping{Host: jhoster, To: before.Underlay[i].Addr(), Count: 1, Timeout: 50 * time.Millisecond})
		if err != nil || r.Received != 0 {
			t.Errorf("old address %v: %+v, %v; want no answer", before.Underlay[i], r, err)
		}
	}
	wantReach(t, l, jhoster, gold1, true)
	wantReach(t, l, gold1, jhoster, true)
	again, err := l.Host(t.Context(), gold1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fmt.Sprint(after), fmt.Sprint(again)); diff != "" {
		t.Errorf("status differs from what Readdress said:\n%s", diff)
	}
}

func TestAddAndRemoveHost(t *testing.T) {
	l := mustStart(t, lab.Config{})
	h, err := l.AddHost(t.Context(), lab.HostConfig{Name: "fourth", Datacenter: "skynet"})
	if err != nil {
		t.Fatal(err)
	}
	if !h.On || len(h.Underlay) != 1 {
		t.Errorf("got %+v, want it on with one address", h)
	}
	wantReach(t, l, gold1, "fourth", true)
	if _, err := l.AddHost(t.Context(), lab.HostConfig{Name: "fourth", Datacenter: "skynet"}); !errors.Is(err, lab.ErrExists) {
		t.Errorf("again: got %v, want ErrExists", err)
	}
	if err := l.RemoveHost(t.Context(), "fourth"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Host(t.Context(), "fourth"); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("after removal: got %v, want ErrNotFound", err)
	}
	if _, err := os.Stat(filepath.Dir(l.Disk("fourth").Etc)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its disk: got %v, want ErrNotExist", err)
	}
}

// sleeper is a service that says so and sleeps.
func sleeper(name string) lab.Service {
	return lab.Service{Name: name, Argv: []string{"sh", "-c", "echo up as $WHO; sleep 1000"}, Env: []string{"WHO=" + name}}
}

func wantStates(t *testing.T, l *lab.Lab, host string, want map[string]string) map[string]int {
	t.Helper()
	h, err := l.Host(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	got, pids := map[string]string{}, map[string]int{}
	for _, s := range h.Services {
		got[s.Name], pids[s.Name] = s.State, s.PID
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("services of %s (-want +got):\n%s", host, diff)
	}
	return pids
}

func TestServices(t *testing.T) {
	l := mustStart(t, lab.Config{})
	ctx := t.Context()
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Kill(ctx, jhoster, ""); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("kill without services: got %v, want ErrNotFound", err)
	}
	do(l.SetServices(ctx, jhoster, sleeper("server"), sleeper("agent")))
	wantStates(t, l, jhoster, map[string]string{"server": "stopped", "agent": "stopped"})
	do(l.StartServices(ctx, jhoster, ""))
	first := wantStates(t, l, jhoster, map[string]string{"server": "running", "agent": "running"})
	do(l.StartServices(ctx, jhoster, ""))
	second := wantStates(t, l, jhoster, map[string]string{"server": "running", "agent": "running"})
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("starting what runs changed it:\n%s", diff)
	}
	sleeping := func() bool { // each shell past its vfork(2), in which it cannot be stopped
		return run(t, l, jhoster, "", "sh", "-c", "grep -l sleep /proc/[0-9]*/comm | wc -l") == "2"
	}
	eventually(t, "both services sleep", sleeping)
	do(l.Freeze(ctx, jhoster, "agent"))
	wantStates(t, l, jhoster, map[string]string{"server": "running", "agent": "frozen"})
	frozen := func() string {
		return run(t, l, jhoster, "", "sh", "-c", fmt.Sprintf("grep State: /proc/%d/status", first["agent"]))
	}
	if got := frozen(); got != "State:\tT (stopped)" {
		t.Errorf("frozen agent is %q", got)
	}
	do(l.Thaw(ctx, jhoster, ""))
	wantStates(t, l, jhoster, map[string]string{"server": "running", "agent": "running"})
	do(l.Kill(ctx, jhoster, "agent"))
	wantStates(t, l, jhoster, map[string]string{"server": "running", "agent": "signal killed"})
	do(l.StartServices(ctx, jhoster, "agent"))
	wantStates(t, l, jhoster, map[string]string{"server": "running", "agent": "running"})
	eventually(t, "both services sleep again", sleeping)
	do(l.Kill(ctx, jhoster, ""))
	if got := run(t, l, jhoster, "", "sh", "-c", "grep -l sleep /proc/[0-9]*/comm || true"); got != "" {
		t.Errorf("children of killed services live: %s", got)
	}
	if err := l.Kill(ctx, jhoster, "cook"); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("kill of an unknown service: got %v, want ErrNotFound", err)
	}
	log, err := os.ReadFile(filepath.Join(l.Disk(jhoster).Log, "agent.log"))
	if err != nil || string(log) != "up as agent\nup as agent\n" {
		t.Errorf("log %q, %v; want two starts", log, err)
	}
}

func TestPowerCycle(t *testing.T) {
	l := mustStart(t, lab.Config{})
	ctx := t.Context()
	mustMesh(t, l)
	before, err := l.Host(ctx, gold1)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.SetServices(ctx, gold1, sleeper("agent")); err != nil {
		t.Fatal(err)
	}
	run(t, l, gold1, "", "sh", "-c", "echo kept > $MESHVPC_STATE_DIR/file; echo lost > /run/file")
	ping, err := l.StartPing(ctx, lab.Ping{Host: gold1, To: before.Underlay[0].Addr()})
	if err != nil {
		t.Fatal(err)
	}

	if err := l.PowerOff(ctx, "hetzner"); err != nil {
		t.Fatal(err)
	}
	if _, err := ping.Stop(ctx); err == nil {
		t.Error("a ping on a host that went off has a result")
	}
	wantReach(t, l, jhoster, gold1, false)
	if _, err := l.Exec(ctx, lab.Command{Host: gold1, Argv: []string{"true"}}); !errors.Is(err, lab.ErrPoweredOff) {
		t.Errorf("exec: got %v, want ErrPoweredOff", err)
	}
	s, err := l.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range s.Hosts {
		if h.On != (h.Name == jhoster) {
			t.Errorf("%s is on: %v", h.Name, h.On)
		}
	}

	if err := l.Boot(ctx, "hetzner"); err != nil {
		t.Fatal(err)
	}
	after, err := l.Host(ctx, gold1)
	if err != nil {
		t.Fatal(err)
	}
	if !after.On || fmt.Sprint(after.Underlay) != fmt.Sprint(before.Underlay) || len(after.Workloads) != 0 {
		t.Errorf("after boot %+v; want it on with %v and no workload", after, before.Underlay)
	}
	wantStates(t, l, gold1, map[string]string{"agent": "running"})
	wantReach(t, l, jhoster, gold1, true)
	if got := run(t, l, gold1, "", "sh", "-c", "cat $MESHVPC_STATE_DIR/file; ls /run /run/netns; grep -c : /proc/net/dev"); got != "kept\n/run:\nnetns\n\n/run/netns:\n2" {
		t.Errorf("after boot: %q; want the file kept, an empty /run, and lo and u0 only", got)
	}
}

func TestPingGap(t *testing.T) {
	l := mustStart(t, lab.Config{})
	ctx := t.Context()
	h, err := l.Host(ctx, gold1)
	if err != nil {
		t.Fatal(err)
	}
	ping, err := l.StartPing(ctx, lab.Ping{Host: jhoster, To: h.Underlay[0].Addr(), Interval: time.Millisecond, Timeout: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	wantReach(t, l, jhoster, gold1, true)
	if err := l.Cut(ctx, jhoster, gold1); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	wantReach(t, l, jhoster, gold1, false) // takes its timeout
	cut := time.Since(began)
	if err := l.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	wantReach(t, l, jhoster, gold1, true)
	r, err := ping.Stop(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if r.Gap < cut || r.Gap > cut+500*time.Millisecond || r.Lost == 0 || r.Received == 0 || r.Lost+r.Received != r.Sent {
		t.Errorf("after a cut of %v: gap %v, sent %d, received %d, lost %d", cut, r.Gap, r.Sent, r.Received, r.Lost)
	}
}

func TestStrangerForgesDatagrams(t *testing.T) {
	for _, underlay := range []lab.Underlay{lab.IPv6, lab.IPv4} {
		t.Run(string(underlay), func(t *testing.T) {
			l := mustStart(t, lab.Config{Underlay: underlay})
			ctx := t.Context()
			var addr [2]netip.Addr
			for i, name := range []string{jhoster, gold1} {
				h, err := l.Host(ctx, name)
				if err != nil {
					t.Fatal(err)
				}
				addr[i] = h.Underlay[0].Addr()
			}
			sniff, err := l.StartSniff(ctx, lab.Sniff{Host: jhoster, Match: lab.Match{IPProtocol: 17, Contains: []byte("forged")}, Keep: 64})
			if err != nil {
				t.Fatal(err)
			}
			d := lab.Datagrams{Host: lab.Stranger, To: netip.AddrPortFrom(addr[0], 4789), Payload: []byte("forged"), Count: 2}
			if err := l.SendUDP(ctx, d); err != nil {
				t.Fatal(err)
			}
			d.From = netip.AddrPortFrom(addr[1], 4789)
			if err := l.SendUDP(ctx, d); err != nil {
				t.Fatal(err)
			}
			wantReach(t, l, lab.Stranger, jhoster, true) // after the datagrams
			got, err := sniff.Stop(ctx)
			if err != nil {
				t.Fatal(err)
			}
			from := map[netip.Addr]int{}
			for _, f := range got.Frames {
				at, size := 26, 4
				if underlay == lab.IPv6 {
					at, size = 22, 16
				}
				a, _ := netip.AddrFromSlice(f[at : at+size])
				from[a]++
			}
			if got.Count != 4 || from[addr[1]] != 2 || len(from) != 2 {
				t.Errorf("%d datagrams arrived, from %v; want 4, of which 2 from %v", got.Count, from, addr[1])
			}
		})
	}
}
