//go:build linux

package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
)

// result is what one side was seen to do, times in milliseconds.
type result struct {
	everywhere, ping, self, put sample
	stages                      map[string]*sample // of a join, from its start
	revisions                   sample
	calls                       map[string]*sample // by method, less the background
	memory                      map[string]*sample // MiB of each agent
	idle                        sample             // share of the machine that is busy between measurements, percent
	quiet                       sample             // CPU of all agents while nothing changes, ms per second
	putCPU, joinCPU             sample             // CPU of an agent per put or delete, of each round, and per join of another, less that, µs
}

func newResult() *result {
	return &result{stages: map[string]*sample{}, calls: map[string]*sample{}, memory: map[string]*sample{}}
}

func note(m map[string]*sample, key string, v float64) {
	if m[key] == nil {
		m[key] = &sample{}
	}
	m[key].add(v)
}

const (
	joinPatience = 30 * time.Second
	afterwards   = time.Second            // of a join that still belongs to it
	settleShort  = 500 * time.Millisecond // after one change
	settleMesh   = 300 * time.Millisecond // after the start of a mesh, for each host
)

// join measures one join of the last member, and takes it out again.
func (f *field) join(ctx context.Context, s side, r *result) (err error) {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if err := f.settle(ctx, r, settleShort); err != nil {
		return err
	}
	head, err := s.shop().cli.Get(ctx, "none")
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	seen := watchStages(watching, s, head.Header.Revision+1)
	before, err := s.shop().calls(ctx)
	if err != nil {
		return err
	}
	pids, err := f.agents(s)
	if err != nil {
		return err
	}
	busy, err := cpuOf(pids)
	if err != nil {
		return err
	}
	me := f.joiner()
	others := f.kernels.expect(s.entry(me.address()), false, f.others()...)
	var own []*await
	for _, i := range f.others() {
		own = append(own, f.kernels.expect(s.entry(f.members[i].address()), false, len(f.members)-1))
	}
	namespace, to := s.target()
	var (
		g      errgroup.Group
		pinged time.Time
	)
	g.Go(func() error {
		var err error
		pinged, err = firstPing(ctx, me, namespace, to)
		return err
	})
	start := time.Now()
	if err := f.lab.StartServices(ctx, me.Name, serviceOf(s)); err != nil {
		return err
	}
	err = f.kernels.wait(ctx, others)
	for _, w := range own {
		err = errors.Join(err, f.kernels.wait(ctx, w))
	}
	if err = errors.Join(err, g.Wait()); err != nil {
		return fmt.Errorf("%s join: %w\n%s", s.name(), err, f.log(me, serviceOf(s)))
	}
	pause(afterwards)
	window := time.Since(start)
	used, err := cpuOf(pids)
	if err != nil {
		return err
	}
	after, err := s.shop().calls(ctx)
	if err != nil {
		return err
	}
	tail, err := s.shop().cli.Get(ctx, "none")
	if err != nil {
		return err
	}
	stop()
	last := own[0].last
	for _, w := range own {
		if w.last.After(last) {
			last = w.last
		}
	}
	r.everywhere.since(start, others.last)
	r.ping.since(start, pinged)
	r.self.since(start, last)
	note(r.stages, "fdb first", milliseconds(others.first.Sub(start)))
	for stage, at := range <-seen {
		note(r.stages, stage, milliseconds(at.Sub(start)))
	}
	r.revisions.add(float64(tail.Header.Revision - head.Header.Revision))
	if err := f.settle(ctx, r, settleShort); err != nil {
		return err
	}
	quiet, err := s.shop().calls(ctx)
	if err != nil {
		return err
	}
	rest, err := cpuOf(pids)
	if err != nil {
		return err
	}
	pause(window)
	rested, err := cpuOf(pids)
	if err != nil {
		return err
	}
	r.joinCPU.add(1000 * (used - busy - (rested - rest)) / float64(len(pids)))
	background, err := s.shop().calls(ctx)
	if err != nil {
		return err
	}
	for method := range background {
		note(r.calls, method, after[method]-before[method]-(background[method]-quiet[method]))
	}
	return s.leave(ctx)
}

func serviceOf(s side) string {
	if s.name() == "ideal" {
		return idealService
	}
	return ourService
}

// watchStages notes when each stage was first seen in the store.
func watchStages(ctx context.Context, s side, from int64) <-chan map[string]time.Time {
	out := make(chan map[string]time.Time, 1)
	prefix := cluster.Root
	if s.name() == "ideal" {
		prefix = idealPrefix
	}
	w := s.shop().cli.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithCreatedNotify())
	<-w // it is there, or ctx has ended
	go func() {
		seen := map[string]time.Time{}
		for c := range w {
			now := time.Now()
			for _, e := range c.Events {
				if stage := s.stage(string(e.Kv.Key)); stage != "" && seen[stage].IsZero() {
					seen[stage] = now
				}
			}
		}
		out <- seen
	}()
	return out
}

// put measures one put of a member that does not exist, and deletes it.
func (f *field) put(ctx context.Context, s side, i int, r *result) error {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	if err := f.settle(ctx, r, settleShort); err != nil {
		return err
	}
	at := netip.AddrFrom4([4]byte{10, 99, 0, byte(i%250 + 1)})
	key, value := s.ghost(i%250+1, at)
	come, gone := f.kernels.expect(s.entry(at), false, f.others()...), f.kernels.expect(s.entry(at), true, f.others()...)
	start := time.Now()
	if _, err := s.shop().cli.Put(ctx, key, value); err != nil {
		return err
	}
	if err := f.kernels.wait(ctx, come); err != nil {
		return fmt.Errorf("%s put: %w", s.name(), err)
	}
	r.put.since(start, come.last)
	if _, err := s.shop().cli.Delete(ctx, key); err != nil {
		return err
	}
	return f.kernels.wait(ctx, gone)
}

// settle waits until the machine has calmed down from what was done to it, and
// notes how busy it is then.
func (f *field) settle(ctx context.Context, r *result, patience time.Duration) error {
	const sampleFor, calm = 100 * time.Millisecond, 0.35
	for begun := time.Now(); ; {
		b, err := busy(ctx, sampleFor)
		if err != nil {
			return err
		}
		if b < calm || time.Since(begun) > patience { // a machine that is never calm is in the figures
			r.idle.add(100 * b)
			return nil
		}
	}
}

// busy is the share of the machine's time that is not idle.
func busy(ctx context.Context, d time.Duration) (float64, error) {
	idle0, all0, err := cpuTime()
	if err != nil {
		return 0, err
	}
	pause(d)
	idle1, all1, err := cpuTime()
	if err != nil {
		return 0, err
	}
	if all1 == all0 {
		return 0, ctx.Err()
	}
	return 1 - (idle1-idle0)/(all1-all0), ctx.Err()
}

func cpuTime() (idle, all float64, err error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	for i, field := range strings.Fields(line)[1:] {
		v, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("read /proc/stat: %w", err)
		}
		if i == 3 || i == 4 { // idle, and waiting for a disk
			idle += v
		}
		if i < 8 { // guest time is in the others
			all += v
		}
	}
	return idle, all, nil
}

// calls are what the server has counted of each gRPC method.
func (s *shop) calls(ctx context.Context) (map[string]float64, error) {
	t := &http.Transport{TLSClientConfig: s.tls, DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return s.dial(ctx, address) }}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	res, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	out := map[string]float64{}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), "grpc_server_started_total{")
		if !ok {
			continue
		}
		_, method, _ := strings.Cut(text, `grpc_method="`)
		method, rest, ok := strings.Cut(method, `"`)
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if !ok || err != nil {
			return nil, fmt.Errorf("read metrics line %q: %w", lines.Text(), err)
		}
		out[method] += v
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(out) == 0 {
		_, err := io.Copy(io.Discard, res.Body)
		return nil, errors.Join(errors.New("the server counts no calls"), err)
	}
	return out, nil
}

// memory reads the resident memory of the members' agents.
func (f *field) memory(s side, r *result) error {
	pids, err := f.agents(s)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		for _, key := range []string{"VmRSS", "RssAnon", "RssFile"} {
			kb, err := procField(pid, key)
			if err != nil {
				return err
			}
			note(r.memory, key, kb/1024)
		}
	}
	return nil
}

// quietFor is how long the agents are watched at rest.
const quietFor = 5 * time.Second

// puts measures n puts, and what they cost all agents beside what those do anyway.
func (f *field) puts(ctx context.Context, s side, n int, r *result) error {
	pids, err := f.agents(s)
	if err != nil {
		return err
	}
	spent := func(do func() error) (cpu, wall float64, err error) {
		before, err := cpuOf(pids)
		start := time.Now()
		if err == nil {
			err = do()
		}
		wall = milliseconds(time.Since(start))
		after, failed := cpuOf(pids)
		return after - before, wall, errors.Join(err, failed)
	}
	cpu, wall, err := spent(func() error { pause(quietFor); return ctx.Err() })
	if err != nil {
		return err
	}
	rate := cpu / wall
	r.quiet.add(1000 * rate)
	cpu, wall, err = spent(func() error {
		for range n {
			if err := f.put(ctx, s, len(r.put.values), r); err != nil {
				return err
			}
		}
		pause(quietFor) // what is done later for it is part of it
		return ctx.Err()
	})
	if n > 0 {
		r.putCPU.add(1000 * (cpu - rate*wall) / float64(2*n*len(pids)))
	}
	return err
}

// cpuOf is the CPU time of processes, ms.
func cpuOf(pids []int) (ms float64, err error) {
	const schedule = 2 // CPUCLOCK_SCHED of the kernel's posix-timers
	for _, pid := range pids {
		var ts unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|schedule), &ts); err != nil {
			return 0, fmt.Errorf("read CPU clock of process %d: %w", pid, err)
		}
		ms += float64(ts.Nano()) / 1e6
	}
	return ms, nil
}

// agents finds the agents of this lab among the machine's processes.
func (f *field) agents(s side) ([]int, error) {
	word := "\x00" + ourService + "\x00"
	if s.name() == "ideal" {
		word = "\x00" + idealWord + "\x00"
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err1 := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		env, err2 := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err1 != nil || err2 != nil { // it has ended
			continue
		}
		if strings.Contains(string(line), word) && strings.Contains("\x00"+string(env), "\x00MESHVPC_LAB="+f.lab.Name()+"\x00") {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("find the agents of side %s: none", s.name())
	}
	return pids, nil
}

func procField(pid int, key string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			return strconv.ParseFloat(strings.Fields(v)[0], 64)
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no %s", pid, key)
}
