package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// TestRecover loses two of three servers for good. The third refuses to recover
// while it runs or while another answers; then it goes on alone, hosts hold until
// that is confirmed, and no frame is lost. One of the lost comes back with its old
// store, hears that it is none any more, and joins anew with another.
func TestRecover(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
	defer cancel()
	c := newTrio(ctx, t, "testrecover")
	first, heir, witness := c.Server, c.Servers[0].Name, c.Servers[1].Name
	m := &mesh{Site: c.Site, t: t, hosts: []string{heir, c.plain}}
	m.createAs(ctx)
	m.awaitPings(ctx)
	recovers := func() (string, error) {
		return c.Meshvpc(ctx, heir, "cluster", "recover", "--force-new-cluster", "--yes")
	}
	refused := func(want string) {
		t.Helper()
		if said, err := recovers(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("recover: %s %v, want %q", said, err, want)
		}
	}
	refused("meshvpc server runs on this host")
	carries := func() string {
		devices, err := c.Lab.Devices(ctx, c.plain)
		c.must(err)
		peers, err := c.Lab.Flood(ctx, c.plain, "mv6-10000")
		c.must(err)
		slices.Sort(devices)
		slices.Sort(peers)
		return fmt.Sprint(devices, peers)
	}
	carried := carries()
	run, err := c.Lab.StartPing(ctx, lab.Ping{Host: heir, Workload: m.workloads[0].Name, To: m.workloads[1].Prefixes[0].Addr(), Interval: 10 * time.Millisecond})
	c.must(err)
	c.must(c.Lab.PowerOff(ctx, first))
	c.must(c.Lab.Kill(ctx, heir, "server"))
	refused("nothing is lost: " + witness + " and this server are most of the 3 that vote")
	c.must(c.Lab.PowerOff(ctx, witness))

	said, err := recovers()
	c.must(err)
	for _, want := range []string{"node " + heir + " has the store", "keep meshvpc server stopped on " + first + ", " + witness, "meshvpc cluster confirm"} {
		if !strings.Contains(said, want) {
			t.Errorf("recover says\n%s\nwant %q", said, want)
		}
	}
	c.Server, c.Servers = heir, nil
	c.must(c.Lab.StartServices(ctx, heir, "server"))
	m.reports(ctx, "vpc1", "the store was restored")
	if _, err := c.Meshvpc(ctx, heir, "vpc", "create", "vpc2", "--peer-network", "10.101.0.0/24", "--members", heir+","+c.plain, "--timeout", "2s"); err == nil {
		t.Error("a VPC came up while hosts hold")
	}
	if _, err := c.Meshvpc(ctx, heir, "cluster", "confirm", "--yes"); err == nil || !strings.Contains(err.Error(), "--dark "+first) {
		t.Errorf("confirm does not want %s named: %v", first, err)
	}
	if now := carries(); now != carried {
		t.Errorf("before it is confirmed, %s carries %s; before: %s", c.plain, now, carried)
	}
	c.must(c.Until(ctx, func() error {
		_, err := c.Meshvpc(ctx, heir, "cluster", "confirm", "--dark", first, "--yes")
		return err
	}))
	m.reports(ctx, "vpc1", `"member"`)
	_, err = c.Meshvpc(ctx, heir, "vpc", "wait", "vpc2")
	c.must(err)
	pings, err := run.Stop(ctx)
	c.must(err)
	if pings.Lost > 0 || pings.Received == 0 {
		t.Errorf("%d of %d pings were lost, longest gap %v", pings.Lost, pings.Sent, pings.Gap)
	}
	t.Logf("%d pings, %d lost", pings.Sent, pings.Lost)
	m.comesBack(ctx, first)
	_, err = c.Lab.AddHost(ctx, lab.HostConfig{Name: "third", Datacenter: "third"})
	c.must(err)
	c.Servers = []lab.HostConfig{{Name: first, Datacenter: "skynet"}, {Name: "third", Datacenter: "third"}}
	c.must(c.Join(ctx, first, "third"))
	c.must(c.AwaitVoters(ctx, c.plain, 3))
	m.create(ctx, "vpc3", "--members", first+","+c.plain, "--timeout", "20s")
}

// comesBack boots a lost server's host: it has its old store, and hears that it is
// no server any more.
func (m *mesh) comesBack(ctx context.Context, host string) {
	m.t.Helper()
	if _, err := m.Meshvpc(ctx, m.Server, "node", "remove", host, "--yes", "--timeout", "2s"); err != nil {
		m.t.Logf("node remove says: %v", err) // it may say that it waits for the host
	}
	m.must(m.Lab.Boot(ctx, host))
	m.says(ctx, host, "was removed from the cluster")
	m.must(m.Lab.Kill(ctx, host, "agent"))
	_, err := m.Meshvpc(ctx, host, "node", "purge", "--yes")
	m.must(err)
}

// says waits for words in the log of a host's server.
func (m *mesh) says(ctx context.Context, host, words string) {
	m.t.Helper()
	m.must(m.Until(ctx, func() error {
		log, err := os.ReadFile(filepath.Join(m.Lab.Disk(host).Log, "server.log"))
		if err == nil && !strings.Contains(string(log), words) {
			err = fmt.Errorf("the server of %s does not say %q:\n%s", host, words, log)
		}
		return err
	}))
}

// TestRestoreAndGrow restores a backup, and two servers more join the one there is.
func TestRestoreAndGrow(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	defer cancel()
	m := newNodes(t, lab.IPv6)
	disk := m.Lab.Disk(m.Server)
	file := filepath.Join(disk.Var, "backup")
	_, err := m.Meshvpc(ctx, m.Server, "cluster", "backup", file, "--no-ca")
	m.must(err)
	m.must(m.Lab.Kill(ctx, m.Server, "server"))
	m.must(os.RemoveAll(filepath.Join(disk.Var, "store")))
	_, err = m.Meshvpc(ctx, m.Server, "cluster", "restore", file)
	m.must(err)
	m.must(m.Lab.StartServices(ctx, m.Server, "server"))
	m.must(m.Until(ctx, func() error {
		_, err := m.Meshvpc(ctx, m.Server, "cluster", "confirm", "--yes", "--timeout", "2s")
		return err
	}))
	for _, name := range []string{"second", "third"} {
		h := lab.HostConfig{Name: name, Datacenter: name}
		_, err := m.Lab.AddHost(ctx, h)
		m.must(err)
		m.Servers = append(m.Servers, h)
	}
	m.must(m.Join(ctx, "second", "third"))
	m.must(m.AwaitVoters(ctx, m.hosts[1], 3))
	m.must(m.Until(ctx, func() error { // until the host knows all
		known, err := os.ReadFile(filepath.Join(m.Lab.Disk(m.hosts[1]).Var, "endpoints"))
		if err == nil && strings.Count(string(known), "\n") != 3 {
			err = fmt.Errorf("it knows the servers %q", known)
		}
		return err
	}))
	m.must(m.Lab.PowerOff(ctx, m.Server)) // the two others go on
	m.Server = m.hosts[1]
	m.must(m.Until(ctx, func() error {
		_, err := m.Meshvpc(ctx, m.hosts[1], "node", "set", m.hosts[1], "--label", "rack=7", "--timeout", "5s")
		return err
	}))
}
