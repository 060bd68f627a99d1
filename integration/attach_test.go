package integration

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/integration/lab"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// tenants is the network of workloads that are attached.
const tenants = "10.10.11.0/24,fd00:11::/64"

// newAttach is three hosts with a part in vpc1.
func newAttach(ctx context.Context, t *testing.T) *mesh {
	t.Helper()
	m := newNodes(t, lab.Dual)
	m.create(ctx, "vpc1", "--network", tenants)
	return m
}

// output is what a line of sh prints on a host.
func (m *mesh) output(ctx context.Context, host, line string) string {
	m.t.Helper()
	var out, words bytes.Buffer
	code, err := m.Lab.Exec(ctx, lab.Command{Host: host, Argv: []string{"sh", "-c", line}, Stdout: &out, Stderr: &words})
	if err != nil || code != 0 {
		m.t.Fatalf("%s on %s: exit %d, %v: %s", line, host, code, err, words.String())
	}
	return strings.TrimSpace(out.String())
}

// attach attaches an endpoint on a host, and returns what the command says.
func (m *mesh) attach(ctx context.Context, host, endpoint string, flags ...string) (a local.Attached) {
	m.t.Helper()
	m.must(m.JSON(ctx, &a, host, append([]string{"endpoint", "attach", endpoint}, flags...)...))
	return a
}

// inside makes an endpoint and attaches a new namespace of its name to it.
func (m *mesh) inside(ctx context.Context, host, endpoint string) local.Attached {
	m.t.Helper()
	_, err := m.Meshvpc(ctx, m.Server, "endpoint", "create", endpoint, "--vpc", "vpc1")
	m.must(err)
	m.shell(ctx, host, "ip netns add "+endpoint)
	return m.attach(ctx, host, endpoint, "--netns", endpoint)
}

// refused wants a command to fail with words.
func (m *mesh) refused(ctx context.Context, host, words string, args ...string) {
	m.t.Helper()
	if out, err := m.Meshvpc(ctx, host, args...); err == nil || !strings.Contains(err.Error(), words) {
		m.t.Errorf("meshvpc %s on %s: %v, %s; want it refused with %q", strings.Join(args, " "), host, err, out, words)
	}
}

// reached wants every one of addresses to answer a namespace of a host.
func (m *mesh) reached(ctx context.Context, host, namespace string, addresses ...netip.Prefix) {
	m.t.Helper()
	for _, to := range addresses {
		r, err := m.Lab.Ping(ctx, lab.Ping{Host: host, Workload: namespace, To: to.Addr(), Count: 3})
		if err != nil || r.Lost > 0 {
			m.t.Errorf("%s on %s pings %s: %+v, %v", namespace, host, to, r, err)
		}
	}
}

// shown is an endpoint as commands show it.
type shown struct {
	Node  string
	State string
	Port  *struct{ Node, State, Reason, Device string }
}

// awaitEndpoint waits until an endpoint is as is says.
func (m *mesh) awaitEndpoint(ctx context.Context, endpoint string, is func(s shown) bool) {
	m.t.Helper()
	m.must(m.Until(ctx, func() error {
		var s shown
		err := m.JSON(ctx, &s, m.Server, "endpoint", "show", endpoint)
		if err == nil && !is(s) {
			err = fmt.Errorf("endpoint %s is %+v, port %+v", endpoint, s, s.Port)
		}
		return err
	}))
}

func (s shown) in(state cluster.PortState) bool {
	return s.Port != nil && s.Port.State == string(state)
}

// awaitPort waits until a device is on a host, or is not.
func (m *mesh) awaitPort(ctx context.Context, host, device string, there bool) {
	m.t.Helper()
	m.must(m.Until(ctx, func() error {
		list := m.output(ctx, host, "ip -o link")
		if strings.Contains(list, device) != there {
			return fmt.Errorf("device %s on %s: want it there: %t: %s", device, host, there, list)
		}
		return nil
	}))
}

// TestAttachNamespaces has workloads on three hosts ping one another, and takes them
// away in every way.
func TestAttachNamespaces(t *testing.T) {
	ctx := within(t)
	m := newAttach(ctx, t)
	var at []local.Attached
	for i, h := range m.hosts {
		begun := time.Now()
		a := m.inside(ctx, h, fmt.Sprintf("web%d", i+1))
		t.Logf("endpoint create, namespace and attach on %s: %v", h, time.Since(begun).Round(time.Millisecond))
		if a.State != cluster.PortReady || len(a.Addresses) != 2 || a.MTU == 0 {
			t.Errorf("attached: %+v", a)
		}
		at = append(at, a)
	}
	for i, h := range m.hosts {
		for j, to := range at {
			if i != j {
				m.reached(ctx, h, at[i].Endpoint, to.Addresses...)
			}
		}
	}
	h := m.hosts[1]
	if again := m.attach(ctx, h, "web2", "--netns", "/run/netns/web2"); again.MAC != at[1].MAC || again.Epoch != at[1].Epoch {
		t.Errorf("attached again: %+v; want %+v", again, at[1])
	}
	m.shell(ctx, h, "ip netns add other")
	_, err := m.Meshvpc(ctx, m.Server, "endpoint", "create", "web9", "--vpc", "vpc1")
	m.must(err)
	m.refused(ctx, h, "it is attached already, to eth0 in the network namespace /run/netns/web2", "endpoint", "attach", "web2", "--netns", "other")
	m.refused(ctx, h, "is attached to the endpoint web2", "endpoint", "attach", "web1", "--netns", "web2", "--standby")
	m.refused(ctx, h, "it is the node "+m.hosts[0]+" that has it", "endpoint", "attach", "web1", "--netns", "other")
	m.refused(ctx, h, "there is no network namespace /run/netns/none", "endpoint", "attach", "web9", "--vpc", "vpc1", "--netns", "none")
	m.refused(ctx, h, "is the host's own network namespace", "endpoint", "attach", "web9", "--vpc", "vpc1", "--netns", "/proc/self/ns/net")
	m.refused(ctx, h, "u0 has", "endpoint", "attach", "web9", "--vpc", "vpc1", "--device", "u0")
	m.refused(ctx, h, "VPC \"red\" has no part on this host", "endpoint", "attach", "web9", "--vpc", "red", "--tap", "tap9")

	_, err = m.Meshvpc(ctx, m.hosts[2], "endpoint", "detach", "web3")
	m.must(err)
	m.awaitPort(ctx, m.hosts[2], at[2].Device, false)
	moved := m.attach(ctx, h, "web3", "--netns", "other") // at once, on another host
	if moved.MAC != at[2].MAC || moved.Addresses[0] != at[2].Addresses[0] {
		t.Errorf("attached elsewhere: %+v; want what it was, %+v", moved, at[2])
	}
	m.reached(ctx, m.hosts[0], "web1", moved.Addresses...)

	m.shell(ctx, h, "ip netns del web2")
	m.awaitEndpoint(ctx, "web2", func(s shown) bool { return s.in(cluster.PortFailed) && strings.Contains(s.Port.Reason, "is gone") })
	m.awaitPort(ctx, h, at[1].Device, false)
	m.shell(ctx, h, "ip netns add web2")
	m.awaitEndpoint(ctx, "web2", func(s shown) bool { return s.in(cluster.PortReady) })
	m.reached(ctx, m.hosts[0], "web1", at[1].Addresses...)

	_, err = m.Meshvpc(ctx, m.Server, "endpoint", "create", "pod", "--vpc", "vpc1")
	m.must(err)
	pid := m.output(ctx, h, "unshare -n sleep 300 >/dev/null 2>&1 & echo $!")
	m.must(m.Until(ctx, func() error {
		if m.output(ctx, h, "readlink /proc/self/ns/net") == m.output(ctx, h, "readlink /proc/"+pid+"/ns/net") {
			return fmt.Errorf("process %s has no namespace of its own yet", pid)
		}
		return nil
	}))
	pod := m.attach(ctx, h, "pod", "--netns", pid, "--inner", "net0")
	m.reached(ctx, m.hosts[0], "web1", pod.Addresses...)
	m.shell(ctx, h, "kill -9 "+pid)
	m.awaitPort(ctx, h, pod.Device, false)
	m.awaitEndpoint(ctx, "pod", func(s shown) bool { return s.Node == "" && s.Port == nil })
	_, err = m.Meshvpc(ctx, m.Server, "endpoint", "delete", "web3", "--yes") // while it is attached
	m.must(err)
	m.awaitPort(ctx, h, moved.Device, false)
	for _, h := range m.hosts {
		m.must(m.Until(ctx, func() error { return m.nothingToDo(ctx, h) }))
	}
}

// TestAttachmentsSurvive kills agents and hosts under what is attached.
func TestAttachmentsSurvive(t *testing.T) {
	ctx := within(t)
	m := newAttach(ctx, t)
	m.inside(ctx, m.hosts[0], "web1")
	web2 := m.inside(ctx, m.hosts[1], "web2")
	ping, err := m.Lab.StartPing(ctx, lab.Ping{Host: m.hosts[0], Workload: "web1", To: web2.Addresses[0].Addr(), Interval: 10 * time.Millisecond})
	m.must(err)
	for range 3 {
		for _, h := range m.hosts[:2] {
			m.must(m.Lab.Kill(ctx, h, "agent"))
			m.must(m.Lab.StartServices(ctx, h, "agent"))
			var ports struct{ Ports []local.Attached }
			m.must(m.Until(ctx, func() error { return m.localPorts(ctx, h, &ports.Ports) }))
			if len(ports.Ports) != 1 || ports.Ports[0].State != cluster.PortReady {
				t.Errorf("%s has the ports %+v after its agent was killed", h, ports)
			}
		}
		m.must(m.AwaitNodes(ctx, 3))
	}
	got, err := ping.Stop(ctx)
	m.must(err)
	t.Logf("agents killed 6 times: %d pings sent, %d lost, longest gap %v", got.Sent, got.Lost, got.Gap)
	if got.Lost > 0 || got.Received == 0 {
		t.Errorf("%d of %d pings were lost, longest gap %v", got.Lost, got.Sent, got.Gap)
	}
	m.must(m.Lab.PowerOff(ctx, m.hosts[1]))
	m.must(m.Lab.Boot(ctx, m.hosts[1]))
	m.awaitEndpoint(ctx, "web2", func(s shown) bool { return s.in(cluster.PortFailed) })
	m.shell(ctx, m.hosts[1], "ip netns add web2")
	m.awaitEndpoint(ctx, "web2", func(s shown) bool { return s.in(cluster.PortReady) })
	if link := m.output(ctx, m.hosts[1], "ip -n web2 -o link show eth0"); !strings.Contains(link, web2.MAC.String()) {
		t.Errorf("after a reboot: %s; want the MAC %s", link, web2.MAC)
	}
	m.must(m.Until(ctx, func() error {
		r, err := m.Lab.Ping(ctx, lab.Ping{Host: m.hosts[0], Workload: "web1", To: web2.Addresses[1].Addr()})
		if err == nil && r.Lost > 0 {
			err = fmt.Errorf("%+v", r)
		}
		return err
	}))
}

// localPorts asks a host's agent what is attached.
func (m *mesh) localPorts(ctx context.Context, host string, list *[]local.Attached) (err error) {
	*list, err = local.New(m.Lab.Disk(host).Run + "/agent.sock").Ports(ctx)
	return err
}

// TestMoveWithStandby moves an endpoint to a workload that stands by.
func TestMoveWithStandby(t *testing.T) {
	ctx := within(t)
	m := newAttach(ctx, t)
	m.inside(ctx, m.hosts[0], "web1")
	m.moves(ctx, 6)
}

// moves has an endpoint move to and fro between two hosts, where a workload stands by,
// while web1 pings it.
func (m *mesh) moves(ctx context.Context, times int) {
	m.t.Helper()
	vip := m.inside(ctx, m.hosts[1], "vip")
	m.shell(ctx, m.hosts[2], "ip netns add vip")
	if a := m.attach(ctx, m.hosts[2], "vip", "--netns", "vip", "--standby"); a.State != cluster.PortStandby || a.MAC != vip.MAC {
		m.t.Errorf("standby: %+v", a)
	}
	for i := range times {
		to := m.hosts[2-i%2]
		ping, err := m.Lab.StartPing(ctx, lab.Ping{Host: m.hosts[0], Workload: "web1", To: vip.Addresses[i%2].Addr(), Interval: 10 * time.Millisecond})
		m.must(err)
		_, err = m.Meshvpc(ctx, m.Server, "endpoint", "move", "vip", "--node", to)
		m.must(err)
		m.awaitEndpoint(ctx, "vip", func(s shown) bool { return s.Node == to && s.in(cluster.PortReady) })
		got, err := ping.Stop(ctx)
		m.must(err)
		m.t.Logf("move to %s: %d pings, one each 10 ms, %d lost, the longest gap %v", to, got.Sent, got.Lost, got.Gap)
		if got.Gap > 5*time.Second { // one question of ARP or ND may be lost, and is asked again after 1 s
			m.t.Errorf("no answer for %v", got.Gap)
		}
	}
}

// tapWord in the environment makes the test binary a virtual machine's network: it
// opens the tap of that name, asks for an address, and prints who answers.
const tapWord = "MESHVPC_TEST_TAP"

// TestAttachDevices attaches a tap and a device that is lent.
func TestAttachDevices(t *testing.T) {
	ctx := within(t)
	m := newAttach(ctx, t)
	web1 := m.inside(ctx, m.hosts[0], "web1")
	h := m.hosts[1]
	for _, name := range []string{"vm", "nic"} {
		_, err := m.Meshvpc(ctx, m.Server, "endpoint", "create", name, "--vpc", "vpc1")
		m.must(err)
	}
	vm := m.attach(ctx, h, "vm", "--tap", "tap-vm", "--owner", "0")
	self, err := os.Executable()
	m.must(err)
	var out, words bytes.Buffer
	code, err := m.Lab.Exec(ctx, lab.Command{Host: h, Argv: []string{self}, Stdout: &out, Stderr: &words,
		Env: []string{fmt.Sprintf("%s=tap-vm %s %s %s", tapWord, vm.MAC, vm.Addresses[0].Addr(), web1.Addresses[0].Addr())}})
	if err != nil || code != 0 || strings.TrimSpace(out.String()) != web1.MAC.String() {
		t.Errorf("the tap hears %q: exit %d, %v: %s; want %s", out.String(), code, err, words.String(), web1.MAC)
	}
	m.shell(ctx, h, "ip link add lent type veth peer name far; ip netns add nic; ip link set far netns nic")
	nic := m.attach(ctx, h, "nic", "--device", "lent")
	m.shell(ctx, h, fmt.Sprintf("ip -n nic link set far address %s; ip -n nic addr add %s dev far; ip -n nic link set far up", nic.MAC, nic.Addresses[0]))
	m.reached(ctx, h, "nic", web1.Addresses[0])
	for _, name := range []string{"vm", "nic"} {
		_, err := m.Meshvpc(ctx, h, "endpoint", "detach", name)
		m.must(err)
	}
	m.awaitPort(ctx, h, "tap-vm", false)
	if link := m.output(ctx, h, "ip -o link show lent"); strings.Contains(link, "master") {
		t.Errorf("what was lent is a port still: %s", link)
	}
}

// runTap is the program of tapWord.
func runTap(words string) error {
	var name, mac, from, to string
	if _, err := fmt.Sscan(words, &name, &mac, &from, &to); err != nil {
		return err
	}
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	const setInterface, tapWithoutInfo = 0x400454ca, 0x1002 // TUNSETIFF; IFF_TAP, IFF_NO_PI
	var request [40]byte
	copy(request[:15], name)
	request[16], request[17] = tapWithoutInfo&0xff, tapWithoutInfo>>8
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), setInterface, uintptr(unsafe.Pointer(&request))); e != 0 {
		return fmt.Errorf("open tap %s: %w", name, e)
	}
	own, err := cluster.ParseMAC(mac)
	if err != nil {
		return err
	}
	ask := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, own[:]...)
	ask = append(ask, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	ask = append(append(ask, own[:]...), netip.MustParseAddr(from).AsSlice()...)
	ask = append(append(ask, make([]byte, 6)...), netip.MustParseAddr(to).AsSlice()...)
	ask = append(ask, make([]byte, 18)...)
	go func() { // until the program ends: its port is up a moment after it was opened
		for range time.Tick(100 * time.Millisecond) {
			if _, err := f.Write(ask); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}()
	frame := make([]byte, 2000)
	for {
		n, err := f.Read(frame)
		if err != nil {
			return err
		}
		if n >= 42 && frame[12] == 8 && frame[13] == 6 && frame[21] == 2 {
			fmt.Println(cluster.MAC(frame[22:28]))
			return nil
		}
	}
}
