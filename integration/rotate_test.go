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

	"sigs.k8s.io/yaml"

	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/integration/lab"
)

// TestRotateCA puts another CA in the place of the cluster's while somebody writes
// and watches: no event is missed, the hosts' processes go on, certificates and
// tokens of the CA before open nothing, and new ones do.
func TestRotateCA(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
	defer cancel()
	c := newTrio(ctx, t, "testrotate")
	etc := func(host string, path ...string) string {
		return filepath.Join(append([]string{c.Lab.Disk(host).Etc}, path...)...)
	}
	read := func(path string) []byte {
		t.Helper()
		b, err := os.ReadFile(path)
		c.must(err)
		return b
	}
	former := read(etc(c.Server, "tls", "ca.crt"))
	stale := read(etc(c.plain, "admin.yaml")) // of somebody who is away all the time
	before := c.token(ctx)
	var ended error
	traffic := startTraffic(ctx, t, c.Site, c.plain)
	r := traffic.through(func() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, ended = c.Meshvpc(ctx, c.Server, "cluster", "rotate-ca", "--yes", "--timeout", "60s")
		}()
		for used := 0; ; used++ { // a person's file is renewed when it is used
			select {
			case <-done:
				c.must(ended)
				t.Logf("a client file was used %d times meanwhile", used)
				return
			default:
				if _, err := c.Meshvpc(ctx, c.plain, "get", "config"); err != nil {
					t.Logf("while the CA is replaced: %v", err)
				}
			}
		}
	})
	t.Logf("%d writes acknowledged, %d not, the longest gap %d ms", r.Acked, r.Refused, r.GapMS)
	if r.Refused > 0 {
		t.Errorf("%d writes were refused", r.Refused)
	}
	for _, host := range append([]string{c.plain, c.Server}, serverNames(c)...) {
		if now := read(etc(host, "tls", "ca.crt")); membership.SharesCA(now, former) || strings.Count(string(now), "BEGIN") != 1 {
			t.Errorf("%s trusts the former CA still", host)
		}
	}
	var file map[string]any // it trusts the new CA, and has a certificate of the former
	c.must(yaml.Unmarshal(stale, &file))
	file["ca"] = string(read(etc(c.Server, "tls", "ca.crt")))
	stale, err := yaml.Marshal(file)
	c.must(err)
	c.must(os.WriteFile(etc(c.plain, "stale.yaml"), stale, 0o600))
	if out, err := c.Meshvpc(ctx, c.plain, "get", "config", "--timeout", "3s", "--config", etc(c.plain, "stale.yaml")); err == nil {
		t.Errorf("a certificate of the former CA opens the store: %s", out)
	}
	_, err = c.Meshvpc(ctx, c.plain, "get", "config", "--timeout", "3s") // from there, with one of the new CA
	c.must(err)
	c.backedUp(ctx, etc(c.Server, "tls", "ca.crt"))
	if err := c.join(ctx, "late", before); err == nil || !strings.Contains(err.Error(), "not of the CA that the token names") {
		t.Errorf("a token of the former CA: %v", err)
	}
	c.must(c.join(ctx, "new", c.token(ctx)))
	c.must(c.Lab.Kill(ctx, c.plain, "agent"))
	c.must(c.Lab.StartServices(ctx, c.plain, "agent"))
	c.must(c.AwaitVoters(ctx, c.plain, 3))
}

// backedUp makes a backup on the first server, and restores it elsewhere on that
// host: it has the CA in the file.
func (c *trio) backedUp(ctx context.Context, ca string) {
	c.t.Helper()
	dir := c.t.TempDir()
	file, pass := filepath.Join(dir, "backup"), filepath.Join(dir, "pass")
	c.must(os.WriteFile(pass, []byte("correct horse"), 0o600))
	_, err := c.Meshvpc(ctx, c.Server, "cluster", "backup", file, "--passphrase-file", pass, "--config", filepath.Join(c.Lab.Disk(c.Server).Etc, "client.yaml"))
	c.must(err)
	var said strings.Builder
	code, err := c.Lab.Exec(ctx, lab.Command{Host: c.Server, Argv: []string{"env", "MESHVPC_CONFIG_DIR=" + dir, "MESHVPC_STATE_DIR=" + filepath.Join(dir, "var"),
		"meshvpc", "cluster", "restore", file, "--passphrase-file", pass, "--name", c.Server, "--underlay", lab.UnderlayDevice}, Stdout: &said, Stderr: &said})
	if err != nil || code != 0 {
		c.t.Fatalf("restore: exit %d, %v: %s", code, err, said.String())
	}
	want, err := os.ReadFile(ca)
	c.must(err)
	got, err := os.ReadFile(filepath.Join(dir, "tls", "ca.crt"))
	c.must(err)
	if string(got) != string(want) {
		c.t.Error("the backup has another CA than the cluster")
	}
}

// token is a new one of a node.
func (c *trio) token(ctx context.Context) string {
	c.t.Helper()
	var r struct{ Token string }
	c.must(c.JSON(ctx, &r, c.plain, "cluster", "token", "create"))
	return r.Token
}

// join has another node than the host's own join by a token, from the host, and
// read the records as its viewer.
func (c *trio) join(ctx context.Context, name, token string) error {
	server, err := c.Lab.Host(ctx, c.Server)
	if err != nil {
		return err
	}
	dir := c.t.TempDir()
	as := []string{"env", "MESHVPC_CONFIG_DIR=" + dir, "MESHVPC_STATE_DIR=" + dir, "MESHVPC_CONFIG=" + filepath.Join(dir, "client.yaml")}
	for _, args := range [][]string{
		{"cluster", "join", server.Underlay[0].Addr().String(), "--name", name, "--datacenter", "skynet", "--no-ask-back", "--timeout", "5s", "--token", token},
		{"get", "config"},
	} {
		var said strings.Builder
		if code, err := c.Lab.Exec(ctx, lab.Command{Host: c.plain, Argv: slices.Concat(as, []string{"meshvpc"}, args), Stdout: &said, Stderr: &said}); err != nil || code != 0 {
			return fmt.Errorf("%v: exit %d: %v: %s", args[:2], code, err, said.String())
		}
	}
	return nil
}

// TestRotateCALeavesBehind: a host that is off is named and waited for; left behind,
// it opens nothing, and joins again by a token as what it is.
func TestRotateCALeavesBehind(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
	defer cancel()
	c := newTrio(ctx, t, "testbehind")
	c.must(c.Lab.Kill(ctx, c.plain, "agent"))
	_, err := c.Meshvpc(ctx, c.Server, "cluster", "rotate-ca", "--yes", "--timeout", "8s")
	if err == nil || !strings.Contains(err.Error(), "node "+c.plain+" (it was not heard from)") || !strings.Contains(err.Error(), "--leave-behind "+c.plain) {
		t.Fatalf("a host is off: %v", err)
	}
	out, err := c.Meshvpc(ctx, c.Server, "cluster", "status")
	c.must(err)
	if want := "phase trust: waiting for node " + c.plain; !strings.Contains(out, want) {
		t.Errorf("want %q in:\n%s", want, out)
	}
	_, err = c.Meshvpc(ctx, c.Server, "cluster", "rotate-ca", "--leave-behind", c.plain, "--timeout", "60s")
	c.must(err)
	if out, err := c.Meshvpc(ctx, c.plain, "get", "config", "--timeout", "3s", "--config", filepath.Join(c.Lab.Disk(c.plain).Etc, "client.yaml")); err == nil {
		t.Errorf("a host that was left behind reads the store: %s", out)
	}
	var r struct{ Token string }
	c.must(c.JSON(ctx, &r, c.Server, "cluster", "token", "create", "--config", filepath.Join(c.Lab.Disk(c.Server).Etc, "client.yaml")))
	server, err := c.Lab.Host(ctx, c.Server)
	c.must(err)
	_, err = c.Meshvpc(ctx, c.plain, "cluster", "join", server.Underlay[0].Addr().String(), "--datacenter", "skynet", "--no-ask-back", "--token", r.Token)
	c.must(err)
	c.must(c.Lab.StartServices(ctx, c.plain, "agent"))
	c.must(c.Until(ctx, func() error {
		_, err := c.Meshvpc(ctx, c.plain, "status", "--check", "--timeout", "2s", "--config", filepath.Join(c.Lab.Disk(c.plain).Etc, "client.yaml"))
		return err
	}))
}

func serverNames(c *trio) (names []string) {
	for _, s := range c.Servers {
		names = append(names, s.Name)
	}
	return names
}
