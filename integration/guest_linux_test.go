package integration

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// guestInit is the first program of a guest: it loads the modules, which need each
// other in an order that differs from kernel to kernel, and does what the second
// serial port says, line by line, each answered by what it printed and a line
// "= exit code". The first port is the kernel's.
const guestInit = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for pass in 1 2 3 4; do
	for m in /modules/*; do insmod $m 2>/dev/null; done
done
stty -F /dev/ttyS1 raw -echo
exec </dev/ttyS1 >/dev/ttyS1 2>&1
[ -e /sys/class/net/eth0 ] || echo "no eth0: $(dmesg | grep virtio)"
echo "= $?"
while read -r line; do
	eval "$line"
	echo "= $?"
done
poweroff -f
`

// guest is a virtual machine on a host of the mesh, with one network device, eth0.
type guest struct {
	m     *mesh
	host  string
	words io.Writer
	lines *bufio.Scanner
	stop  func() // may be called again
}

// startGuest starts one on host i, whose tap is there already, and waits until it
// does as it is told.
func (m *mesh) startGuest(ctx context.Context, i int, tap, mac string, mtu int) *guest {
	m.t.Helper()
	parts, err := findGuestParts()
	if err != nil {
		m.t.Skipf("no virtual machine can be made here: %v: %s", err, howToGuest)
	}
	dir := m.t.TempDir()
	image, console := filepath.Join(dir, "initrd"), filepath.Join(dir, "console")
	m.must(parts.writeInitrd(image))
	input, words, err := os.Pipe()
	m.must(err)
	output, lines := io.Pipe()
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		code, err := m.Lab.Exec(ctx, lab.Command{Host: m.hosts[i], Stdin: input, Stdout: lines, Stderr: os.Stderr, Argv: []string{parts.qemu,
			"-machine", "q35", "-accel", accelerator(), "-m", "128", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
			"-kernel", parts.kernel, "-initrd", image, "-append", "console=ttyS0 panic=-1 ipv6.disable_ipv6=1",
			"-serial", "file:" + console, "-serial", "stdio",
			"-netdev", "tap,id=net0,ifname=" + tap + ",script=no,downscript=no",
			"-device", fmt.Sprintf("virtio-net-pci,netdev=net0,mac=%s,host_mtu=%d,romfile=", mac, mtu)}})
		lines.CloseWithError(fmt.Errorf("qemu: exit %d, %w", code, err))
	})
	stop := sync.OnceFunc(func() {
		cancel()
		words.Close()
		output.Close()
		done.Wait()
		input.Close()
	})
	m.t.Cleanup(func() {
		stop()
		if text, err := os.ReadFile(console); m.t.Failed() && err == nil {
			m.t.Logf("the guest's kernel said:\n%s", text[max(0, len(text)-4096):])
		}
	})
	g := &guest{m: m, host: m.hosts[i], words: words, lines: bufio.NewScanner(output), stop: stop}
	start := time.Now()
	out, code := g.answer()
	m.t.Logf("the guest boots for %v", time.Since(start))
	if out != "" || code != 0 {
		m.t.Fatalf("the guest began with %d: %s", code, out)
	}
	return g
}

// accelerator is qemu's: the processor's own way where the kernel lends it, else
// emulation, which takes some seconds to boot.
func accelerator() string {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "tcg"
	}
	f.Close()
	return "kvm"
}

func (p guestParts) writeInitrd(file string) error {
	var r initrd
	for _, dir := range []string{"bin", "dev", "modules", "proc", "sys"} {
		r.put(dir, modeDir, nil)
	}
	r.put("init", modeProgram, []byte(guestInit))
	for i, path := range append([]string{p.busybox}, p.modules...) {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, mode := "bin/busybox", modeProgram
		if i > 0 {
			name, mode = fmt.Sprintf("modules/%02d-%s", i, filepath.Base(path)), modeFile
		}
		r.put(name, mode, content)
	}
	content, err := r.pack()
	if err != nil {
		return err
	}
	return os.WriteFile(file, content, 0o600)
}

// run has the guest's shell do a line.
func (g *guest) run(line string) (out string, code int) {
	g.m.t.Helper()
	if _, err := fmt.Fprintln(g.words, line); err != nil {
		g.m.t.Fatal(err)
	}
	return g.answer()
}

func (g *guest) answer() (out string, code int) {
	g.m.t.Helper()
	for g.lines.Scan() {
		end, is := strings.CutPrefix(g.lines.Text(), "= ")
		if !is {
			out += g.lines.Text() + "\n"
			continue
		}
		code, err := strconv.Atoi(end)
		if err != nil {
			g.m.t.Fatalf("the guest's exit code %q: %v", end, err)
		}
		return out, code
	}
	g.m.t.Fatalf("the guest ended: %v, having said %s", g.lines.Err(), out)
	return "", 0
}

// mustRun is run for what has to succeed.
func (g *guest) mustRun(line string) string {
	g.m.t.Helper()
	out, code := g.run(line)
	if code != 0 {
		g.m.t.Fatalf("the guest's %s: exit %d: %s", line, code, out)
	}
	return strings.TrimSpace(out)
}

// reaches pings each workload from the guest, and the guest from each, in packets
// of the whole MTU, until all is answered.
func (g *guest) reaches(ctx context.Context, self netip.Addr, mtu int) {
	g.m.t.Helper()
	for _, w := range g.m.workloads {
		g.m.must(g.m.Until(ctx, func() error {
			const headers = 20 + 8
			if out, code := g.run(fmt.Sprintf("ping -c 3 -W 2 -s %d %s", mtu-headers, w.Prefixes[0].Addr())); code != 0 || !strings.Contains(out, " 0% packet loss") {
				return fmt.Errorf("from the guest to %s on %s: %s", w.Name, w.Host, out)
			}
			r, err := g.m.Lab.Ping(ctx, lab.Ping{Host: w.Host, Workload: w.Name, To: self, Size: mtu, DontFragment: true})
			if err == nil && r.Lost > 0 {
				err = fmt.Errorf("from %s on %s to the guest: %+v", w.Name, w.Host, r)
			}
			return err
		}))
	}
}

// TestGuestByBridge: a virtual machine whose tap somebody put into the bridge by
// its name, as libvirt does it, and which chose its own address.
func TestGuestByBridge(t *testing.T) {
	lengthy(t)
	ctx := patient(t)
	m := newMesh(t, lab.IPv6)
	const mtu = 1430
	m.must(m.Lab.Tamper(ctx, m.hosts[1], "", "link-add-tap", "tap0", "vpc1"))
	m.must(m.Lab.Tamper(ctx, m.hosts[1], "", "link-mtu", "tap0", strconv.Itoa(mtu)))
	g := m.startGuest(ctx, 1, "tap0", "52:54:00:00:00:01", mtu)
	if got := g.mustRun("cat /sys/class/net/eth0/mtu"); got != strconv.Itoa(mtu) {
		t.Errorf("the guest's MTU is %s, want the VPC's %d", got, mtu)
	}
	g.mustRun("ip address add 10.10.11.77/24 dev eth0 && ip link set eth0 up")
	g.reaches(ctx, netip.MustParseAddr("10.10.11.77"), mtu)
	m.must(m.nothingToDo(ctx, m.hosts[1]))
}

// TestGuestAttached: a virtual machine on the tap of an endpoint, which sends what
// is the endpoint's, and nothing else.
func TestGuestAttached(t *testing.T) {
	lengthy(t)
	ctx := patient(t)
	m := newNodes(t, lab.IPv6)
	m.createAs(ctx, "--network", "10.10.11.0/24")
	const mtu = 1430
	host, self := m.hosts[1], netip.MustParseAddr("10.10.11.77")
	var endpoint struct{ MAC string }
	m.must(m.JSON(ctx, &endpoint, m.Server, "endpoint", "create", "vm1", "--vpc", "vpc1", "--ip", self.String()))
	_, err := m.Meshvpc(ctx, host, "endpoint", "attach", "vm1", "--tap", "tap0")
	m.must(err)
	g := m.startGuest(ctx, 1, "tap0", endpoint.MAC, mtu)
	g.mustRun("ip address add " + self.String() + "/24 dev eth0 && ip link set eth0 up")
	g.reaches(ctx, self, mtu)

	const other = "52:54:00:00:00:99"
	g.cannot(ctx, "ipv4", lab.Match{EtherType: 0x0800, Contains: []byte{10, 10, 11, 78}}, "-I 10.10.11.78",
		"ip address add 10.10.11.78/24 dev eth0", "ip address delete 10.10.11.78/24 dev eth0")
	g.cannot(ctx, "mac", lab.Match{Source: []byte{0x52, 0x54, 0, 0, 0, 0x99}}, "",
		"ip link set eth0 address "+other, "ip link set eth0 address "+endpoint.MAC)
	g.reaches(ctx, self, mtu)
	m.must(m.nothingToDo(ctx, host))

	g.stop()
	_, err = m.Meshvpc(ctx, host, "endpoint", "detach", "vm1")
	m.must(err)
	devices, err := m.Lab.Devices(ctx, host)
	m.must(err)
	if slices.Contains(devices, "tap0") {
		t.Errorf("after detach %s has %v", host, devices)
	}
}

// cannot has the guest pretend to be another, which reaches no workload: its pings
// are dropped where it is, and counted for a reason.
func (g *guest) cannot(ctx context.Context, reason string, what lab.Match, flags, begin, end string) {
	g.m.t.Helper()
	before, err := g.m.Lab.Drops(ctx, g.host)
	g.m.must(err)
	g.mustRun(begin)
	for _, w := range g.m.workloads {
		s, err := g.m.Lab.StartSniff(ctx, lab.Sniff{Host: w.Host, Workload: w.Name, Match: what})
		g.m.must(err)
		if out, code := g.run(fmt.Sprintf("ping -c 3 -W 1 %s %s", flags, w.Prefixes[0].Addr())); code == 0 || !strings.Contains(out, "3 packets transmitted, 0 packets received") {
			g.m.t.Errorf("%s: the guest's ping to %s: exit %d: %s", begin, w.Name, code, out)
		}
		if got, err := s.Stop(ctx); err != nil || got.Count != 0 {
			g.m.t.Errorf("%s: %s heard %d frames, %v; want none", begin, w.Name, got.Count, err)
		}
	}
	g.mustRun(end)
	after, err := g.m.Lab.Drops(ctx, g.host)
	g.m.must(err)
	name := "meshvpc guard " + reason
	if want := uint64(3 * len(g.m.workloads)); after[name] < before[name]+want {
		g.m.t.Errorf("%s: %d frames were dropped as %q, want %d: %v", begin, after[name]-before[name], reason, want, after)
	}
}

// patient is within for a test that boots a machine, by emulation if need be.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}
