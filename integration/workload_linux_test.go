package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// worker is a cluster whose hosts start and stop workloads by programs that write down
// what they do: "gold-hoster-01 db start 3", and " done" or " failed" when that is so.
type worker struct {
	*trio
	dir    string // of what they write, and of how they are to behave
	client lab.Workload
}

func newWorker(ctx context.Context, t *testing.T, name string) *worker {
	w := &worker{trio: newTrio(ctx, t, name), dir: t.TempDir()}
	for _, h := range []string{first, second, third} {
		for _, workload := range []string{"www", "db"} {
			w.programs(h, workload)
			w.must(w.Lab.AddWorkload(ctx, lab.Workload{Host: h, Name: workload}))
		}
	}
	for _, args := range [][]string{
		{"vpc", "create", "vpc1", "--network", "10.10.11.0/24"},
		{"endpoint", "create", "www", "--vpc", "vpc1", "--ip", "10.10.11.100", "--place", first + "," + second + "," + third,
			"--mode", "stateless", "--may-run-twice", "--workload", "www", "--hook-timeout", "3s"},
		{"endpoint", "create", "db", "--vpc", "vpc1", "--ip", "10.10.11.101", "--place", first + "," + second + "," + third,
			"--mode", "stateful", "--workload", "db"},
	} {
		_, err := w.Meshvpc(ctx, w.Server, args...)
		w.must(err)
	}
	for _, h := range []string{first, second, third} {
		w.attach(ctx, h)
	}
	w.client = lab.Workload{Host: third, Name: "client", VPC: "vpc1", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.10.11.201/24")}}
	w.must(w.Lab.AddWorkload(ctx, w.client))
	return w
}

func (w *worker) attach(ctx context.Context, host string) {
	w.t.Helper()
	for _, e := range []string{"www", "db"} {
		_, err := w.Meshvpc(ctx, host, "endpoint", "attach", e, "--netns", e)
		w.must(err)
	}
}

// programs gives a host those of a workload. One that is to fail, or to hang, finds a
// file that says so.
func (w *worker) programs(host, workload string) {
	w.t.Helper()
	dir := filepath.Join(w.Lab.Disk(host).Etc, "workloads.d", workload)
	w.must(os.MkdirAll(dir, 0o755))
	for _, kind := range []string{"start", "stop"} {
		body := fmt.Sprintf(`#!/bin/sh
say() { echo "%s %s %s $EPOCH$1" >>%s/log; }
say
if [ -e %s/fail-%s-%s-%s ]; then say " failed"; echo "no disk"; exit 1; fi
while [ -e %s/hang-%s-%s-%s ]; do sleep 0.1; done
say " done"
`, host, workload, kind, w.dir, w.dir, host, workload, kind, w.dir, host, workload, kind)
		w.must(os.WriteFile(filepath.Join(dir, kind), []byte(body), 0o755))
	}
}

// behave has a program fail or hang, or no more.
func (w *worker) behave(how, host, workload, kind string, yes bool) {
	w.t.Helper()
	file := filepath.Join(w.dir, how+"-"+host+"-"+workload+"-"+kind)
	if yes {
		w.must(os.WriteFile(file, nil, 0o644))
	} else {
		w.must(os.Remove(file))
	}
}

// log is what programs of a workload have written since skip lines of it.
func (w *worker) log(workload string, skip int) (lines []string) {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.dir, "log"))
	w.must(err)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == workload {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines[min(skip, len(lines)):]
}

// runsAt waits until an endpoint answers, and where it is asked after that has its
// workload run: what was reported before may be of a host that is lost.
func (w *worker) runsAt(ctx context.Context, endpoint, ip string, nodes ...string) (at string) {
	w.t.Helper()
	w.must(w.Until(ctx, func() error {
		r, err := w.Lab.Ping(ctx, lab.Ping{Host: w.client.Host, Workload: w.client.Name, To: netip.MustParseAddr(ip), Count: 1, Timeout: 200 * time.Millisecond})
		if err != nil {
			return err
		}
		if r.Lost > 0 {
			return errors.New(endpoint + " does not answer")
		}
		var is struct {
			Node, State string
			Port        struct{ Node, State, Reason string }
		}
		err = w.JSON(ctx, &is, w.Server, "endpoint", "show", endpoint)
		at = is.Node
		if err == nil && (is.Port.State != "ready" || is.Port.Node != is.Node || !slices.Contains(nodes, is.Node)) {
			err = fmt.Errorf("%s: %+v, want it at %v", endpoint, is, nodes)
		}
		return err
	}))
	return at
}

// follow wants the programs of a workload to have done this since skip lines, in this
// order, whatever else of other nodes: what was lost is stopped when its node is back.
func (w *worker) follow(workload string, skip int, want ...string) {
	w.t.Helper()
	got := w.log(workload, skip)
	left := want
	for _, line := range got {
		f := strings.Fields(line)
		if said := strings.Join(append([]string{f[0], f[2]}, f[4:]...), " "); len(left) > 0 && said == left[0] {
			left = left[1:]
		}
	}
	if len(left) > 0 {
		w.t.Errorf("%s: want %q in this order, got\n%s", workload, want, strings.Join(got, "\n"))
	}
}

const (
	webIP = "10.10.11.100"
	dbIP  = "10.10.11.101"
)

// TestWorkloads: hosts start and stop what they own, one after the other where it must
// not run twice; what fails or hangs goes to the next; what is lost is started again
// where that does no harm, and else waits for its host.
func TestWorkloads(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	w := newWorker(ctx, t, "workloads")
	web := w.runsAt(ctx, "www", webIP, first, second, third)
	db := w.runsAt(ctx, "db", dbIP, first, second, third)

	t.Run("moved by hand", func(t *testing.T) {
		for _, to := range []string{second, first} { // wherever it began
			if at := w.runsAt(ctx, "db", dbIP, first, second, third); at == to {
				continue
			}
			n := len(w.log("db", 0))
			begun := time.Now()
			_, err := w.Meshvpc(ctx, w.Server, "endpoint", "move", "db", "--node", to)
			w.must(err)
			t.Logf("%s to %s in %s", db, to, time.Since(begun).Round(time.Millisecond))
			w.follow("db", n, db+" stop done", to+" start", to+" start done")
			db = w.runsAt(ctx, "db", dbIP, to)
		}
		if web != first {
			_, err := w.Meshvpc(ctx, w.Server, "endpoint", "move", "www", "--node", first)
			w.must(err)
			web = w.runsAt(ctx, "www", webIP, first)
		}
	})

	t.Run("the agent ends", func(t *testing.T) {
		n := len(w.log("www", 0)) + len(w.log("db", 0))
		ping, err := w.Lab.StartPing(ctx, lab.Ping{Host: w.client.Host, Workload: w.client.Name, To: netip.MustParseAddr(dbIP), Interval: 10 * time.Millisecond})
		w.must(err)
		w.must(w.Lab.Kill(ctx, first, "agent"))
		wait(ctx, time.Second)
		w.must(w.Lab.StartServices(ctx, first, "agent"))
		wait(ctx, 3*time.Second)
		got, err := ping.Stop(ctx)
		w.must(err)
		if got.Lost > 0 {
			t.Errorf("%d of %d pings lost", got.Lost, got.Sent)
		}
		w.runsAt(ctx, "db", dbIP, first)
		if is := len(w.log("www", 0)) + len(w.log("db", 0)); is != n {
			t.Errorf("something was started or stopped: %q, %q", w.log("www", 0), w.log("db", 0))
		}
	})

	t.Run("it does not start", func(t *testing.T) {
		n := len(w.log("db", 0))
		w.behave("fail", third, "db", "start", true)
		defer w.behave("fail", third, "db", "start", false)
		_, err := w.Meshvpc(ctx, w.Server, "endpoint", "move", "db", "--node", third, "--no-wait")
		w.must(err)
		db = w.runsAt(ctx, "db", dbIP, first, second)
		w.follow("db", n, first+" stop done", third+" start failed", third+" stop done", db+" start done")
		w.must(w.Until(ctx, func() error { // written within a second
			out, err := w.Meshvpc(ctx, w.Server, "events")
			if err == nil && !strings.Contains(out, "its workload failed at "+third+": start: exit status 1: no disk") {
				err = fmt.Errorf("events:\n%s", out)
			}
			return err
		}))
	})

	t.Run("it hangs", func(t *testing.T) {
		n := len(w.log("www", 0))
		w.behave("hang", second, "www", "start", true)
		defer w.behave("hang", second, "www", "start", false)
		_, err := w.Meshvpc(ctx, w.Server, "endpoint", "move", "www", "--node", second, "--no-wait")
		w.must(err)
		w.must(w.Until(ctx, func() error {
			if got := w.log("www", n); len(got) == 0 || !strings.Contains(strings.Join(got, "\n"), second+" www start") {
				return fmt.Errorf("it is not started: %q", got)
			}
			return nil
		}))
		begun := time.Now()
		w.runsAt(ctx, "db", dbIP, db) // whose agent may be the same
		web = w.runsAt(ctx, "www", webIP, first, third)
		t.Logf("elsewhere after %s, of which 3 s are the program's time", time.Since(begun).Round(time.Millisecond))
		w.follow("www", n, second+" start", second+" stop done", web+" start done")
	})

	w.lose(ctx)
}

// lose powers off the host of both: one is started elsewhere at once, the other when
// its host is back and has said that it ended.
func (w *worker) lose(ctx context.Context) {
	for e, ip := range map[string]string{"www": webIP, "db": dbIP} {
		if at := w.runsAt(ctx, e, ip, first, second, third); at != first {
			_, err := w.Meshvpc(ctx, w.Server, "endpoint", "move", e, "--node", first)
			w.must(err)
			w.runsAt(ctx, e, ip, first)
		}
	}
	wait(ctx, 8*time.Second) // evidence is collected
	webs, dbs := len(w.log("www", 0)), len(w.log("db", 0))
	begun := time.Now()
	w.must(w.Lab.PowerOff(ctx, first))
	web := w.runsAt(ctx, "www", webIP, second, third)
	w.t.Logf("powered off: started at %s and answering after %s", web, time.Since(begun).Round(time.Millisecond))
	w.follow("www", webs, web+" start done")
	wait(ctx, 5*time.Second)
	var is struct{ Node string }
	w.must(w.JSON(ctx, &is, w.Server, "endpoint", "where", "db"))
	if got := w.log("db", dbs); is.Node != first || len(got) > 0 {
		w.t.Fatalf("nobody knows whether it has ended: it is at %s, and %q was done", is.Node, got)
	}
	w.must(w.Lab.Boot(ctx, first))
	for _, e := range []string{"www", "db"} {
		w.must(w.Lab.AddWorkload(ctx, lab.Workload{Host: first, Name: e}))
	}
	db := w.runsAt(ctx, "db", dbIP, first, second, third)
	w.follow("www", webs, web+" start done", first+" stop done")
	if db == first {
		w.follow("db", dbs, first+" start done")
	} else {
		w.follow("db", dbs, first+" stop done", db+" start", db+" start done")
	}
	w.t.Logf("back: the stateful one runs at %s\n%s", db, strings.Join(w.log("db", dbs), "\n"))
}
