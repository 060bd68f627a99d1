package membership_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

// TestNoLease: what is about no lease at all is not for everybody either.
func TestNoLease(t *testing.T) {
	g := guard(t, membership.AuthorizerConfig{}).run()
	rita := g.user("rita", cluster.UserOperator)
	g.delete(cluster.KeyUser("rita"))
	revoked := g.dial(rita)
	g.shutOut(revoked)
	for who, cli := range map[string]*clientv3.Client{"who was revoked": revoked, "a node": g.dial(g.node("n1"))} {
		t.Run(who, func(t *testing.T) {
			g.refuseAll(cli, map[string]call{
				"end none": pbCall(func(ctx context.Context, q *pb.LeaseRevokeRequest, c *clientv3.Client) (*pb.LeaseRevokeResponse, error) {
					return pb.NewLeaseClient(c.ActiveConnection()).LeaseRevoke(ctx, q)
				}, &pb.LeaseRevokeRequest{}),
				"see none": pbCall(func(ctx context.Context, q *pb.LeaseTimeToLiveRequest, c *clientv3.Client) (*pb.LeaseTimeToLiveResponse, error) {
					return pb.NewLeaseClient(c.ActiveConnection()).LeaseTimeToLive(ctx, q)
				}, &pb.LeaseTimeToLiveRequest{}),
			})
		})
	}
}

// signedBy is a server's certificate that the holder of another one has signed,
// and shows with that.
func signedBy(t *testing.T, holder membership.Credential) membership.Credential {
	t.Helper()
	pair, err := tls.X509KeyPair(holder.Cert, holder.Key)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "server:s1"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, pair.Leaf, key.Public(), pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return membership.Credential{CA: holder.CA, Cert: append(cert, holder.Cert...), Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})}
}

// TestWhoSigns: the holder of a certificate cannot make others with it, neither to
// serve nor to dial.
func TestWhoSigns(t *testing.T) {
	ca := newCA(t)
	for _, holder := range []string{"node:n1", "user:alice", "server:s1"} {
		made := signedBy(t, credential(t, ca, holder))
		for what, dialer := range map[string]*tls.Config{
			"client": membership.Dialer(credential(t, ca, "node:n2").Load), "joiner": membership.PinnedDialer(ca.Pin()),
		} {
			if err := handshake(t, dialer, membership.Listener(made.Load)); err == nil {
				t.Errorf("a %s trusts a server that %s has certified", what, holder)
			}
		}
	}
}

// TestWhoIsAPeer: the port on which servers speak among themselves, where there is
// nobody to ask what may be done, opens to servers that were not taken out.
func TestWhoIsAPeer(t *testing.T) {
	ca := newCA(t)
	removed := credential(t, ca, "server:s3")
	renewed := removed
	var err error
	if renewed.Cert, err = ca.Reissue(removed, loopback, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	list, err := membership.RevocationList([]string{strings.Repeat("ab", 32), keyOf(t, removed)}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	files := saved(t, credential(t, ca, "server:s1"))
	if err := os.WriteFile(files.Cert+".crl", list, 0o600); err != nil {
		t.Fatal(err)
	}
	admin := credential(t, ca, "server:s1")
	cli, err := client.Dial(client.Config{Endpoints: secure(t, files, nil).Endpoints(), TLS: membership.Dialer(admin.Load)})
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	members, err := cli.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	peers := members.Members[0].PeerURLs[0]
	node := credential(t, ca, "node:n1")
	nobody := credential(t, newCA(t), "server:s1")
	nobody.CA = ca.CertPEM()
	for name, tt := range map[string]struct {
		by   membership.Credential
		open bool
	}{
		"itself": {credential(t, ca, "server:s1"), true}, "a node": {node, false}, "an admin": {credential(t, ca, "user:admin"), false}, "another server": {credential(t, ca, "server:s2"), true},
		"one that was taken out": {removed, false}, "the same, renewed": {renewed, false},
		"another cluster's": {nobody, false}, "one that a node made": {signedBy(t, node), false},
	} {
		t.Run(name, func(t *testing.T) {
			transport := &http.Transport{TLSClientConfig: membership.Dialer(tt.by.Load)}
			defer transport.CloseIdleConnections()
			for _, path := range []string{"/raft", "/raft/stream/message/1", "/raft/snapshot", "/members", "/members/promote/1", "/leases", "/leases/internal", "/version", "/downgrade/enabled"} {
				for _, method := range []string{http.MethodGet, http.MethodPost} {
					req, err := http.NewRequestWithContext(t.Context(), method, peers+path, strings.NewReader("x"))
					if err != nil {
						t.Fatal(err)
					}
					answer, err := (&http.Client{Transport: transport}).Do(req)
					if err == nil {
						answer.Body.Close()
					}
					if (err == nil) != tt.open {
						t.Errorf("%s %s: %v, want it open: %v", method, path, err, tt.open)
					}
				}
			}
		})
	}
}
