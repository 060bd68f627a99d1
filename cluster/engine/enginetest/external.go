package enginetest

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster/engine/client"
)

// External is a stock etcd in a process of its own, as an operator runs one: it
// speaks TLS only, shows a certificate of the operator's CA, and lets in who has
// one of its client CAs, the operator's at first. Authentication is off.
type External struct {
	Endpoint      string // URL
	CA, Cert, Key string // files: the operator's CA, and a credential of the common name root

	trusted string
	args    []string
	ca      operatorCA
	process *exec.Cmd     // nil: it was killed
	log     *bufio.Reader // of process
	ended   chan error
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

// StartExternal runs an etcd of one member until the test ends. More flags are etcd's.
func StartExternal(t testing.TB, flags ...string) *External {
	t.Helper()
	return StartMembers(t, 1, append([]string{"--heartbeat-interval=10", "--election-timeout=100"}, flags...)...)[0]
}

// StartMembers runs an etcd of n members until the test ends; they have one CA, one
// root, and one file of client CAs.
func StartMembers(t testing.TB, n int, flags ...string) []*External {
	t.Helper()
	dir, ca := t.TempDir(), newOperatorCA(t)
	path := func(name string) string { return filepath.Join(dir, name) }
	serverCert, serverKey := ca.issue(t, "etcd", true)
	cert, key := ca.issue(t, "root", false)
	for file, text := range map[string][]byte{"ca.crt": ca.pem, "trusted.crt": ca.pem, "root.crt": cert, "root.key": key, "server.crt": serverCert, "server.key": serverKey} {
		if err := os.WriteFile(path(file), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ports := FreePorts(t, 2*n)
	names, peers := make([]string, n), make([]string, n)
	for i := range n {
		names[i], peers[i] = "theirs"+strings.Repeat("+", i), "http://"+ports[n+i].String()
	}
	members := make([]*External, n)
	for i := range n {
		e := &External{Endpoint: "https://" + ports[i].String(), CA: path("ca.crt"), Cert: path("root.crt"), Key: path("root.key"), ca: ca, trusted: path("trusted.crt")}
		e.args = append([]string{Tool(t, etcdServer), "--name=" + names[i], "--data-dir=" + path("data"+names[i]),
			"--listen-client-urls=" + e.Endpoint, "--advertise-client-urls=" + e.Endpoint,
			"--listen-peer-urls=" + peers[i], "--initial-advertise-peer-urls=" + peers[i], "--initial-cluster=" + cluster(names, peers),
			"--cert-file=" + path("server.crt"), "--key-file=" + path("server.key"),
			"--client-cert-auth", "--trusted-ca-file=" + e.trusted, "--unsafe-no-fsync"}, flags...)
		e.launch(t)
		t.Cleanup(func() {
			if e.process != nil {
				e.Kill(t)
			}
		})
		members[i] = e
	}
	for _, e := range members { // none serves before most run
		e.await(t)
	}
	return members
}

// cluster is what --initial-cluster takes.
func cluster(names, peers []string) string {
	words := make([]string, len(names))
	for i := range names {
		words[i] = names[i] + "=" + peers[i]
	}
	return strings.Join(words, ",")
}

// launch starts the process.
func (e *External) launch(t testing.TB) {
	t.Helper()
	e.process = exec.Command(e.args[0], e.args[1:]...)
	log, err := e.process.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.process.Start(); err != nil {
		t.Fatal(err)
	}
	e.log = bufio.NewReader(log)
}

// await returns once the process serves.
func (e *External) await(t testing.TB) {
	t.Helper()
	process, lines, ended := e.process, e.log, make(chan error, 1)
	e.ended = ended
	var said strings.Builder
	for {
		line, err := lines.ReadString('\n')
		said.WriteString(line)
		if err != nil {
			e.process = nil
			t.Fatalf("etcd ended: %v\n%s", process.Wait(), said.String())
		}
		if strings.Contains(line, "serving client traffic securely") {
			break
		}
	}
	go func() {
		_, _ = io.Copy(io.Discard, lines) // else etcd waits for us
		ended <- process.Wait()
	}()
}

// Start runs a member that was killed, and returns once it serves.
func (e *External) Start(t testing.TB) {
	t.Helper()
	e.launch(t)
	e.await(t)
}

// Kill ends it at once, also if it is frozen.
func (e *External) Kill(t testing.TB) {
	t.Helper()
	if err := e.process.Process.Kill(); err != nil {
		t.Error(err)
	}
	e.process = nil
	if err := <-e.ended; err == nil {
		t.Error("etcd had ended by itself")
	}
}

// Signal sends it a signal: SIGSTOP freezes it, SIGCONT has it go on.
func (e *External) Signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := e.process.Process.Signal(s); err != nil {
		t.Fatal(err)
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
	e.Kill(t)
	e.Start(t)
}

// Loosen starts etcd again without --client-cert-auth.
func (e *External) Loosen(t testing.TB) {
	t.Helper()
	e.Kill(t)
	e.args = slices.DeleteFunc(e.args, func(a string) bool { return a == "--client-cert-auth" || strings.HasPrefix(a, "--trusted-ca-file") })
	e.Start(t)
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
