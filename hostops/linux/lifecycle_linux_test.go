package linux

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/hosttest"
)

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

// TestNoDescriptorLeaks: a VPC that comes, is pinged from and goes leaves no
// descriptor behind, and nothing keeps its namespace alive.
func TestNoDescriptorLeaks(t *testing.T) {
	hosts := newUnderlay(t, 2, 1500)
	cycle := func() {
		for i, h := range hosts {
			h.reconcile(false, mesh(hosts, i, "blue", 10000, false))
		}
		must(t, hosts[0].reach("blue", vtep(1).Addr(), 0))
		for _, h := range hosts {
			h.reconcile(false)
		}
	}
	cycle()
	before := openFiles(t)
	for range 5 {
		cycle()
	}
	if got := openFiles(t); got > before {
		t.Errorf("%d descriptors after five VPCs, %d before", got, before)
	}
	if err := hosts[0].ping("blue", vtep(1).Addr(), 0); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ping in a VPC that is gone: %v, want ErrNotExist", err)
	}
}

// TestPingSurvivesItsNamespace: sockets follow a namespace that is made anew.
func TestPingSurvivesItsNamespace(t *testing.T) {
	hosts, vpcs := meshed(t, 2, true)
	must(t, hosts[0].reach("blue", vtep(1).Addr(), 0))
	k := kernel{t: t, ns: hosts[0].ns, dir: hosts[0].dir}
	must(t, k.DeleteNamespace("vpc-blue"))
	<-hosts[0].driver.Changed()
	deadline := time.After(5 * time.Second)
	for {
		r := hosts[0].ops.Reconcile(t.Context(), hostops.Desired{VPCs: vpcs[:1]}, false)
		if r.Ready["blue"] {
			break
		}
		select {
		case <-hosts[0].driver.Changed():
		case <-deadline:
			t.Fatalf("not ready: %v", r.Problems)
		}
	}
	must(t, hosts[0].reach("blue", vtep(1).Addr(), 0))
	must(t, hosts[1].reach("blue", vtep(0).Addr(), 0)) // the MAC is the same, so is the peer's neighbour entry
}

func TestPingErrors(t *testing.T) {
	hosts, vpcs := meshed(t, 2, true)
	if err := hosts[0].ping("blue", vtep(1).Addr(), 1431); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("ping above the MTU: %v, want EMSGSIZE", err)
	}
	if err := hosts[0].ping("blue", vtep(5).Addr(), 0); !errors.Is(err, hostops.ErrNoAnswer) {
		t.Errorf("ping of nobody: %v, want ErrNoAnswer", err)
	}
	// The namespace answers nothing but echo: a connection finds no one.
	sp := hosts[0].driver.spaces["vpc-blue"]
	must(t, within(int(sp.file.Fd()), func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 22, Addr: vtep(1).Addr().As4()}); !errors.Is(err, unix.EINPROGRESS) {
			return err
		}
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 200); err != nil || n != 0 {
			return fmt.Errorf("a TCP connection was answered (%d, %w)", n, err)
		}
		return nil
	}))
	must(t, hosts[0].reach("blue", vtep(1).Addr(), vpcs[0].MTU))
}

// TestManyPings: one socket serves all, each gets its own answer.
func TestManyPings(t *testing.T) {
	hosts, _ := meshed(t, 3, false)
	must(t, hosts[0].reach("blue", vtep(1).Addr(), 0))
	must(t, hosts[0].reach("blue", vtep(2).Addr(), 0))
	errs := make(chan error)
	for i := range 100 {
		go func() { errs <- hosts[0].reach("blue", vtep(1+i%2).Addr(), 0) }()
	}
	for range 100 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// TestLostEvents: an overrun event socket is noticed, and the host read again.
func TestLostEvents(t *testing.T) {
	hosts, vpcs := meshed(t, 1, true)
	h := hosts[0]
	k := kernel{t: t, ns: h.ns, nl: h.nl}
	h.driver.mu.Lock() // nobody reads events
	must(t, unix.SetsockoptInt(h.driver.events.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1))
	for i := range 200 {
		must(t, k.SetMTU("u0", 1400+i))
	}
	must(t, k.SetMTU("blue", 1280))
	h.driver.mu.Unlock()
	<-h.driver.Changed()
	must(t, unix.SetsockoptInt(h.driver.events.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, eventBuffer))
	if r := h.reconcile(false, vpcs[0]); len(r.Applied) != 1 || r.Applied[0].String() != "set MTU of blue: 1430" {
		t.Errorf("applied %v, want the bridge's MTU repaired", r.Applied)
	}
}

// TestForeignFilter: a table of our name that is not ours is left alone, and no
// tunnel is made without a filter.
func TestForeignFilter(t *testing.T) {
	hosts := newUnderlay(t, 1, 1500)
	k := kernel{t: t, ns: hosts[0].ns, nl: hosts[0].nl}
	cc := k.nft()
	table := cc.AddTable(&nftables.Table{Name: hostops.FilterName, Family: nftables.TableFamilyINet})
	cc.AddChain(&nftables.Chain{Name: "theirs", Table: table})
	must(t, cc.Flush())
	v := mesh(hosts, 0, "blue", 10000, true)
	r := hosts[0].ops.Reconcile(t.Context(), hostops.Desired{VPCs: []hostops.VPC{v}}, false)
	if r.Ready["blue"] || len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Reason, "nftables table inet meshvpc") {
		t.Errorf("problems %v, ready %v", r.Problems, r.Ready)
	}
	for _, name := range k.Devices() {
		if strings.HasPrefix(name, "mv") {
			t.Errorf("tunnel %s was made without a filter", name)
		}
	}
	chains, err := k.nft().ListChainsOfTableFamily(nftables.TableFamilyINet)
	must(t, err)
	if len(chains) != 1 || chains[0].Name != "theirs" {
		t.Errorf("chains: %d, want theirs alone", len(chains))
	}
	// It goes, and that is noticed.
	must(t, k.WipeFilter())
	<-hosts[0].driver.Changed()
	hosts[0].reconcile(false, v)
}

// TestForeignInGroup: somebody else's device in our link group is not taken
// along when a VPC goes.
func TestForeignInGroup(t *testing.T) {
	hosts, _ := meshed(t, 1, true)
	k := kernel{t: t, ns: hosts[0].ns, nl: hosts[0].nl}
	must(t, k.nl.LinkAdd(veth("theirs", 1500)))
	must(t, k.nl.LinkSetGroup(k.link("theirs"), int(hostops.GroupOf(10000))))
	hosts[0].reconcile(false)
	if got := strings.Join(k.Devices(), " "); got != "theirs theirsp u0" {
		t.Errorf("devices: %s", got)
	}
}

// TestGroupMoves: a tunnel whose underlay moves floods to its group by the
// device that it is on then.
func TestGroupMoves(t *testing.T) {
	h := newUnderlay(t, 1, 1500)[0]
	k := kernel{t: t, ns: h.ns, nl: h.nl}
	second := netip.MustParsePrefix("198.51.100.1/24")
	must(t, k.nl.LinkAdd(veth("u1", 1500)))
	must(t, k.AddAddress("u1", second))
	must(t, k.SetUp("u1", true))
	must(t, k.SetUp("u1p", true))
	v := mesh([]*host{h}, 0, "blue", 10000, false)
	v.Tunnels[0].Group, v.Tunnels[0].ToGroup = hosttest.Groups()[0], true
	h.reconcile(false, v)
	v.Tunnels = slices.Clone(v.Tunnels)
	v.Tunnels[0].Local, v.Tunnels[0].Device = second.Addr(), "u1"
	h.reconcile(false, v)
	var by []uint32
	must(t, k.request(func(c *conn) error {
		m := nl.NewIfInfomsg(unix.AF_BRIDGE)
		m.Index = int32(k.link("mv4-10000").Attrs().Index)
		entries, err := c.list(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, m)
		for _, e := range entries {
			attrs(e[unix.SizeofNdMsg:], func(kind int, data []byte) {
				if kind == unix.NDA_IFINDEX {
					by = append(by, native32(data))
				}
			})
		}
		return err
	}))
	if u1 := uint32(k.link("u1").Attrs().Index); !slices.Equal(by, []uint32{u1}) {
		t.Errorf("the tunnel floods by devices %v, want u1, which is %d", by, u1)
	}
}

func TestCheck(t *testing.T) {
	hosts := newUnderlay(t, 1, 1500)
	if got := hosts[0].driver.Check(t.Context()); len(got) > 0 {
		t.Errorf("this kernel lacks %v", got)
	}
	got := make(chan []hostops.Problem)
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: its capabilities are gone
		h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		failed <- unix.Capset(&h, &none[0])
		got <- hosts[0].driver.check()
	}()
	must(t, <-failed)
	ps := <-got
	if len(ps) != 1 || !strings.HasPrefix(ps[0].Reason, "missing privilege: ") || strings.Contains(ps[0].Reason, "\n") {
		t.Errorf("without privileges: %v", ps)
	}
}

// TestAddressesAreSignalled: a change of the host's addresses is signalled
// whoever reads the event: the agent looks for its underlay before it observes
// the rest.
func TestAddressesAreSignalled(t *testing.T) {
	h := newUnderlay(t, 1, 1500)[0]
	h.reconcile(false, mesh([]*host{h}, 0, "blue", 10000, false))
	u0, err := h.nl.LinkByName("u0")
	must(t, err)
	more, err := netlink.ParseAddr("198.51.100.1/24")
	must(t, err)
	d := h.driver
	for name, change := range map[string]func() error{
		"more":  func() error { return h.nl.AddrAdd(u0, more) },
		"MTU":   func() error { return h.nl.LinkSetMTU(u0, 1400) },
		"fewer": func() error { return h.nl.AddrDel(u0, more) },
	} {
		_, err := d.Addresses(t.Context())
		must(t, err)
		if name == "fewer" {
			must(t, ignore(h.nl.AddrAdd(u0, more), unix.EEXIST))
		}
		d.mu.Lock() // so that nobody else reads the events
		d.drain()
		select {
		case <-d.changed:
		default:
		}
		must(t, change())
		d.drain() // as Observe and Apply do
		select {
		case <-d.changed:
		default:
			t.Errorf("%s: no signal", name)
		}
		d.mu.Unlock()
		must(t, ignore(h.nl.AddrDel(u0, more), unix.EADDRNOTAVAIL))
	}
}

// TestAdoptionLosesNothing: frames go on while a driver ends and another begins.
func TestAdoptionLosesNothing(t *testing.T) {
	hosts, vpcs := meshed(t, 2, true)
	x, y := hosts[0].tenant("blue", "t0"), hosts[1].tenant("blue", "t0")
	undropped(t, func(try int) error {
		var want []string
		say := func() {
			want = append(want, fmt.Sprint("m", try, "-", len(want)))
			x.send(message(x.mac, want[len(want)-1]))
		}
		say()
		must(t, hosts[0].driver.Close())
		say()
		hosts[0].start()
		say()
		r := hosts[0].reconcile(false, vpcs[0])
		say()
		if len(r.Applied) > 0 {
			t.Errorf("adoption applied %v", r.Applied)
		}
		end := fmt.Sprint("end ", try)
		if got := y.until(end, func() { x.send(message(x.mac, end)) }); !slices.Equal(got, want) {
			return fmt.Errorf("received %v, want %v", got, want)
		}
		return nil
	})
}
