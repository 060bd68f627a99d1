package integration

import (
	"context"
	wire "encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// TestAgentCost measures, if MESHVPC_MEASURE=1, what the agent takes of a host
// with 1,000 peers, all of which answer, and with 1,000 that never do: the built
// program on a kernel of its own, with an etcd beside it that holds the records
// and nothing that changes them. It judges what does not depend on the machine's
// speed, and reports the rest. Peers are one program that answers in VXLAN for
// each of their addresses, or does not.
func TestAgentCost(t *testing.T) {
	measured(t, func() {
		for _, answer := range []bool{true, false} {
			t.Run(fmt.Sprintf("answering=%v", answer), func(t *testing.T) { measureAgent(t, 1000, answer) })
		}
	})
}

// measured runs measure, if MESHVPC_MEASURE=1, in a process of its own with a
// network and mounts of its own.
func measured(t *testing.T, measure func()) {
	const stage = "MESHVPC_COST_STAGE"
	switch {
	case os.Getenv("MESHVPC_MEASURE") != "1":
		t.Skip("a measurement of minutes: set MESHVPC_MEASURE=1")
	case os.Getuid() != 0:
		t.Skip("needs root")
	case os.Getenv(stage) != "":
		measure()
		return
	}
	c := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	c.Env = append(os.Environ(), stage+"=1")
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig follows the thread
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
}

// Addresses of the measurement: this side's end of the wire, the host's, and the
// peers', which are all on this side.
var (
	costHere = netip.MustParsePrefix("192.0.2.1/24")
	costHost = netip.MustParsePrefix("192.0.2.2/24")
)

func costPeer(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}) }
func costVTEP(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 100, byte(i >> 8), byte(i)}) }

func measureAgent(t *testing.T, n int, answer bool) {
	host := costWire(t)
	records := costStore(t, n)
	if answer {
		costAnswers(t)
	}
	agent, _ := costAgent(t, host)
	want := cluster.LinkDown
	if answer {
		want = cluster.LinkUp
	}
	costSettled(t, records, n, want)
	for range 2 {
		before := costRun(t, agent)
		const span = 30 * time.Second
		pause(span)
		used := costRun(t, agent) - before
		t.Logf("RSS %d kB (peak %d kB), CPU %.2f %%, threads %d", costMemory(t, agent, "VmRSS"), costMemory(t, agent, "VmHWM"),
			100*used.Seconds()/span.Seconds(), costMemory(t, agent, "Threads"))
	}
	if rss := costMemory(t, agent, "VmRSS"); rss > 40<<10 {
		t.Errorf("the agent takes %d kB, want at most 40 MiB", rss)
	}
}

// costAgent runs the built agent in the host's namespace and returns its id, and
// the directory that its files and its socket are in.
func costAgent(t *testing.T, host netns.NsHandle) (pid int, dir string) {
	dir = t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "agent.yaml"), fmt.Appendf(nil,
		"node: n1\nid: id-n1\nendpoints: [\"%s:2379\"]\nunderlay: [w1]\n", costHere.Addr()), 0o600))
	agent := exec.Command(binary, "agent", "--config", filepath.Join(dir, "agent.yaml"))
	agent.Env = append(os.Environ(), "MESHVPC_STATE_DIR="+dir, "MESHVPC_RUN_DIR="+dir)
	log, err := os.Create(filepath.Join(dir, "log"))
	must(t, err)
	t.Cleanup(func() { must(t, log.Close()) })
	agent.Stderr = log
	agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		runtime.LockOSThread() // it stays in the host's namespace, and alive: Pdeathsig
		if err := netns.Set(host); err != nil {
			started <- err
			return
		}
		started <- agent.Start()
		_ = agent.Wait() // ends by our signal
		close(ended)
	}()
	must(t, <-started)
	t.Cleanup(func() {
		must(t, agent.Process.Signal(syscall.SIGTERM))
		<-ended
	})
	return agent.Process.Pid, dir
}

// costSettled waits until the agent has said that all its n links are so.
func costSettled(t *testing.T, records *store.Store, n int, want cluster.LinkState) {
	start := time.Now()
	for {
		it, err := store.Get[*cluster.VPCStatus](t.Context(), records, cluster.KeyVPCStatus("n1", "vpc1"))
		if err == nil && len(it.Value.Links) == n {
			settled := 0
			for _, l := range it.Value.Links {
				if l.State == want {
					settled++
				}
			}
			if settled == n {
				break
			}
		}
		if time.Since(start) > 2*time.Minute {
			t.Fatalf("links have not all become %s: %v", want, err)
		}
		time.Sleep(500 * time.Millisecond) //nolint:forbidigo // a measurement, which does not run with the tests
	}
	t.Logf("all %d links %s after %v", n, want, time.Since(start).Round(100*time.Millisecond))
}

// costWire makes the wire to the host's namespace, and has all peers' addresses
// on this side. What is in /run is out of sight.
func costWire(t *testing.T) netns.NsHandle {
	must(t, unix.Mount("", "/", "none", unix.MS_PRIVATE|unix.MS_REC, ""))
	must(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	made := make(chan netns.NsHandle, 1)
	fail := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		h, err := netns.New()
		if err != nil {
			fail <- err
			return
		}
		made <- h
	}()
	var host netns.NsHandle
	select {
	case host = <-made:
	case err := <-fail:
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "w0"
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "w1", PeerNamespace: netlink.NsFd(host)}))
	t.Cleanup(func() { must(t, netlink.LinkDel(&netlink.Device{LinkAttrs: attrs})) })
	inside, err := netlink.NewHandleAt(host)
	must(t, err)
	defer inside.Close()
	w0, err := netlink.LinkByName("w0")
	must(t, err)
	w1, err := inside.LinkByName("w1")
	must(t, err)
	net4 := func(p netip.Prefix) *net.IPNet {
		return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
	}
	must(t, netlink.AddrAdd(w0, &netlink.Addr{IPNet: net4(costHere)}))
	must(t, inside.AddrAdd(w1, &netlink.Addr{IPNet: net4(costHost)}))
	must(t, netlink.LinkSetUp(w0))
	must(t, inside.LinkSetUp(w1))
	peers := net4(netip.MustParsePrefix("10.9.0.0/16"))
	must(t, inside.RouteAdd(&netlink.Route{Dst: peers, Gw: costHere.Addr().AsSlice()}))
	local := &netlink.Route{Dst: peers, LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Table: unix.RT_TABLE_LOCAL}
	must(t, ignoreExists(netlink.RouteAdd(local)))
	return host
}

func ignoreExists(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// costStore runs an etcd with the records of one VPC with n peers.
func costStore(t *testing.T, n int) *store.Store {
	at := []netip.AddrPort{netip.AddrPortFrom(costHere.Addr(), 2379)}
	engine, err := etcd.New(etcd.Config{Name: "cost", DataDir: t.TempDir(), NoSync: true, ListenClient: at,
		ListenPeer: []netip.AddrPort{netip.AddrPortFrom(costHere.Addr(), 2380)}})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- engine.Run(ctx) }()
	t.Cleanup(func() { cancel(); must(t, <-done) })
	select {
	case <-engine.Ready():
	case err := <-done:
		t.Fatal(err)
	}
	cli, err := client.Dial(client.Config{Endpoints: engine.Endpoints()})
	must(t, err)
	t.Cleanup(func() { cli.Close() })
	put := func(role cluster.Role, key string, r cluster.Record) {
		var c store.Change
		store.Set(&c, key, r, nil, 0)
		_, err := store.New(client.New(cli), cluster.Identity{Role: role}).Commit(t.Context(), c)
		must(t, err)
	}
	put(cluster.Operator, cluster.KeyConfig, &cluster.Config{Cluster: "c", ID: "c1", Era: 1, UnderlayPort: 4789, VNIs: cluster.DefaultVNIRange, Encryption: "none"})
	put(cluster.Operator, cluster.KeyNode("n1"), &cluster.Node{ID: "id-n1", Datacenter: "dc1", State: cluster.NodeActive, Agent: true})
	put(cluster.Controller, cluster.KeyVPCNet("vpc1"), &cluster.VPCNet{Phase: cluster.PhaseActive, VNI: 10000, MTU: 1430, PeerNetwork: netip.MustParsePrefix("10.100.0.0/16")})
	for i := 1; i <= n+1; i++ {
		name, underlay := fmt.Sprintf("n%d", i), costPeer(i)
		if i == 1 {
			underlay = costHost.Addr()
		}
		put(cluster.Controller, cluster.KeyMember("vpc1", name), &cluster.Member{NodeID: "id-" + name, Datacenter: "dc1",
			VTEP: costVTEP(i), UnderlayIPv4: underlay, Transport: cluster.Multipoint})
	}
	put(cluster.Controller, cluster.KeyHostVPC("n1", "vpc1"), &cluster.HostVPC{State: cluster.AssignedMember})
	return store.New(client.New(cli), cluster.Identity{Role: cluster.Controller})
}

// costAnswers answers ICMP echo requests in VXLAN, for whichever peer they are.
func costAnswers(t *testing.T) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 4789})
	must(t, err)
	p := ipv4.NewPacketConn(c)
	must(t, p.SetControlMessage(ipv4.FlagDst, true))
	done := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		b := make([]byte, 9000)
		for {
			n, cm, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			const eth, ip, icmp = 8, 8 + 14, 8 + 14 + 20
			if n < icmp+8 || wire.BigEndian.Uint16(b[eth+12:]) != unix.ETH_P_IP || b[ip+9] != unix.IPPROTO_ICMP || b[icmp] != 8 {
				continue
			}
			swap(b[eth:eth+6], b[eth+6:eth+12])
			swap(b[ip+12:ip+16], b[ip+16:ip+20])
			b[icmp] = 0
			sum := uint32(wire.BigEndian.Uint16(b[icmp+2:])) + 0x0800 // RFC 1624: the type was 8
			wire.BigEndian.PutUint16(b[icmp+2:], uint16(sum+sum>>16))
			to := &net.UDPAddr{IP: from.(*net.UDPAddr).IP, Port: 4789}
			if _, err := p.WriteTo(b[:n], &ipv4.ControlMessage{Src: cm.Dst}, to); err != nil {
				return
			}
		}
	}()
}

func swap(a, b []byte) {
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
}

// costMemory reads a number of /proc/PID/status, kB if it is memory.
func costMemory(t *testing.T, pid int, name string) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			must(t, err)
			return n
		}
	}
	t.Fatalf("no %s of process %d", name, pid)
	return 0
}

// costRun is the processor time that a process has used, threads that have ended
// included.
func costRun(t *testing.T, pid int) time.Duration {
	const schedule = 2 // CPUCLOCK_SCHED of the kernel's posix-timers
	var ts unix.Timespec
	must(t, unix.ClockGettime(int32(^pid<<3|schedule), &ts))
	return time.Duration(ts.Nano())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
