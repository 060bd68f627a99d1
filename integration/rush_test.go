package integration

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/demo"
	"github.com/meshvpc/meshvpc/integration/lab"
)

// rush is how many hosts join with one token that lets in newcomers.
const (
	newcomers = 20
	rush      = newcomers + 2
)

// TestRush has more hosts join at once than their token lets in: so many come in as
// it says, each as itself. The others then join at once under one name: one does.
func TestRush(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	hosts, err := lab.Topology(rush+1, 1, false)
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Start(ctx, lab.Config{Name: "testrush", Hosts: hosts, Binary: binary})
	mustLab(t, err)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &trio{Site: &demo.Site{Lab: l, Server: hosts[0].Name}, t: t, plain: hosts[0].Name}
	c.must(c.Found(ctx))
	server, err := l.Host(ctx, c.Server)
	c.must(err)
	// join has hosts join side by side by a new token, and says how each fared.
	join := func(uses int, nameOf func(host string) string, joiners ...string) (in, out map[string]error) {
		var r struct{ Token string }
		c.must(c.JSON(ctx, &r, c.Server, "cluster", "token", "create", "--uses", fmt.Sprint(uses)))
		var (
			group sync.WaitGroup
			mu    sync.Mutex
		)
		in, out = map[string]error{}, map[string]error{}
		for _, h := range joiners {
			group.Go(func() {
				_, err := c.Meshvpc(ctx, h, "cluster", "join", server.Underlay[0].Addr().String(), "--token", r.Token,
					"--name", nameOf(h), "--datacenter", "dc1", "--underlay", lab.UnderlayDevice, "--timeout", "2m")
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					in[h] = nil
				} else {
					out[h] = err
				}
			})
		}
		group.Wait()
		return in, out
	}
	var names []string
	for _, h := range hosts[1:] {
		names = append(names, h.Name)
	}
	began := time.Now()
	in, out := join(newcomers, func(host string) string { return host }, names...)
	t.Logf("%d joined in %v", len(in), time.Since(began).Round(time.Millisecond))
	for host, err := range out {
		if !strings.Contains(err.Error(), "the token is unknown: it was used up") {
			t.Errorf("%s did not join: %v", host, err)
		}
	}
	if len(in) != newcomers {
		t.Fatalf("%d hosts are in, want %d", len(in), newcomers)
	}
	keys := map[string]string{} // whose each is
	for host := range in {
		key, name := identity(t, filepath.Join(l.Disk(host).Etc, "tls", "node.crt"))
		if name != "node:"+host || keys[key] != "" {
			t.Errorf("%s is %s, with the key of %q", host, name, keys[key])
		}
		keys[key] = host
	}
	var rest []string
	for host := range out {
		rest = append(rest, host)
	}
	in, out = join(2, func(string) string { return "twin" }, rest...)
	if len(in) != 1 || len(out) != 1 || !strings.Contains(fmt.Sprint(out), "node name twin is taken") {
		t.Errorf("two hosts of one name: %d are in, and refused %v", len(in), out)
	}
	var list []demo.Node
	c.must(c.JSON(ctx, &list, c.Server, "node", "list"))
	different := map[string]bool{}
	for _, n := range list {
		different[n.Node] = true
	}
	if len(list) != newcomers+2 || len(different) != len(list) || !different["twin"] {
		t.Errorf("the cluster has %d nodes of %d names, want the server, %d, and one of two: %+v", len(list), len(different), newcomers, list)
	}
}

// identity is the key and the name of the certificate in a file.
func identity(t *testing.T, path string) (key, name string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal(errors.New(path + " holds no certificate"))
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return string(cert.RawSubjectPublicKeyInfo), cert.Subject.CommonName
}
