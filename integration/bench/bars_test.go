//go:build linux

package bench

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// contest plays all rounds and returns what each side did.
func contest(ctx context.Context, tb testing.TB, hosts, joins, puts, rounds int) (ideal, ours *result) {
	tb.Helper()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM) // what was changed is put back then, too
	defer stop()
	f := newField(ctx, tb, hosts)
	a, b := &idealSide{f}, &ourSide{field: f}
	for i, p := range f.members {
		service, err := a.service(i)
		check(tb, err)
		check(tb, f.lab.SetServices(ctx, p.Name, service, agentService))
	}
	check(tb, b.found(ctx))
	progress("the nodes have joined")
	results := map[side]*result{a: newResult(), b: newResult()}
	defer func() {
		if tb.Failed() { // what there is
			tb.Log(report(hosts, results[a], results[b]))
		}
	}()
	for round := range rounds {
		turns := []side{a, b}
		if round%2 == 1 {
			slices.Reverse(turns)
		}
		for _, s := range turns {
			r := results[s]
			begun := time.Now()
			check(tb, up(ctx, s))
			progress("round %d: %s is up after %v", round+1, s.name(), time.Since(begun))
			check(tb, f.settle(ctx, r, time.Duration(hosts)*settleMesh))
			progress("settled after %v", time.Since(begun))
			for range share(joins, rounds, round) {
				check(tb, f.join(ctx, s, r))
			}
			progress("joined after %v", time.Since(begun))
			check(tb, f.puts(ctx, s, share(puts, rounds, round), r))
			progress("measured after %v", time.Since(begun))
			check(tb, f.memory(s, r))
			check(tb, s.down(ctx))
		}
	}
	return results[a], results[b]
}

// progress tells those who watch.
func progress(format string, args ...any) {
	if testing.Verbose() {
		fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
	}
}

// up bounds how long a mesh may take to come up.
func up(ctx context.Context, s side) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return s.up(ctx)
}

// share is how much of n falls to a round.
func share(n, rounds, round int) int { return n*(round+1)/rounds - n*round/rounds }

func BenchmarkBars(b *testing.B) {
	for range b.N {
		ideal, ours := contest(b.Context(), b, *hostsFlag, *joinsFlag, *putsFlag, *roundsFlag)
		b.Log(report(*hostsFlag, ideal, ours))
		b.ReportMetric(ours.everywhere.at(0.5)/ideal.everywhere.at(0.5), "join-everywhere-ratio")
		b.ReportMetric(ours.ping.at(0.5)/ideal.ping.at(0.5), "join-ping-ratio")
		b.ReportMetric(ours.put.at(0.99)/ideal.put.at(0.99), "put-p99-ratio")
		b.ReportMetric(ideal.putCPU.at(0.5), "ideal-µs/event/host")
		b.ReportMetric(ours.putCPU.at(0.5), "µs/event/host")
		b.ReportMetric(ours.revisions.at(0.5), "revisions/join")
		b.ReportMetric(ours.memory["VmRSS"].at(1), "agent-MiB")
	}
}

// TestBenchmarkRuns keeps the harness alive; of the figures it only wants that
// they are there.
func TestBenchmarkRuns(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts two stores and makes joins")
	}
	ideal, ours := contest(t.Context(), t, 3, 1, 2, 1)
	for name, r := range map[string]*result{"ideal": ideal, "ours": ours} {
		for what, s := range map[string]sample{"everywhere": r.everywhere, "ping": r.ping, "self": r.self, "put": r.put, "member": *r.stages["member"], "memory": *r.memory["VmRSS"]} {
			if len(s.values) == 0 || s.at(0) <= 0 {
				t.Errorf("%s %s: %v, want times", name, what, &s)
			}
		}
		if r.revisions.at(0) < 1 {
			t.Errorf("%s: a join made %v revisions", name, &r.revisions)
		}
	}
	t.Log(report(3, ideal, ours))
}

func report(hosts int, ideal, ours *result) string {
	var b strings.Builder
	line := func(what string, i, o *sample, q float64, bar float64) {
		fmt.Fprintf(&b, "%s\n  ideal  %v\n  ours   %v\n", what, i, o)
		if bar > 0 {
			ratio, verdict := o.at(q)/i.at(q), "holds"
			if ratio > bar {
				verdict = "MISSED"
			}
			fmt.Fprintf(&b, "  ratio  %.2f at %g, bar %g: %s\n", ratio, q, bar, verdict)
		}
	}
	load, err := os.ReadFile("/proc/loadavg")
	fmt.Fprintf(&b, "\n%d hosts; load average at the end %s (%v); times in ms\n", hosts, strings.TrimSpace(string(load)), err)
	line("busy before a measurement, percent of the machine", &ideal.idle, &ours.idle, 0, 0)
	line("join: entry in all others", &ideal.everywhere, &ours.everywhere, 0.5, 2)
	line("join: first overlay ping", &ideal.ping, &ours.ping, 0.5, 2)
	line("join: all entries of its own", &ideal.self, &ours.self, 0, 0)
	line("put: entry in all", &ideal.put, &ours.put, 0.99, 1.5)
	line("CPU of all agents at rest, ms per second", &ideal.quiet, &ours.quiet, 0, 0)
	line("CPU of an agent per put or delete, beside that, µs", &ideal.putCPU, &ours.putCPU, 0, 0)
	line("CPU of an agent per join of another, beside that, µs", &ideal.joinCPU, &ours.joinCPU, 0, 0)
	line("revisions of a join", &ideal.revisions, &ours.revisions, 0, 0)
	for i, r := range []*result{ideal, ours} {
		name := [...]string{"ideal", "ours"}[i]
		for _, stage := range slices.Sorted(maps.Keys(r.stages)) {
			fmt.Fprintf(&b, "join of %s: %-10s %v\n", name, stage, r.stages[stage])
		}
		for _, method := range slices.Sorted(maps.Keys(r.calls)) {
			if s := r.calls[method]; s.at(1) > 0 {
				fmt.Fprintf(&b, "calls of %s: %-16s %v\n", name, method, s)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(r.memory)) {
			fmt.Fprintf(&b, "agent of %s, MiB: %-8s %v\n", name, key, r.memory[key])
		}
	}
	return b.String()
}
