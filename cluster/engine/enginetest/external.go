package enginetest

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster/engine/client"
)

// External is a stock etcd in a process of its own, as an operator runs one: it
// speaks TLS only, shows a certificate of the operator's CA, and lets in who has
// one of its client CAs, the operator's at first. Authentication is off.
type External struct {
	Endpoint      string // URL
	CA, Cert, Key string // files: the operator's CA, and a credential of the common name root

	dir, trusted string
	args         []string
	ca           operatorCA
	process      *exec.Cmd
	ended        chan error
}

// Tool is the path of a program that go.mod names as a tool.
func Tool(t testing.TB, name string) string {
	t.Helper()
	out, err := exec.Command("go", "tool", "-n", name).Output()
	if err != nil {
		t.Fatalf("go tool -n %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

// etcdServer is etcd's main package.
const etcdServer = "go.etcd.io/etcd/server/v3"

// StartExternal runs an etcd until the test ends. More flags are etcd's.
func StartExternal(t testing.TB, flags ...string) *External {
	t.Helper()
	ports := FreePorts(t, 2)
	e := &External{dir: t.TempDir(), ca: newOperatorCA(t), Endpoint: "https://" + ports[0].String()}
	path := func(name string) string { return filepath.Join(e.dir, name) }
	e.CA, e.Cert, e.Key, e.trusted = path("ca.crt"), path("root.crt"), path("root.key"), path("trusted.crt")
	serverCert, serverKey := e.ca.issue(t, "etcd", true)
	cert, key := e.ca.issue(t, "root", false)
	for file, text := range map[string][]byte{e.CA: e.ca.pem, e.trusted: e.ca.pem, e.Cert: cert, e.Key: key, path("server.crt"): serverCert, path("server.key"): serverKey} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	peer := "http://" + ports[1].String()
	e.args = append([]string{Tool(t, etcdServer), "--name=theirs", "--data-dir=" + path("data"),
		"--listen-client-urls=" + e.Endpoint, "--advertise-client-urls=" + e.Endpoint,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=theirs=" + peer,
		"--cert-file=" + path("server.crt"), "--key-file=" + path("server.key"),
		"--client-cert-auth", "--trusted-ca-file=" + e.trusted,
		"--unsafe-no-fsync", "--heartbeat-interval=10", "--election-timeout=100"}, flags...)
	e.start(t)
	t.Cleanup(func() { e.kill(t) })
	return e
}

// start runs the process, and returns once it serves.
func (e *External) start(t testing.TB) {
	t.Helper()
	e.process = exec.Command(e.args[0], e.args[1:]...)
	log, err := e.process.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.process.Start(); err != nil {
		t.Fatal(err)
	}
	e.ended = make(chan error, 1)
	lines := bufio.NewReader(log)
	var said strings.Builder
	for {
		line, err := lines.ReadString('\n')
		said.WriteString(line)
		if err != nil {
			t.Fatalf("etcd ended: %v\n%s", e.process.Wait(), said.String())
		}
		if strings.Contains(line, "serving client traffic securely") {
			break
		}
	}
	go func() {
		_, _ = io.Copy(io.Discard, lines) // else etcd waits for us
		e.ended <- e.process.Wait()
	}()
}

func (e *External) kill(t testing.TB) {
	t.Helper()
	if err := e.process.Process.Kill(); err != nil {
		t.Error(err)
	}
	if err := <-e.ended; err == nil {
		t.Error("etcd had ended by itself")
	}
}

// Trust makes a CA one of the client CAs, as an operator does: its certificate is
// added to the file, and etcd started again.
func (e *External) Trust(t testing.TB, ca []byte) {
	t.Helper()
	f, err := os.OpenFile(e.trusted, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(ca); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	e.Restart(t)
}

// Restart ends all connections.
func (e *External) Restart(t testing.TB) {
	t.Helper()
	e.kill(t)
	e.start(t)
}

// Loosen starts etcd again without --client-cert-auth.
func (e *External) Loosen(t testing.TB) {
	t.Helper()
	e.kill(t)
	e.args = slices.DeleteFunc(e.args, func(a string) bool { return a == "--client-cert-auth" || strings.HasPrefix(a, "--trusted-ca-file") })
	e.start(t)
}

// TLS is for who shows a certificate of files, none for "", and trusts the
// operator's CA.
func (e *External) TLS(t testing.TB, cert, key string) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(e.ca.pem) {
		t.Fatal("no CA")
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg
}

// Credential is the PEM of a certificate of the operator's CA, and of its key.
func (e *External) Credential(t testing.TB, name string) (cert, key []byte) {
	t.Helper()
	return e.ca.issue(t, name, false)
}

// Root is a client with the operator's credential.
func (e *External) Root(t testing.TB) *clientv3.Client {
	t.Helper()
	cli, err := client.Dial(client.Config{Endpoints: []string{e.Endpoint}, TLS: e.TLS(t, e.Cert, e.Key)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cli.Close(); err != nil {
			t.Error(err)
		}
	})
	return cli
}

// Secured is Root, after authentication was switched on.
func (e *External) Secured(t testing.TB) *clientv3.Client {
	t.Helper()
	cli := e.Root(t)
	ctx := t.Context()
	_, err := cli.RoleAdd(ctx, "root")
	if err == nil {
		_, err = cli.UserAddWithOptions(ctx, "root", "", &clientv3.UserAddOptions{NoPassword: true})
	}
	if err == nil {
		_, err = cli.UserGrantRole(ctx, "root", "root")
	}
	if err == nil {
		_, err = cli.AuthEnable(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	return cli
}

// operatorCA is a CA that is not the cluster's.
type operatorCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newOperatorCA(t testing.TB) operatorCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "operator's CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return operatorCA{cert, key, block("CERTIFICATE", der)}
}

func (ca operatorCA) issue(t testing.TB, name string, server bool) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, k.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return block("CERTIFICATE", der), block("PRIVATE KEY", text)
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
