package integration

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// shell runs a line of sh on a host.
func (m *mesh) shell(ctx context.Context, host, line string) {
	m.t.Helper()
	var said bytes.Buffer
	code, err := m.Lab.Exec(ctx, lab.Command{Host: host, Argv: []string{"sh", "-c", line}, Stdout: &said, Stderr: &said})
	if err != nil || code != 0 {
		m.t.Fatalf("%s on %s: exit %d, %v: %s", line, host, code, err, said.String())
	}
}

// agent is what a host's agent is doing.
func (m *mesh) agent(ctx context.Context, host string) lab.ServiceState {
	m.t.Helper()
	h, err := m.Lab.Host(ctx, host)
	m.must(err)
	for _, s := range h.Services {
		if s.Name == "agent" {
			return s
		}
	}
	m.t.Fatalf("%s has no agent", host)
	return lab.ServiceState{}
}

// TestAgentIsTold ends an agent by SIGTERM, as systemd does, and starts the
// next one: no ping is lost, and it ends in good time.
func TestAgentIsTold(t *testing.T) {
	ctx := within(t)
	m := newMesh(t, lab.IPv6)
	host := m.hosts[1]
	m.through(ctx, func() {
		for range 3 {
			a := m.agent(ctx, host)
			if a.State != "running" {
				t.Fatalf("the agent is %s", a.State)
			}
			begun := time.Now()
			m.shell(ctx, host, fmt.Sprint("kill -TERM ", a.PID))
			m.must(m.Until(ctx, func() error {
				if s := m.agent(ctx, host).State; s == "running" {
					return fmt.Errorf("the agent is still %s", s)
				}
				return nil
			}))
			took := time.Since(begun)
			t.Logf("the agent ended after %v: %s", took.Round(time.Millisecond), m.agent(ctx, host).State)
			if got := m.agent(ctx, host).State; got != "stopped" && got != "exit 0" || took > 5*time.Second {
				t.Errorf("the agent is %q after %v; want a good end within 5 s", got, took)
			}
			m.must(m.Lab.StartServices(ctx, host, "agent"))
			m.must(m.AwaitNodes(ctx, 3))
		}
	})
}

// TestWipedFilter lets a stranger send frames into a VPC all the time while the
// host's packet filter is wiped: the agent has it back within a second.
func TestWipedFilter(t *testing.T) {
	ctx := within(t)
	m := newMesh(t, lab.IPv6)
	w := m.workloads[1]
	host, err := m.Lab.Host(ctx, w.Host)
	m.must(err)
	stream := func(count int) error {
		return m.Lab.SendUDP(ctx, lab.Datagrams{Host: lab.Stranger, To: netip.AddrPortFrom(host.Underlay[0].Addr(), 4789), Payload: vxlan(10000, frame("forged")), Count: count, Interval: time.Millisecond})
	}
	// arrived counts the frames that the workload gets to see during f.
	arrived := func(f func()) int {
		t.Helper()
		ear, err := m.Lab.StartSniff(ctx, lab.Sniff{Host: w.Host, Workload: w.Name, Match: lab.Match{Contains: []byte("forged")}})
		m.must(err)
		f()
		m.awaitPings(ctx) // what was sent before has arrived
		got, err := ear.Stop(ctx)
		m.must(err)
		return got.Count
	}

	// Without an agent that could mend it, a wiped filter is open: else the
	// rest would prove nothing.
	m.must(m.Lab.Freeze(ctx, w.Host, "agent"))
	m.must(m.Lab.Tamper(ctx, w.Host, "", "nft-flush"))
	if n := arrived(func() { m.must(stream(100)) }); n == 0 {
		t.Error("no frame of a stranger arrived while there was no filter: nothing is tested")
	}
	m.must(m.Lab.Thaw(ctx, w.Host, "agent"))
	m.must(m.Until(ctx, func() error {
		if n := arrived(func() { m.must(stream(20)) }); n > 0 {
			return fmt.Errorf("%d frames of a stranger arrived", n)
		}
		return nil
	}))

	const every = 3000 // ms
	n := arrived(func() {
		sent := make(chan error, 1)
		go func() { sent <- stream(every) }()
		for range 3 { // in the stream's first half
			m.must(m.Lab.Tamper(ctx, w.Host, "", "nft-flush"))
		}
		m.must(<-sent)
	})
	t.Logf("%d of %d frames of a stranger, one a millisecond, arrived while the filter was wiped three times", n, every)
	if n >= 1000 {
		t.Errorf("%d frames of a stranger arrived, one a millisecond; want the filter back within a second", n)
	}
	if n := arrived(func() { m.must(stream(100)) }); n > 0 {
		t.Errorf("%d frames of a stranger arrived afterwards; want none", n)
	}
}

// TestFullDisk: an agent that cannot keep its cache works on and says what a
// reboot would mean; once there is room it keeps it, and a reboot without the
// control plane brings everything back.
func TestFullDisk(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // a failed write is tried again after 10 s
	defer cancel()
	m := newMesh(t, lab.IPv6)
	host := m.hosts[2]
	m.shell(ctx, host, `mount -t tmpfs -o size=8k,mode=700 full "$MESHVPC_STATE_DIR" && cd "$MESHVPC_STATE_DIR" && { head -c 100000 /dev/zero > fill 2>/dev/null; test -s fill; }`)
	status := func(want bool) error {
		said, err := m.Meshvpc(ctx, m.Server, "node", "show", host)
		if err == nil && strings.Contains(said, "no space left on device") != want {
			err = fmt.Errorf("a full disk is told: %t, want %t:\n%s", !want, want, said)
		}
		return err
	}
	m.create(ctx, "red") // waits until the host is ready, too
	m.must(m.Until(ctx, func() error { return status(true) }))
	m.awaitPings(ctx)
	m.shell(ctx, host, `cd / && umount "$MESHVPC_STATE_DIR"`)
	m.must(m.Until(ctx, func() error { return status(false) }))
	m.must(m.Lab.Kill(ctx, m.Server, "server"))
	m.must(m.Lab.PowerOff(ctx, host))
	m.must(m.Lab.Boot(ctx, host))
	m.must(m.Until(ctx, func() error {
		devices, err := m.Lab.Devices(ctx, host)
		for _, want := range []string{"vpc1", "red"} {
			if found := strings.Contains(fmt.Sprint(devices), want); err == nil && !found {
				err = fmt.Errorf("after the reboot there is no %s: %v", want, devices)
			}
		}
		return err
	}))
}

// TestHeldWithoutMemory: a host whose records and cache are both gone keeps its
// network, and keeps it closed when its filter is wiped.
func TestHeldWithoutMemory(t *testing.T) {
	ctx := within(t)
	m := newMesh(t, lab.IPv6)
	host := m.hosts[1]
	m.through(ctx, func() {
		m.etcdctl(ctx, "del", "--prefix", "/meshvpc/v1/vpcs/")
		m.etcdctl(ctx, "del", "--prefix", "/meshvpc/v1/hosts/")
		m.must(m.Lab.Kill(ctx, host, "agent"))
		m.shell(ctx, host, "rm $MESHVPC_STATE_DIR/agent-cache.json")
		m.must(m.Lab.Tamper(ctx, host, "", "nft-flush"))
		m.must(m.Until(ctx, func() error {
			if err := m.Lab.StartServices(ctx, host, "agent"); err != nil { // it ends if the kernel has not let go of the killed one's lock
				return err
			}
			return m.nothingToDo(ctx, host)
		}))
	})
	m.strangers(ctx)
}
