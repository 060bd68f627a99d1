package linux

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// stage is set in the environment of the test binary once it runs in
// namespaces of its own.
const stage = "MESHVPC_TEST_STAGE"

// TestMain runs the tests again in fresh network and mount namespaces (and a
// user namespace if it is not root), so that they can leave nothing behind.
func TestMain(m *testing.M) {
	if os.Getenv(stage) != "" {
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, "prepare namespaces:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	code, err := reexec()
	if err != nil {
		fmt.Fprintln(os.Stderr, "SKIP: no namespaces of our own:", err)
		if os.Getenv("MESHVPC_REQUIRE_NETNS") == "1" {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(code)
}

// reexec returns an error if the namespaces cannot be had.
func reexec() (int, error) {
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), stage+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		c.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	runtime.LockOSThread() // Pdeathsig follows the thread
	if err := c.Start(); err != nil {
		return 0, err
	}
	if err := c.Wait(); c.ProcessState == nil {
		return 0, err
	}
	return c.ProcessState.ExitCode(), nil
}

func prepare() error {
	if err := unix.Mount("", "/", "none", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// host is one host of a test: a network namespace with an address on a shared
// underlay, and a driver in it.
type host struct {
	t      testing.TB
	ns     netns.NsHandle
	dir    string
	driver *Driver
	ops    *hostops.Host
	nl     *netlink.Handle
	v4, v6 netip.Addr
}

// newUnderlay makes n hosts whose devices "u0" are ports of one bridge.
func newUnderlay(t testing.TB, n int, mtu int) []*host {
	t.Helper()
	router := newNS(t)
	rh, err := netlink.NewHandleAt(router)
	must(t, err)
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "sw", MTU: mtu}}
	must(t, rh.LinkAdd(br))
	must(t, rh.LinkSetUp(br))
	var hosts []*host
	for i := range n {
		h := &host{t: t, ns: newNS(t), dir: pinDir(t),
			v4: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}),
			v6: netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+1))}
		h.nl, err = netlink.NewHandleAt(h.ns)
		must(t, err)
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = fmt.Sprintf("p%d", i), mtu
		must(t, rh.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "u0", PeerNamespace: netlink.NsFd(h.ns), PeerMTU: uint32(mtu)}))
		p, err := rh.LinkByName(attrs.Name)
		must(t, err)
		must(t, rh.LinkSetMaster(p, br))
		must(t, rh.LinkSetUp(p))
		u, err := h.nl.LinkByName("u0")
		must(t, err)
		must(t, h.nl.LinkSetUp(u))
		for _, a := range []string{h.v4.String() + "/24", h.v6.String() + "/64"} {
			na, err := netlink.ParseAddr(a)
			must(t, err)
			na.Flags = unix.IFA_F_NODAD
			must(t, h.nl.AddrAdd(u, na))
		}
		h.start()
		hosts = append(hosts, h)
	}
	return hosts
}

func (h *host) start() {
	h.t.Helper()
	log := zap.NewNop()
	if os.Getenv("MESHVPC_TEST_LOG") != "" {
		log = zaptest.NewLogger(h.t)
	}
	d, err := New(Config{Namespace: int(h.ns), PinDir: h.dir, Log: log})
	must(h.t, err)
	h.driver = d
	h.ops, err = hostops.New(hostops.Config{Driver: d, Log: log})
	must(h.t, err)
	h.t.Cleanup(func() { must(h.t, d.Close()) })
}

// pinDir is a directory of pinned namespaces that are unpinned in the end.
func pinDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/run", "netns-")
	must(t, err)
	t.Cleanup(func() {
		pins, err := os.ReadDir(dir)
		must(t, err)
		for _, p := range pins {
			must(t, ignore(unix.Unmount(dir+"/"+p.Name(), unix.MNT_DETACH), unix.EINVAL))
		}
	})
	return dir
}

func newNS(t testing.TB) netns.NsHandle {
	t.Helper()
	got := make(chan netns.NsHandle, 1)
	fail := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			fail <- err
			return
		}
		h, err := netns.GetFromPath(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		if err != nil {
			fail <- err
			return
		}
		got <- h
	}()
	select {
	case h := <-got:
		t.Cleanup(func() { h.Close() })
		return h
	case err := <-fail:
		t.Fatal(err)
	}
	return 0
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mesh(hosts []*host, self int, vpc string, vni cluster.VNI, v6 bool) hostops.VPC {
	v := hostops.VPC{Name: vpc, VNI: vni, MTU: 1430, VTEP: vtep(self)}
	t := hostops.Tunnel{Device: "u0", Port: 4789, Local: hosts[self].v4}
	if v6 {
		t.Local = hosts[self].v6
	}
	for i, h := range hosts {
		p := hostops.Peer{Node: fmt.Sprint("n", i), Underlay: h.v4, VTEP: vtep(i).Addr()}
		if v6 {
			p.Underlay = h.v6
		}
		if i != self {
			t.Peers = append(t.Peers, p)
		}
	}
	v.Tunnels = []hostops.Tunnel{t}
	return v
}

func vtep(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100, 0, byte(i + 1)}), 16)
}

func (h *host) reconcile(full bool, vpcs ...hostops.VPC) hostops.Report {
	h.t.Helper()
	r := h.ops.Reconcile(h.t.Context(), hostops.Desired{VPCs: vpcs}, full)
	if len(r.Problems) > 0 {
		h.t.Fatalf("reconcile: %v", r.Problems)
	}
	return r
}

func (h *host) ping(vpc string, to netip.Addr, size int) error {
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Second)
	defer cancel()
	_, err := hostops.Ping(ctx, h.driver, hostops.Echo{VPC: vpc, To: to, Size: size})
	return err
}

// reach pings until an answer comes: on a busy machine it may take its time.
func (h *host) reach(vpc string, to netip.Addr, size int) error {
	deadline := time.Now().Add(15 * time.Second)
	for {
		err := h.ping(vpc, to, size)
		if err == nil || !errors.Is(err, hostops.ErrNoAnswer) || time.Now().After(deadline) {
			return err
		}
	}
}

func TestMeshPings(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "ipv4", true: "ipv6"}[v6], func(t *testing.T) {
			hosts := newUnderlay(t, 2, 1500)
			for i, h := range hosts {
				v := mesh(hosts, i, "blue", 10000, v6)
				if r := h.reconcile(false, v); len(r.Applied) == 0 || !r.Ready["blue"] {
					t.Fatalf("first pass: %+v", r)
				}
				if r := h.reconcile(false, v); len(r.Applied) != 0 {
					t.Errorf("second pass is not silent: %v", r.Applied)
				}
				if r := h.reconcile(true, v); len(r.Applied) != 0 {
					t.Errorf("full pass is not silent: %v", r.Applied)
				}
			}
			for i, h := range hosts {
				must(t, h.reach("blue", vtep(1-i).Addr(), 0))
				must(t, h.reach("blue", vtep(1-i).Addr(), 1430))
			}
		})
	}
}
