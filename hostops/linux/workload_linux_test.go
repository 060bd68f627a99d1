package linux

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/hosttest"
)

// inNS runs f in a workload's namespace.
func inNS(t testing.TB, path string, f func() error) {
	t.Helper()
	ns, err := netns.GetFromPath(path)
	must(t, err)
	defer ns.Close()
	must(t, within(int(ns), f))
}

// listen accepts connections in a workload's namespace.
func listen(t testing.TB, path string, a netip.Addr) {
	t.Helper()
	inNS(t, path, func() error {
		l, err := net.Listen("tcp", netip.AddrPortFrom(a, listenPort).String())
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
		return nil
	})
}

// connect connects from a workload's namespace. It says how long that took.
func connect(t testing.TB, path string, to netip.Addr) time.Duration {
	t.Helper()
	start := time.Now()
	inNS(t, path, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(to, listenPort).String())
		if err != nil {
			return err
		}
		return c.Close()
	})
	return time.Since(start)
}

// TestWorkloadsConnect: workloads reach each other on the same host and on another,
// over both families, as soon as they are attached, and neither their hosts nor
// another VPC.
func TestWorkloadsConnect(t *testing.T) {
	hosts := newUnderlay(t, 2, 1500)
	var vpcs []hostops.VPC
	for i, h := range hosts {
		v := mesh(hosts, i, "blue", 10000, false)
		h.reconcile(false, v)
		for n := range 2 {
			p := hosttest.MakePort(v, 2*i+n, h.room("a"))
			p.Gateways = nil
			v.Ports = append(v.Ports, p)
		}
		slices.SortFunc(v.Ports, func(a, b hostops.Port) int { return strings.Compare(a.Device, b.Device) })
		vpcs = append(vpcs, v)
		h.attach(v)
	}
	first := vpcs[0].Ports[0]
	for _, v := range vpcs {
		for _, p := range v.Ports {
			if p.Endpoint == first.Endpoint {
				continue
			}
			for _, a := range p.Addresses {
				listen(t, p.Namespace, a.Addr())
				connect(t, first.Namespace, a.Addr())
			}
		}
	}
	for i, h := range hosts {
		drops, err := h.driver.Drops(t.Context())
		must(t, err)
		for reason, n := range drops {
			if n > 0 {
				t.Errorf("host %d: of what workloads' kernels sent, %d frames were dropped: %s", i, n, reason)
			}
		}
		if r := h.reconcile(true, vpcs[i]); len(r.Applied) > 0 {
			t.Errorf("host %d: applied %v", i, r.Applied)
		}
	}
}

// TestRefusedNamespaces: neither the host's own, nor a VPC's, nor what is none.
func TestRefusedNamespaces(t *testing.T) {
	h := newUnderlay(t, 1, 1500)[0]
	v := mesh([]*host{h}, 0, "blue", 10000, false)
	h.reconcile(false, v)
	file := t.TempDir() + "/file"
	must(t, os.WriteFile(file, nil, 0o600))
	fifo := t.TempDir() + "/fifo"
	must(t, unix.Mkfifo(fifo, 0o600))
	own := h.dir + "/own"
	must(t, os.WriteFile(own, nil, 0o600))
	must(t, unix.Mount("/proc/self/fd/"+strconv.Itoa(int(h.ns)), own, "none", unix.MS_BIND, ""))
	room := h.room("a")
	for name, tt := range map[string]struct {
		path  string
		inode uint64
		text  string
		gone  bool
	}{
		"the host's":   {path: own, text: "the host's own network namespace"},
		"the VPC's":    {path: h.dir + "/vpc-blue", text: "is namespace vpc-blue"},
		"another kind": {path: "/proc/self/ns/mnt", text: "no network namespace: it is a namespace of another kind"},
		"a file":       {path: file, text: "gone", gone: true},
		"a FIFO":       {path: fifo, text: "gone", gone: true},
		"nothing":      {path: "/run/nosuch", text: "gone", gone: true},
		"a dead one's": {path: "/proc/4194305/ns/net", text: "gone", gone: true},
		"another now":  {path: room, inode: 77, text: "gone", gone: true},
	} {
		t.Run(name, func(t *testing.T) {
			v := v
			p := hosttest.MakePort(v, 1, tt.path)
			p.Inode = tt.inode
			v.Ports = []hostops.Port{p}
			for _, full := range []bool{false, true} {
				r := h.ops.Reconcile(t.Context(), hostops.Desired{VPCs: []hostops.VPC{v}}, full)
				if len(r.Problems) != 1 || r.Problems[0].Gone != tt.gone || r.Problems[0].Endpoint != "w1" || !strings.Contains(r.Problems[0].Reason, tt.text) || !r.Ready["blue"] {
					t.Errorf("full %v: problems %+v, ready %v", full, r.Problems, r.Ready)
				}
			}
		})
	}
}

// TestMove: a workload's address moves to another host. Whoever knows the old place,
// on either host, reaches the new one at once, and hears its announcement.
func TestMove(t *testing.T) {
	hosts := newUnderlay(t, 3, 1500)
	var vpcs []hostops.VPC
	for i, h := range hosts {
		v := mesh(hosts, i, "blue", 10000, false)
		h.reconcile(false, v)
		vpcs = append(vpcs, v)
	}
	a, client := hosttest.MakePort(vpcs[0], 1, hosts[0].room("a")), hosttest.MakePort(vpcs[0], 2, hosts[0].room("b"))
	b, far := a, hosttest.MakePort(vpcs[2], 3, hosts[2].room("c"))
	b.Namespace, b.Standby = hosts[1].room("a"), true
	put := func(i int, ports ...hostops.Port) {
		vpcs[i].Ports = ports
		slices.SortFunc(vpcs[i].Ports, func(p, q hostops.Port) int { return strings.Compare(p.Device, q.Device) })
		hosts[i].attach(vpcs[i])
	}
	put(0, a, client)
	put(1, b)
	put(2, far)
	for _, p := range []hostops.Port{a, b} {
		for _, ip := range p.Addresses {
			listen(t, p.Namespace, ip.Addr())
		}
	}
	all := func() {
		for _, from := range []hostops.Port{client, far} {
			for _, ip := range a.Addresses {
				connect(t, from.Namespace, ip.Addr())
			}
		}
	}
	all()
	ear := hosts[2].tenant("blue", "ear")
	ear.drain()
	for range 2 { // there and back
		a.Standby, b.Standby = !a.Standby, !b.Standby
		if a.Standby {
			put(0, a, client)
			put(1, b)
		} else {
			put(1, b)
			put(0, a, client)
		}
		heard := map[string]bool{}
		buf := make([]byte, 2000)
		for deadline := time.Now().Add(10 * time.Second); len(heard) < 2 && time.Now().Before(deadline); {
			n, _, err := unix.Recvfrom(ear.fd, buf, 0)
			if err != nil {
				continue
			}
			for i, frame := range announcements(a.MAC, []netip.Addr{a.Addresses[0].Addr(), a.Addresses[1].Addr()}) {
				if bytes.Equal(buf[:n], frame) {
					heard[[]string{"ARP", "NA"}[i]] = true
				}
			}
		}
		if len(heard) != 2 {
			t.Errorf("announcements that were heard: %v", heard)
		}
		all()
	}
}

// TestTap: a tap stays, belongs to its user, and can be opened as a virtual machine
// does; a VM that has it open keeps it from being given away, and nothing else.
func TestTap(t *testing.T) {
	h := newUnderlay(t, 1, 1500)[0]
	v := mesh([]*host{h}, 0, "blue", 10000, false)
	h.reconcile(false, v)
	tap := hosttest.MakeTap(v, 1)
	v.Ports = []hostops.Port{tap}
	h.attach(v)
	fd := -1
	must(t, within(int(h.ns), func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		r, err := unix.NewIfreq(tap.Device)
		if err != nil {
			return err
		}
		r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	}))
	defer unix.Close(fd)
	carries(t, h.ns, tap.Device)
	x := h.tenant("blue", "t0")
	p := packets{tap.MAC, tap.Addresses[0].Addr(), tap.Addresses[1].Addr(), everybody}
	if _, err := unix.Write(fd, p.arp(1, tap.MAC, p.a4, other4)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2000)
	for deadline := time.Now().Add(10 * time.Second); ; {
		n, _, err := unix.Recvfrom(x.fd, buf, 0)
		if err == nil && bytes.Equal(buf[:n], p.arp(1, tap.MAC, p.a4, other4)) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing came in from the tap")
		}
	}
	v.Ports = slices.Clone(v.Ports)
	v.Ports[0].Owner = 1000
	r := h.ops.Reconcile(t.Context(), hostops.Desired{VPCs: []hostops.VPC{v}}, false)
	if len(r.Problems) == 0 || r.Problems[0].Endpoint != "w1" || !strings.Contains(r.Problems[0].Reason, "a virtual machine has it open") {
		t.Errorf("giving an open tap to another user: %+v", r.Problems)
	}
	unix.Close(fd)
	if allUsers(t) { // as not in a user namespace of ours
		h.attach(v)
		s, err := h.driver.Observe(t.Context(), true)
		must(t, err)
		if got := s.Devices[tap.Device].User; got != 1000 {
			t.Errorf("the tap is for user %d, want 1000", got)
		}
	}
	// One that is somebody else's is left alone.
	must(t, h.nl.LinkAdd(veth("tap9", 1500)))
	op := hostops.CreateTap{Target: hostops.Target{VPC: "blue", Object: "tap9"}, Owner: cluster.VNI(10000)}
	if err := h.driver.Apply(t.Context(), op); !errors.Is(err, hostops.ErrForeign) {
		t.Errorf("making a tap that is there: %v, want ErrForeign", err)
	}
}

// allUsers reports whether this process knows all users of the machine.
func allUsers(t *testing.T) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/uid_map")
	must(t, err)
	return strings.Contains(string(b), "4294967295")
}
