package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// reports waits until every host says a word about a VPC.
func (m *mesh) reports(ctx context.Context, vpc, word string) {
	m.t.Helper()
	m.must(m.Until(ctx, func() error {
		for _, h := range m.hosts {
			out, err := m.Meshvpc(ctx, m.Server, "get", "/meshvpc/v1/status/"+h+"/vpcs/"+vpc)
			if err != nil || !strings.Contains(out, word) {
				return fmt.Errorf("%s does not report %q of %s: %s %w", h, word, vpc, out, err)
			}
		}
		return nil
	}))
}

// TestRestore loses the store and brings back one of before: no host lets go of
// anything until that is confirmed, nor then of what the records have forgotten.
func TestRestore(t *testing.T) {
	ctx := within(t)
	m := newMesh(t, lab.IPv6)
	disk := m.Lab.Disk(m.Server)
	file, passphrase := filepath.Join(disk.Var, "backup"), filepath.Join(disk.Etc, "passphrase")
	m.must(os.WriteFile(passphrase, []byte("correct horse\n"), 0o600))
	_, err := m.Meshvpc(ctx, m.Server, "cluster", "backup", file, "--passphrase-file", passphrase)
	m.must(err)

	m.create(ctx, "vpc2")
	before := map[string]string{}
	for _, h := range m.hosts {
		before[h] = m.carries(ctx, h)
	}
	m.through(ctx, func() {
		m.must(m.Lab.Kill(ctx, m.Server, "server"))
		m.must(errors.Join(os.RemoveAll(filepath.Join(disk.Var, "store")), os.RemoveAll(filepath.Join(disk.Etc, "tls", "ca.key"))))
		_, err = m.Meshvpc(ctx, m.Server, "cluster", "restore", file, "--passphrase-file", passphrase)
		m.must(err)
		m.must(m.Lab.StartServices(ctx, m.Server, "server"))
		m.reports(ctx, "vpc1", "the store was restored")
		m.reports(ctx, "vpc2", "the store was restored")
		for _, h := range m.hosts {
			if got := m.carries(ctx, h); got != before[h] {
				t.Errorf("%s carries after the restore: %s; before: %s", h, got, before[h])
			}
		}
		var confirmed struct{ Changes []string }
		m.must(m.Until(ctx, func() error {
			return m.JSON(ctx, &confirmed, m.Server, "cluster", "confirm", "--yes")
		}))
		if !strings.Contains(strings.Join(confirmed.Changes, "\n"), "keeps VPC vpc2, which no record tells of") {
			t.Errorf("confirm tells of %q; want vpc2", confirmed.Changes)
		}
		m.reports(ctx, "vpc1", `"member"`)
		m.reports(ctx, "vpc2", "the assignment record of this host is gone")
		for _, h := range m.hosts {
			if got := m.carries(ctx, h); got != before[h] {
				t.Errorf("%s carries after the confirmation: %s; before: %s", h, got, before[h])
			}
		}
		m.create(ctx, "vpc2")
	})
	m.must(m.Until(ctx, func() error {
		_, err := m.Meshvpc(ctx, m.Server, "status")
		return err
	}))
}

// TestRestoreElsewhere makes a node the server of a cluster whose only one is gone.
func TestRestoreElsewhere(t *testing.T) {
	ctx := within(t)
	m := newMesh(t, lab.IPv6)
	old, heir := m.hosts[0], m.hosts[1]
	file, passphrase := filepath.Join(m.Lab.Disk(old).Var, "backup"), filepath.Join(m.Lab.Disk(old).Etc, "passphrase")
	m.must(os.WriteFile(passphrase, []byte("correct horse\n"), 0o600))
	_, err := m.Meshvpc(ctx, old, "cluster", "backup", file, "--passphrase-file", passphrase)
	m.must(err)
	for _, path := range []string{file, passphrase} { // the lab's hosts share files, a site's do not
		text, err := os.ReadFile(path)
		m.must(err)
		m.must(os.WriteFile(filepath.Join(m.Lab.Disk(heir).Etc, filepath.Base(path)), text, 0o600))
	}
	m.must(m.Lab.PowerOff(ctx, old))

	etc := m.Lab.Disk(heir).Etc
	_, err = m.Meshvpc(ctx, heir, "cluster", "restore", filepath.Join(etc, "backup"), "--passphrase-file", filepath.Join(etc, "passphrase"), "--underlay", lab.UnderlayDevice)
	m.must(err)
	from, err := m.Lab.Host(ctx, old)
	m.must(err)
	to, err := m.Lab.Host(ctx, heir)
	m.must(err)
	for _, h := range m.hosts[1:] {
		for _, name := range []string{"agent.yaml", "admin.yaml"} {
			path := filepath.Join(m.Lab.Disk(h).Etc, name)
			text, err := os.ReadFile(path)
			m.must(err)
			m.must(os.WriteFile(path, []byte(strings.ReplaceAll(string(text), from.Underlay[0].Addr().String(), to.Underlay[0].Addr().String())), 0o600))
		}
		m.must(m.Lab.Kill(ctx, h, "agent"))
	}
	m.must(m.Lab.SetServices(ctx, heir, lab.Service{Name: "server", Argv: []string{"meshvpc", "server"}}, lab.Service{Name: "agent", Argv: []string{"meshvpc", "agent"}}))
	m.must(errors.Join(m.Lab.StartServices(ctx, heir, ""), m.Lab.StartServices(ctx, m.hosts[2], "")))
	m.Server = heir
	m.must(m.Until(ctx, func() error {
		_, err := m.Meshvpc(ctx, heir, "cluster", "confirm", "--dark", old, "--yes")
		return err
	}))
	m.create(ctx, "vpc2", "--members", heir+","+m.hosts[2])
}

// carries is what a host has of ours: its devices, and whom they flood to.
func (m *mesh) carries(ctx context.Context, host string) string {
	m.t.Helper()
	devices, err := m.Lab.Devices(ctx, host)
	m.must(err)
	slices.Sort(devices)
	text := strings.Join(devices, " ")
	for _, tunnel := range []string{"mv6-10000", "mv6-10001"} {
		peers, err := m.Lab.Flood(ctx, host, tunnel)
		m.must(err)
		slices.Sort(peers)
		text += fmt.Sprintf("; %s to %v", tunnel, peers)
	}
	return text
}
