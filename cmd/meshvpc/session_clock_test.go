package main

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// TestClockInErrors: a command that no server serves because a clock is wrong says
// so, with both times, whosever clock it is.
func TestClockInErrors(t *testing.T) {
	now := time.Now()
	ca, err := membership.NewCA("test", now.Add(-24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	mine, err := ca.Credential(cluster.Subject{Kind: cluster.SubjectUser, Name: "alice"}, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		made time.Time     // the server's certificate
		off  time.Duration // the server's clock
		says []string
	}{
		"this clock is behind": {now.Add(3 * time.Hour), 0, []string{"not at this time: it holds from " + now.Add(2*time.Hour).UTC().Format(time.RFC3339), "this host's clock says 20"}},
		"this clock is ahead":  {now.Add(-366 * 24 * time.Hour), 0, []string{"not at this time", "this host's clock says "}},
		"the server's is ahead": {now, 366 * 24 * time.Hour, []string{"by the clock of a server the certificate of this client does not hold: it holds from " + now.Add(-time.Hour).UTC().Format(time.RFC3339),
			"this host's clock says 20"}},
		"the server's is behind": {now, -2 * time.Hour, []string{"by the clock of a server the certificate of this client does not hold"}},
	} {
		t.Run(name, func(t *testing.T) {
			shown, err := ca.Credential(cluster.Subject{Kind: cluster.SubjectServer, Name: "a"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")}, tt.made)
			if err != nil {
				t.Fatal(err)
			}
			cfg := clientConfig{CA: string(mine.CA), Cert: string(mine.Cert), Key: string(mine.Key), Endpoints: []string{listenAs(t, shown, tt.off)}}
			s, err := dialSession(cfg, "client.yaml", 2*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer s.cli.Close()
			_, err = store.Get[*cluster.Config](t.Context(), s.store, cluster.KeyConfig)
			err = s.explain(t.Context(), err)
			_, do := remedy(t.Context(), err)
			for _, want := range append(tt.says, "clock") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in %q", want, err)
				}
			}
			if !strings.Contains(do, setClock) {
				t.Errorf("hint %q", do)
			}
		})
	}
}

// listenAs accepts connections as who wants a certificate that holds by its own clock,
// as etcd does, until the test ends.
func listenAs(t *testing.T, c membership.Credential, off time.Duration) string {
	t.Helper()
	pair, err := tls.X509KeyPair(c.Cert, c.Key)
	if err != nil {
		t.Fatal(err)
	}
	cas := x509.NewCertPool()
	cas.AppendCertsFromPEM(c.CA)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert,
		ClientCAs: cas, NextProtos: []string{"h2"}, Time: func() time.Time { return time.Now().Add(off) }})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.(*tls.Conn).Handshake() // the client tells
			conn.Close()
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return l.Addr().String()
}
