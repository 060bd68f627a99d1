package membership_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// guarded is an etcd with an Authorizer before it.
type guarded struct {
	t      *testing.T
	ca     *membership.CA
	engine *etcd.Engine
	auth   *membership.Authorizer
	server *clientv3.Client // may do everything
}

// guard starts one whose Authorizer reads no records yet.
func guard(t *testing.T, cfg membership.AuthorizerConfig) *guarded {
	t.Helper()
	g := &guarded{t: t, ca: newCA(t)}
	server := credential(t, g.ca, "server:s1")
	cfg.Self = cluster.Caller{Subject: cluster.Subject{Kind: cluster.SubjectServer, Name: "s1"}, Key: keyOf(t, server)}
	g.auth = membership.NewAuthorizer(cfg)
	g.engine = secure(t, saved(t, server), g.auth)
	g.server = g.dial(server)
	return g
}

// run lets the Authorizer read the records until the test ends.
func (g *guarded) run() *guarded {
	g.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- g.auth.Run(ctx, store.New(client.New(g.server), cluster.Identity{Role: cluster.Controller}))
	}()
	g.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			g.t.Error(err)
		}
	})
	select {
	case <-g.auth.Ready():
	case <-time.After(time.Minute):
		g.t.Fatal("the records are not read")
	}
	return g
}

func (g *guarded) dial(c membership.Credential) *clientv3.Client {
	g.t.Helper()
	cli, err := client.Dial(client.Config{Endpoints: g.engine.Endpoints(), TLS: membership.Dialer(c.Load)})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		if err := cli.Close(); err != nil {
			g.t.Error(err)
		}
	})
	return cli
}

// put writes a record, past all rules.
func (g *guarded) put(key string, r cluster.Record) {
	g.t.Helper()
	value, err := cluster.Encode(r, nil)
	if err == nil {
		_, err = g.server.Put(g.t.Context(), key, string(value))
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *guarded) delete(key string) {
	g.t.Helper()
	if _, err := g.server.Delete(g.t.Context(), key); err != nil {
		g.t.Fatal(err)
	}
}

// node lets a node in, with a part in VPCs, and returns its credential.
func (g *guarded) node(name string, vpcs ...string) membership.Credential {
	g.t.Helper()
	c := credential(g.t, g.ca, "node:"+name)
	for _, vpc := range vpcs {
		g.put(cluster.KeyHostVPC(name, vpc), &cluster.HostVPC{State: cluster.AssignedMember})
	}
	g.setNode(name, c, cluster.NodeActive)
	g.known(c)
	return c
}

func (g *guarded) setNode(name string, c membership.Credential, state cluster.NodeState) {
	g.t.Helper()
	g.put(cluster.KeyNode(name), &cluster.Node{ID: "id-" + name, Datacenter: "dc1", State: state, Agent: true, Key: keyOf(g.t, c)})
}

// user lets a person in, and returns the credential.
func (g *guarded) user(name string, role cluster.UserRole) membership.Credential {
	g.t.Helper()
	c := credential(g.t, g.ca, "user:"+name)
	g.put(cluster.KeyUser(name), &cluster.User{Role: role, Key: keyOf(g.t, c)})
	g.known(c)
	return c
}

// known waits until the Authorizer knows the holder of a credential.
func (g *guarded) known(c membership.Credential) {
	g.t.Helper()
	cli := g.dial(c)
	eventually(g.t, "somebody new is let in", func() bool {
		_, err := cli.Get(g.t.Context(), cluster.KeyConfig)
		return err == nil
	})
}

// shutOut waits until the Authorizer knows that the holder has no record any more.
func (g *guarded) shutOut(cli *clientv3.Client) {
	g.t.Helper()
	eventually(g.t, "who has no record is shut out", func() bool {
		_, err := cli.Get(g.t.Context(), cluster.KeyConfig)
		return code(err) == codes.PermissionDenied
	})
}

func keyOf(t *testing.T, c membership.Credential) string {
	t.Helper()
	block, _ := pem.Decode(c.Cert)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// eventually waits for what is promised to come, however slow the machine is.
func eventually(t *testing.T, what string, come func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); !come(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// code is the gRPC code of an error of clientv3's.
func code(err error) codes.Code {
	if c, ok := err.(interface{ Code() codes.Code }); ok {
		return c.Code()
	}
	return status.Code(err)
}
