package membership_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/enginetest"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

var loopback = []netip.Addr{netip.MustParseAddr("127.0.0.1")}

func newCA(t *testing.T) *membership.CA {
	t.Helper()
	ca, err := membership.NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func credential(t *testing.T, ca *membership.CA, subject string) membership.Credential {
	t.Helper()
	s, err := cluster.ParseSubject(subject)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ca.Credential(s, loopback, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// saved keeps a credential in files.
func saved(t *testing.T, c membership.Credential) membership.Files {
	t.Helper()
	dir := t.TempDir()
	f := membership.Files{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, "x.crt"), Key: filepath.Join(dir, "x.key")}
	for path, text := range map[string][]byte{f.CA: c.CA, f.Cert: c.Cert, f.Key: c.Key} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// handshake lets a client and a server talk and returns why it failed.
func handshake(t *testing.T, client, server *tls.Config) error {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := l.Accept(); err == nil {
			_ = c.(*tls.Conn).Handshake() // the client tells
			c.Close()
		}
	}()
	c, err := tls.Dial("tcp", l.Addr().String(), client)
	if err == nil {
		c.Close()
	}
	<-done
	return err
}

// TestWhoServes: a client of ours, and a joiner, talk to a server of their own
// cluster only.
func TestWhoServes(t *testing.T) {
	ours, theirs := newCA(t), newCA(t)
	old, err := ours.Credential(cluster.Subject{Kind: cluster.SubjectServer, Name: "s1"}, loopback, time.Now().Add(-2*366*24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	impostor := credential(t, theirs, "server:s1")
	impostor.CA = ours.CertPEM() // it shows the right CA beside
	for name, tt := range map[string]struct {
		shown membership.Credential
		want  string // "" is fine
	}{
		"a server":          {credential(t, ours, "server:s1"), ""},
		"a node":            {credential(t, ours, "node:n1"), "not trusted"},
		"a user":            {credential(t, ours, "user:alice"), "not trusted"},
		"another cluster's": {credential(t, theirs, "server:s1"), "not trusted"},
		"an impostor":       {impostor, "not trusted"},
		"one of years ago":  {old, "clock"},
	} {
		t.Run(name, func(t *testing.T) {
			for what, dialer := range map[string]*tls.Config{
				"client": membership.Dialer(credential(t, ours, "node:n2").Load),
				"joiner": membership.PinnedDialer(ours.Pin()),
			} {
				err := handshake(t, dialer, membership.Listener(tt.shown.Load))
				if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, membership.ErrUntrusted) || !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("%s: %v, want %q", what, err, tt.want)
				}
				if got := errors.Is(err, membership.ErrUntimely); got != (tt.want == "clock") {
					t.Errorf("%s: untimely %v: %v", what, got, err)
				}
			}
		})
	}
}

// secure runs an embedded etcd that shows what is in files, and that a may
// stand before.
func secure(t *testing.T, files membership.Files, a *membership.Authorizer) *etcd.Engine {
	t.Helper()
	ports := enginetest.FreePorts(t, 2)
	cfg := etcd.Config{Name: "s1", DataDir: filepath.Join(t.TempDir(), "store"), NoSync: true,
		Timings:      etcd.Timings{Tick: 10 * time.Millisecond, Election: 100 * time.Millisecond}, // or it waits up to 1 s
		ListenClient: ports[:1], ListenPeer: ports[1:], TLS: &etcd.TLS{CA: files.CA, Cert: files.Cert, Key: files.Key, Peer: membership.PeerName}}
	if _, err := os.Stat(files.Cert + ".crl"); err == nil {
		cfg.TLS.Revoked = files.Cert + ".crl"
	}
	if a != nil {
		cfg.Unary, cfg.Stream, cfg.MayObserve = a.Unary, a.Stream, a.MayObserve
	}
	engine, err := etcd.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-engine.Ready():
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
	return engine
}

func connect(t *testing.T, endpoints []string, c *membership.Credential) mvcc.KV {
	t.Helper()
	cfg := client.Config{Endpoints: endpoints}
	if c != nil {
		cfg.TLS = membership.Dialer(c.Load)
	}
	cli, err := client.Dial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cli.Close() })
	return client.New(cli)
}

// TestStoreOverTLS: the store lets in who has a certificate of its CA, and a
// certificate that is replaced serves without a restart.
func TestStoreOverTLS(t *testing.T) {
	ours, theirs := newCA(t), newCA(t)
	server := credential(t, ours, "server:s1")
	files := saved(t, server)
	engine := secure(t, files, nil)
	read := func(c *membership.Credential, timeout time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		_, err := connect(t, engine.Endpoints(), c).Range(ctx, mvcc.RangeRequest{Key: "a"})
		return err
	}
	node, stranger := credential(t, ours, "node:n1"), credential(t, theirs, "node:n1")
	stranger.CA = ours.CertPEM() // it trusts the right server
	if err := read(&node, 10*time.Second); err != nil {
		t.Errorf("a node: %v", err)
	}
	if err := read(&stranger, time.Second); !errors.Is(err, mvcc.ErrUnavailable) {
		t.Errorf("a stranger: %v, want no answer", err)
	}
	renewed := credential(t, ours, "server:s1")
	for path, text := range map[string][]byte{files.Key: renewed.Key, files.Cert: renewed.Cert} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := read(&node, 10*time.Second); err != nil {
		t.Errorf("after the certificate was replaced: %v", err)
	}
}
