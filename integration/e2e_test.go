package integration

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/demo"
	"github.com/meshvpc/meshvpc/integration/lab"
)

var binary string // meshvpc, built for this run

func TestMain(m *testing.M) {
	if os.Getenv(listenWord) != "" {
		fmt.Fprintln(os.Stderr, listening())
		os.Exit(1)
	}
	if dir := os.Getenv(sshdWord); dir != "" {
		fmt.Fprintln(os.Stderr, sshd(dir))
		os.Exit(1)
	}
	if os.Getenv(trafficWord) != "" {
		if err := runTraffic(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if words := os.Getenv(tapWord); words != "" {
		if err := runTap(words); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if word := os.Getenv(registersWord); word != "" {
		if err := runRegistersProgram(word); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(cniCostWord) != "" {
		if err := runCNICost(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "meshvpc-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "meshvpc")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/meshvpc").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build meshvpc: %v\n%s", err, out)
		return 1
	}
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set(sideBySide) // it is a number
	}
	return m.Run()
}

// sideBySide is how many lengthy tests run at a time, unless -parallel says it: they
// wait more than they work.
const sideBySide = "4"

// mustLab fails the test, or skips it where hosts cannot be made at all.
func mustLab(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, lab.ErrRefused) && os.Getenv("MESHVPC_REQUIRE_NETNS") == "" {
		t.Skipf("hosts cannot be made here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// once skips a long test with -short, as the run with -race has it: the program
// under test is another process, and the same in both.
func once(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it takes half a minute, and no other program is tried than without -short")
	}
}

// lengthy is for a test that waits more than it works, in a lab of its own name:
// others run beside it.
func lengthy(t *testing.T) {
	t.Helper()
	once(t)
	t.Parallel()
}

// mesh is three hosts in vpc1 with a workload each.
type mesh struct {
	*demo.Site
	t         *testing.T
	hosts     []string
	workloads []lab.Workload
}

func newMesh(t *testing.T, underlay lab.Underlay) *mesh {
	t.Helper()
	m := newNodes(t, underlay)
	m.createAs(within(t))
	return m
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func (m *mesh) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *mesh) create(ctx context.Context, vpc string, flags ...string) {
	m.t.Helper()
	_, err := m.Meshvpc(ctx, m.Server, append([]string{"vpc", "create", vpc, "--peer-network", "10.100.0.0/24"}, flags...)...)
	m.must(err)
}

// workload puts 10.10.11.(i+1) of a VPC on host i.
func (m *mesh) workload(ctx context.Context, i int, name, vpc string) lab.Workload {
	m.t.Helper()
	w := lab.Workload{Host: m.hosts[i], Name: fmt.Sprintf("%s%d", name, i+1), VPC: vpc,
		Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 10, 11, byte(i + 1)}), 24)}}
	m.must(m.Lab.AddWorkload(ctx, w))
	return w
}

// awaitPings waits until every pair answers.
func (m *mesh) awaitPings(ctx context.Context) {
	m.t.Helper()
	m.must(m.Until(ctx, func() error {
		_, lost, err := m.Pairs(ctx, m.workloads, 1)
		if err == nil && lost > 0 {
			err = fmt.Errorf("%d pings were lost", lost)
		}
		return err
	}))
}

// through pings from the second workload to the others while f runs, and
// wants no loss.
func (m *mesh) through(ctx context.Context, f func()) {
	m.t.Helper()
	var runs []*lab.PingRun
	for _, to := range []int{0, 2} {
		r, err := m.Lab.StartPing(ctx, lab.Ping{Host: m.workloads[1].Host, Workload: m.workloads[1].Name,
			To: m.workloads[to].Prefixes[0].Addr(), Interval: 10 * time.Millisecond})
		m.must(err)
		runs = append(runs, r)
	}
	f()
	for _, r := range runs {
		got, err := r.Stop(ctx)
		m.must(err)
		if got.Lost > 0 || got.Received == 0 {
			m.t.Errorf("%d of %d pings were lost, longest gap %v", got.Lost, got.Sent, got.Gap)
		}
	}
}

func TestDemo(t *testing.T) {
	r, err := demo.Run(within(t), demo.Config{Binary: binary, Name: "testdemo"})
	mustLab(t, err)
	for _, s := range r.Steps {
		if !s.OK {
			t.Errorf("%s: %s", s.Name, s.Error)
		}
	}
	if !r.OK() || r.Sent == 0 {
		t.Errorf("demo: %d of %d pings lost in %d steps", r.Lost, r.Sent, len(r.Steps))
	}
}

// TestRepair tampers with a host in every way there is, one after the other.
func TestRepair(t *testing.T) {
	ctx := within(t)
	m := newMesh(t, lab.IPv6)
	host := m.hosts[1]
	peers, err := m.Lab.Flood(ctx, host, "mv6-10000")
	m.must(err)
	if len(peers) != 2 {
		t.Fatalf("flood list of %s = %v; want two peers", host, peers)
	}
	for _, tamper := range [][]string{
		{"", "link-del", "mv6-10000"},
		{"", "link-del", "mn-10000"},
		{"", "link-down", "mv6-10000"},
		{"", "link-mtu", "mv6-10000", "1300"},
		{"", "link-nomaster", "mv6-10000"},
		{"", "link-unisolate", "mv6-10000"},
		{"", "fdb-del", "mv6-10000", "00:00:00:00:00:00", peers[0]},
		{"", "fdb-add", "mv6-10000", "00:00:00:00:00:00", "2001:db8:ffff::1"},
		{"vpc-vpc1", "addr-del", "vtep0", "10.100.0.1/24"},
		{"", "addr-add", "vpc1", "10.10.11.9/24"},
		{"", "netns-del", "vpc-vpc1"},
		{"", "nft-flush"},
	} {
		words := strings.Join(tamper[1:], " ")
		m.must(m.Lab.Tamper(ctx, host, tamper[0], tamper[1:]...))
		if err := m.Until(ctx, func() error { return m.nothingToDo(ctx, host) }); err != nil {
			t.Fatalf("after %s: %v", words, err)
		}
		m.awaitPings(ctx)
		var ping struct{ Lost int }
		if err := m.Until(ctx, func() error { return m.JSON(ctx, &ping, m.Server, "vpc", "ping", "vpc1") }); err != nil || ping.Lost != 0 {
			t.Errorf("vpc ping after %s: %d lost, %v", words, ping.Lost, err)
		}
	}
}

// nothingToDo asks a host's agent for its plan.
func (m *mesh) nothingToDo(ctx context.Context, host string) error {
	plan, err := m.Meshvpc(ctx, host, "plan")
	if err == nil && strings.TrimSpace(plan) != "nothing to do" {
		err = fmt.Errorf("still to do: %s", plan)
	}
	return err
}

// etcdctl runs the real one, past all rules of ours.
func (m *mesh) etcdctl(ctx context.Context, args ...string) {
	m.t.Helper()
	_, err := etcdctl(ctx, m.Site, args...)
	m.must(err)
}

// etcdctl returns what it prints.
func etcdctl(ctx context.Context, s *demo.Site, args ...string) (string, error) {
	path, err := exec.CommandContext(ctx, "go", "tool", "-n", "etcdctl").Output()
	if err != nil {
		return "", err
	}
	var env map[string]string
	if err := s.JSON(ctx, &env, s.Server, "cluster", "env"); err != nil {
		return "", err
	}
	argv := []string{"env"}
	for name, value := range env {
		argv = append(argv, name+"="+value)
	}
	var out bytes.Buffer
	code, err := s.Lab.Exec(ctx, lab.Command{Host: s.Server, Stdout: &out, Stderr: os.Stderr,
		Argv: slices.Concat(argv, []string{strings.TrimSpace(string(path))}, args)})
	if err == nil && code != 0 {
		err = fmt.Errorf("etcdctl %v: exit %d", args, code)
	}
	return out.String(), err
}

// TestRecordsDeletedByMistake deletes all intent and all assignments by a real
// etcdctl: hosts hold, and traffic goes on.
func TestRecordsDeletedByMistake(t *testing.T) {
	ctx := within(t)
	m := newMesh(t, lab.IPv6)
	m.through(ctx, func() {
		m.etcdctl(ctx, "del", "--prefix", "/meshvpc/v1/vpcs/")
		m.etcdctl(ctx, "del", "--prefix", "/meshvpc/v1/hosts/")
		m.must(m.Until(ctx, func() error {
			out, err := m.Meshvpc(ctx, m.hosts[1], "get", "/meshvpc/v1/status/"+m.hosts[1]+"/vpcs/vpc1")
			if err != nil || !strings.Contains(out, "holding") {
				return fmt.Errorf("the host does not say that it holds: %s %v", out, err)
			}
			return nil
		}))
		for _, h := range m.hosts {
			peers, err := m.Lab.Flood(ctx, h, "mv6-10000")
			if err != nil || len(peers) != 2 {
				t.Errorf("%s floods to %v, %v; want two peers", h, peers, err)
			}
		}
	})
	m.through(ctx, func() { m.create(ctx, "vpc1") })
}

// TestRebootWithoutControlPlane restores a host's tunnels from its cache.
func TestRebootWithoutControlPlane(t *testing.T) {
	ctx := within(t)
	m := newMesh(t, lab.IPv4)
	m.must(m.Lab.Kill(ctx, m.Server, "server"))
	m.must(m.Lab.PowerOff(ctx, m.hosts[2]))
	m.must(m.Lab.Boot(ctx, m.hosts[2]))
	m.must(m.Until(ctx, func() error { return m.Lab.AddWorkload(ctx, m.workloads[2]) }))
	m.awaitPings(ctx)
}

// TestRemovedWhileOff removes a node whose power is off: it cleans itself up
// when it comes back.
func TestRemovedWhileOff(t *testing.T) {
	ctx := within(t)
	m := newMesh(t, lab.IPv6)
	host := m.hosts[2]
	m.must(m.Lab.Kill(ctx, host, "agent"))
	if _, err := m.Meshvpc(ctx, m.Server, "node", "remove", host, "--yes", "--timeout", "2s"); err != nil {
		t.Logf("node remove says: %v", err) // it may say that it waits for the host
	}
	m.must(m.Until(ctx, func() error {
		peers, err := m.Lab.Flood(ctx, m.hosts[1], "mv6-10000")
		if err == nil && len(peers) != 1 {
			err = fmt.Errorf("flood list %v; want one peer", peers)
		}
		return err
	}))
	m.must(m.Lab.StartServices(ctx, host, "agent"))
	m.must(m.Until(ctx, func() error {
		devices, err := m.Lab.Devices(ctx, host)
		for _, d := range devices {
			if d == "vpc1" || strings.HasPrefix(d, "mv6-") || strings.HasPrefix(d, "mn-") {
				return fmt.Errorf("%s still has %s", host, d)
			}
		}
		return err
	}))
}

// TestReaddress gives a host another underlay address: the mesh follows.
func TestReaddress(t *testing.T) {
	ctx := within(t)
	m := newMesh(t, lab.Dual)
	before, err := m.Lab.Host(ctx, m.hosts[2])
	m.must(err)
	after, err := m.Lab.Readdress(ctx, m.hosts[2])
	m.must(err)
	if before.Underlay[0] == after.Underlay[0] {
		t.Fatalf("the address did not change: %v", after.Underlay)
	}
	m.awaitPings(ctx)
	m.must(m.Until(ctx, func() error {
		peers, err := m.Lab.Flood(ctx, m.hosts[1], "mv6-10000")
		if err == nil && !strings.Contains(strings.Join(peers, " "), after.Underlay[0].Addr().String()) {
			err = fmt.Errorf("flood list %v lacks %s", peers, after.Underlay[0])
		}
		return err
	}))
}
