package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"golang.org/x/crypto/ssh"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// newcomer is a host to be added, with its root below a directory, and the
// admin's files that add it to the cluster of a real store.
type newcomer struct {
	*sshServer
	*storeOfScripts
	t          *testing.T
	root       string
	program    string // where it goes there
	admin      string // client file
	knownHosts string
	identity   string
}

// fakes are the tools of the host: who it is, and a sudo that takes a password
// as the real one does.
var fakes = map[string]string{
	"uname": `case $1 in -s) echo Linux;; -m) echo ${MACHINE};; -n) echo Gold-Hoster-03.example.org;; esac`,
	"id":    `echo ${UID_THERE:-0}`,
	"sudo": `n= S=
while :; do case $1 in -n) n=1;; -S) S=1;; -k) ;; -p) shift;; *) break;; esac; shift; done
if [ -n "$n" ]; then [ -z "$SUDO_PASSWORD" ] || { echo "sudo: a password is required" >&2; exit 1; }; exec "$@"; fi
IFS= read -r p; [ "$p" = "$SUDO_PASSWORD" ] || { echo "sudo: 1 incorrect password attempt" >&2; exit 1; }
exec "$@"`,
}

func newNewcomer(t *testing.T, s *storeOfScripts, env ...string) *newcomer {
	t.Helper()
	t.Setenv("SSH_AUTH_SOCK", "")
	t.Setenv("HOME", t.TempDir())
	root, err := os.MkdirTemp("", "newcomer") // a path that a script takes as it is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	n := &newcomer{t: t, storeOfScripts: s, root: root, program: filepath.Join(root, "bin", "meshvpc"), admin: filepath.Join(root, "admin.yaml")}
	for name, text := range fakes {
		if err := replaceFile(mustDir(t, root, "fakes")+"/"+name, "#!/bin/sh\n"+text+"\n", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeConfig(n.admin, newClientConfig([]string{s.endpoint}, s.admin)); err != nil {
		t.Fatal(err)
	}
	var public ssh.PublicKey
	n.identity, public = keyFile(t, "")
	machine := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	n.sshServer = (&sshServer{client: public, env: append([]string{"MACHINE=" + machine, "PATH=" + filepath.Join(root, "fakes") + ":" + os.Getenv("PATH"),
		"MESHVPC_CONFIG_DIR=" + filepath.Join(root, "etc"), "MESHVPC_STATE_DIR=" + filepath.Join(root, "var"), "MESHVPC_RUN_DIR=" + filepath.Join(root, "run"), "GORACE=atexit_sleep_ms=10"}, env...)}).start(t)
	n.answer = n.service
	n.knownHosts = n.knows(n.key.PublicKey())
	t.Cleanup(func() {
		n.forget(cluster.KeyNode("gold-hoster-03"), cluster.KeyLive("gold-hoster-03"), cluster.KeyUser("gold-hoster-03"))
	})
	return n
}

func mustDir(t *testing.T, words ...string) string {
	t.Helper()
	dir := filepath.Join(words...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// service answers "service install" as a host with a service manager would: the
// agent starts, and reports.
func (n *newcomer) service(command string) (string, int, bool) {
	if !strings.Contains(command, " service install") {
		return "", 0, false
	}
	var had agentConfig
	if err := readConfig(filepath.Join(n.root, "etc", "agent.yaml"), &had); err != nil {
		return err.Error(), 1, true
	}
	var c store.Change
	store.Set(&c, cluster.KeyLive(had.Node), &cluster.Live{NodeID: had.ID, BootID: "boot", Incarnation: "one"}, nil, 0)
	if _, err := store.New(n.kv, cluster.Identity{Role: cluster.Agent, Name: had.Node}).Commit(context.Background(), c); err != nil {
		return err.Error(), 1, true
	}
	return "", 0, true
}

// add runs "node add" as the admin does.
func (n *newcomer) add(args ...string) (out, words string, code int) {
	return n.addAs(nil, args...)
}

func (n *newcomer) addAs(ask asker, args ...string) (out, words string, code int) {
	n.t.Helper()
	var o, e bytes.Buffer
	p := newProgram(strings.NewReader(""), &o, &e)
	p.asks = ask
	argv := append([]string{"meshvpc", "node", "add", "root@" + n.address, "--config", n.admin, "--datacenter", "hetzner", "--known-hosts", n.knownHosts,
		"--identity", n.identity, "--path", n.program, "--join", mustJoinService(n.t, n.endpoint)}, args...)
	code = p.run(n.t.Context(), argv)
	return o.String(), e.String(), code
}

// tokens are those that can be used.
func (n *newcomer) tokens() int {
	n.t.Helper()
	all, _, err := store.List[*cluster.Token](n.t.Context(), store.New(n.kv, cluster.Identity{Role: cluster.Operator}), cluster.PrefixToks)
	if err != nil {
		n.t.Fatal(err)
	}
	return len(all)
}

// forget takes records out of the store.
func (n *newcomer) forget(keys ...string) {
	n.t.Helper()
	var ops []mvcc.Op
	for _, k := range keys {
		ops = append(ops, mvcc.Op{Kind: mvcc.OpDelete, Key: k})
	}
	if _, err := n.kv.Txn(context.Background(), mvcc.TxnRequest{Then: ops}); err != nil {
		n.t.Error(err)
	}
}

// wants fails unless a run ended with that code and those words.
func (n *newcomer) wants(code int, words string, out, got string, gotCode int) {
	n.t.Helper()
	if gotCode != code || !strings.Contains(out+got, words) {
		n.t.Fatalf("exit %d:\n%s%s\nwant exit %d and %q", gotCode, out, got, code, words)
	}
}

// nothingHalf wants no half copied program there.
func (n *newcomer) nothingHalf() {
	n.t.Helper()
	left, err := filepath.Glob(filepath.Join(n.root, "bin", ".meshvpc-add*"))
	if err != nil || len(left) > 0 {
		n.t.Errorf("left behind: %v, %v", left, err)
	}
}

// noSecrets wants no token and none of the words in a command line there.
func (n *newcomer) noSecrets(secrets ...string) {
	n.t.Helper()
	ran := n.ran()
	if len(ran) == 0 {
		n.t.Error("no command was recorded")
	}
	for _, command := range ran {
		for _, s := range append(secrets, "mv1-") {
			if strings.Contains(command, s) {
				n.t.Errorf("a secret is in the command line %q", command)
			}
		}
	}
}

func (n *newcomer) agent() (a agentConfig) {
	n.t.Helper()
	if err := readConfig(filepath.Join(n.root, "etc", "agent.yaml"), &a); err != nil {
		n.t.Fatal(err)
	}
	return a
}

// TestNodeAdd adds a host, from what the admin types to the record, over real
// SSH, to a real store, with this program there. Its steps build on each other.
func TestNodeAdd(t *testing.T) {
	s := startStore(t)
	if err := firstRecords(t.Context(), s.kv, serverConfig{Name: "jhoster1", Datacenter: "skynet", Advertise: []string{s.endpoint}, TLS: s.tls,
		Bootstrap: &bootstrap{Cluster: "test", ClusterID: "c1", NodeID: "id-jhoster1", UnderlayPort: 4789, VNIs: cluster.DefaultVNIRange}}, time.Now(), zap.NewNop()); err != nil {
		t.Fatal(err)
	}

	t.Run("from nothing, cut in the middle, and refused", func(t *testing.T) {
		n := newNewcomer(t, s)
		out, words, code := n.add("--dry-run", "-o", "json")
		n.wants(0, `"state": "planned"`, out, words, code)
		if _, err := os.Stat(filepath.Join(n.root, "bin")); !errors.Is(err, os.ErrNotExist) || n.tokens() != 0 {
			t.Errorf("a dry run left %d tokens, %v", n.tokens(), err)
		}

		n.cutAfter = 3 << 20
		out, words, code = n.add()
		n.wants(1, "add node: copy, on root@"+n.address+": the connection was cut", out, words, code)
		n.awaitNothing(n.program)
		n.cutAfter = 0

		n.person("gold-hoster-03", s.admin) // whose name no node may have
		out, words, code = n.add()
		n.wants(1, "add node: join, on root@"+n.address+": exit 1: meshvpc: join cluster: there is a user of the name gold-hoster-03", out, words, code)
		n.forget(cluster.KeyUser("gold-hoster-03"))
		if n.tokens() != 0 {
			t.Errorf("%d tokens are left after a join that failed", n.tokens())
		}

		out, words, code = n.add("-o", "json")
		n.wants(0, `"live": true`, out, words, code)
		var r addReport
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		states := map[string]string{}
		for _, step := range r.Steps {
			states[step.Step] = step.State
		}
		if d := cmp.Diff(map[string]string{"copy": "skipped, it was done before", "join": "done", "service": "done", "live": "done"}, states); d != "" {
			t.Error(d)
		}
		if r.Node != "gold-hoster-03" || r.HostKey != ssh.FingerprintSHA256(n.key.PublicKey()) {
			t.Errorf("report: %+v", r)
		}
		node, err := store.Get[*cluster.Node](t.Context(), store.New(s.kv, cluster.Identity{Role: cluster.Operator}), cluster.KeyNode("gold-hoster-03"))
		if err != nil || node.Value.ID != n.agent().ID || node.Value.Datacenter != "hetzner" || n.tokens() != 0 {
			t.Errorf("record %+v, %v, %d tokens; want that of the host, in hetzner, and its token used up", node.Value, err, n.tokens())
		}
		if info, err := os.Stat(n.program); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("program there: %v, %v", info, err)
		}

		before := n.agent()
		out, words, code = n.add()
		n.wants(1, "the host is node gold-hoster-03 already, and live", out, words, code)
		out, words, code = n.add("--name", "other")
		n.wants(1, "the host is node gold-hoster-03 already", out, words, code)
		out, words, code = n.add("--datacenter", "skynet")
		n.wants(1, "in datacenter hetzner already", out, words, code)
		if d := cmp.Diff(before, n.agent(), cmp.AllowUnexported(agentConfig{})); d != "" || n.tokens() != 0 {
			t.Errorf("a refused run changed the host: %s", d)
		}

		// A join whose service did not start: the next run goes on there.
		n.dead()
		n.answer = func(c string) (string, int, bool) {
			return "no\x1b[2Jsystemd", 7, strings.Contains(c, "service install")
		}
		out, words, code = n.add()
		n.wants(1, "add node: service, on root@"+n.address+": exit 7: no?[2Jsystemd", out, words, code)
		n.answer = n.service
		out, words, code = n.add()
		n.wants(0, "join     as node gold-hoster-03 in datacenter hetzner, by "+mustJoinService(t, s.endpoint)+", with a token on its standard input: skipped", out, words, code)

		// An agent that does not report is waited for no longer than was said.
		n.dead()
		n.answer = func(c string) (string, int, bool) { return "", 0, strings.Contains(c, "service install") }
		out, words, code = n.add("--timeout", "2s")
		n.wants(3, "add node: live, on root@", out, words, code)
		n.nothingHalf()
		n.noSecrets()
	})

	t.Run("by sudo with a password", func(t *testing.T) {
		const secret = "sesame open"
		n := newNewcomer(t, s, "UID_THERE=1000", "SUDO_PASSWORD="+secret)
		out, words, code := n.add()
		n.wants(1, "sudo there needs a password", out, words, code)
		out, words, code = n.addAs(&person{answers: []string{"wrong"}})
		n.wants(1, "sudo there refuses", out, words, code)
		who := &person{answers: []string{secret}}
		out, words, code = n.addAs(who)
		n.wants(0, "node gold-hoster-03 in datacenter hetzner is live", out, words, code)
		if len(who.asked) != 1 || !strings.HasPrefix(who.asked[0], "sudo password of root@") {
			t.Errorf("asked %q; want the password of sudo, once", who.asked)
		}
		n.noSecrets(secret)
	})

	t.Run("refused before anything is changed", func(t *testing.T) {
		n := newNewcomer(t, s, "MACHINE=riscv64")
		out, words, code := n.add()
		n.wants(1, "the host runs linux/riscv64, for which there is no program", out, words, code)
		out, words, code = n.add("--binary", os.Args[0])
		n.wants(1, "the host runs linux/riscv64", out, words, code)
		out, words, code = n.add("--binary", "/dev/null")
		n.wants(1, "read program /dev/null: it is no program", out, words, code)
		out, words, code = n.add("--host-key", "SHA256:x")
		n.wants(2, "invalid --host-key", out, words, code)

		operator := n.credential(t, cluster.SubjectUser, "eve")
		n.person("eve", operator)
		ran := len(n.ran())
		if err := writeConfig(n.admin, newClientConfig([]string{s.endpoint}, operator)); err != nil {
			t.Fatal(err)
		}
		out, words, code = n.add()
		n.wants(1, "ask an admin", out, words, code)
		if len(n.ran()) != ran {
			t.Error("an operator who may let no host in came as far as the host")
		}
		if entries, err := os.ReadDir(n.root); err != nil || len(entries) != 2 {
			t.Errorf("the host has %v, %v; want what was there", entries, err)
		}
	})
}

// person makes somebody an operator.
func (n *newcomer) person(name string, c membership.Credential) {
	n.t.Helper()
	key, err := c.KeyHash()
	if err != nil {
		n.t.Fatal(err)
	}
	var change store.Change
	store.Create(&change, cluster.KeyUser(name), &cluster.User{Role: cluster.UserOperator, Key: key, Created: cluster.At(time.Now())})
	if _, err := store.New(n.kv, cluster.Identity{Role: cluster.Operator}).Commit(n.t.Context(), change); err != nil {
		n.t.Fatal(err)
	}
}

// dead takes away what says that the node is live.
func (n *newcomer) dead() {
	n.t.Helper()
	n.forget(cluster.KeyLive("gold-hoster-03"))
}

// awaitNothing waits until the commands of a connection that was cut have ended,
// and wants nothing half copied there.
func (n *newcomer) awaitNothing(program string) {
	n.t.Helper()
	n.running.Wait()
	if _, err := os.Stat(program); !errors.Is(err, os.ErrNotExist) {
		n.t.Errorf("half a program is at %s: %v", program, err)
	}
	n.nothingHalf()
}

func TestPlanAdd(t *testing.T) {
	q := addRequest{datacenter: "hetzner", join: "jhoster1", path: "/usr/local/bin/meshvpc", unique: "0a"}
	file := programFile{path: "meshvpc", size: 40e6, sum: "aa"}
	active := &cluster.Node{ID: "one", Datacenter: "hetzner", State: cluster.NodeActive}
	left := &cluster.Node{ID: "one", Datacenter: "hetzner", State: cluster.NodeLeft}
	elsewhere := &cluster.Node{ID: "one", Datacenter: "skynet", State: cluster.NodeActive}
	host := func(f func(*hostFacts)) hostFacts {
		h := hostFacts{os: "linux", arch: "amd64", hostname: "n1", agent: true, node: "n1", id: "one", joined: true}
		f(&h)
		return h
	}
	fresh := hostFacts{os: "linux", arch: "amd64", hostname: "n1"}
	for name, tt := range map[string]struct {
		host  hostFacts
		known nodeRecords
		want  string // the steps to do
		err   string
	}{
		"a fresh host":                         {host: fresh, want: "copy join service live"},
		"the program is there":                 {host: hostFacts{sum: "aa"}, want: "join service live"},
		"another program is there":             {host: hostFacts{sum: "bb", version: "meshvpc 0.0.9"}, want: "copy join service live"},
		"a join that was cut before an answer": {host: host(func(h *hostFacts) { h.joined = false; h.sum = "aa" }), want: "join service live"},
		"a join whose answer was lost":         {host: host(func(h *hostFacts) { h.joined = false }), known: nodeRecords{node: active}, want: "copy join service live"},
		"joined, no service":                   {host: host(func(h *hostFacts) { h.sum = "aa" }), known: nodeRecords{node: active}, want: "service live"},
		"the name of one that left":            {host: fresh, known: nodeRecords{node: left}, want: "copy join service live"},
		"live":                                 {host: host(func(*hostFacts) {}), known: nodeRecords{node: active, live: true}, err: "already, and live"},
		"removed":                              {host: host(func(*hostFacts) {}), known: nodeRecords{node: left}, err: "which was removed"},
		"of another cluster":                   {host: host(func(*hostFacts) {}), err: "another cluster"},
		"its name is another host's":           {host: fresh, known: nodeRecords{node: active}, err: "another host"},
		"unfinished, and its name taken since": {host: host(func(h *hostFacts) { h.joined, h.id = false, "two" }), known: nodeRecords{node: active}, err: "another host"},
		"in another datacenter":                {host: host(func(*hostFacts) {}), known: nodeRecords{node: elsewhere}, err: "datacenter skynet already"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := planAdd(q, "n1", tt.host, tt.known, file)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("plan %+v, %v; want %q", p, err, tt.err)
				}
				return
			}
			var todo []string
			for _, s := range p.steps {
				if s.State == "planned" {
					todo = append(todo, s.Step)
				}
				if strings.ContainsAny(s.Command, "'!\n") {
					t.Errorf("a login shell may take %q for something else", s.Command)
				}
			}
			if got := strings.Join(todo, " "); err != nil || got != tt.want || len(p.steps) != 4 {
				t.Errorf("to do: %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestNameToAdd(t *testing.T) {
	for name, tt := range map[string]struct {
		asked string
		host  hostFacts
		want  string // "" is a refusal
	}{
		"the host's":          {host: hostFacts{hostname: "Gold-Hoster-03.example.org"}, want: "gold-hoster-03"},
		"given":               {asked: "n7", host: hostFacts{hostname: "x"}, want: "n7"},
		"kept":                {host: hostFacts{hostname: "x", agent: true, node: "n7"}, want: "n7"},
		"another one's":       {asked: "n8", host: hostFacts{agent: true, node: "n7"}},
		"a server":            {asked: "n8", host: hostFacts{server: true}},
		"no name":             {host: hostFacts{hostname: "under_score"}},
		"a lie in agent.yaml": {host: hostFacts{agent: true, node: "../x"}},
	} {
		if got, err := nameToAdd(addRequest{name: tt.asked}, tt.host); (err == nil) != (tt.want != "") || err == nil && got != tt.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tt.want)
		}
	}
}

// scripted is a host that answers commands by their place.
type scripted struct {
	answers []func(command string) (string, error)
	ran     []string
	input   []string
}

func (s *scripted) run(_ context.Context, command string, stdin io.Reader) (string, error) {
	var in bytes.Buffer
	if stdin != nil {
		_, _ = in.ReadFrom(stdin)
	}
	s.ran, s.input = append(s.ran, command), append(s.input, in.String())
	if len(s.ran) > len(s.answers) {
		return "", fmt.Errorf("unexpected: %s", command)
	}
	return s.answers[len(s.ran)-1](command)
}

func TestAddLook(t *testing.T) {
	says := func(out string) func(string) (string, error) {
		return func(string) (string, error) { return out, nil }
	}
	ends := func(status int, said string) func(string) (string, error) {
		return func(string) (string, error) { return "", &remoteError{status, said} }
	}
	const freebsd = "Welcome!\nmeshvpc-fact os FreeBSD\nmeshvpc-fact arch arm64\nmeshvpc-fact name n1.example\n"
	for name, tt := range map[string]struct {
		answers []func(string) (string, error)
		ask     []string
		want    hostFacts
		command string // a word of the last
		err     string
	}{
		"root, a fresh host, a talkative shell": {answers: []func(string) (string, error){says(freebsd + "meshvpc-fact uid 0\n"), says("hello\n")},
			want: hostFacts{os: "freebsd", arch: "arm64", hostname: "n1.example"}, command: "/usr/local/etc/meshvpc"},
		"a node, by sudo": {answers: []func(string) (string, error){says(freebsd + "meshvpc-fact uid 7\nmeshvpc-fact sudo yes\n"), says(""),
			says("meshvpc-fact joined yes\nmeshvpc-fact agent yes\nmeshvpc-fact yaml id: \"12\"\nmeshvpc-fact yaml node: n1\nmeshvpc-fact sum aa  -\nmeshvpc-fact version meshvpc 1\x1b freebsd/arm64\n")},
			want: hostFacts{os: "freebsd", arch: "arm64", hostname: "n1.example", agent: true, joined: true, node: "n1", id: "12", sum: "aa", version: "meshvpc 1? freebsd/arm64"}, command: "sudo -n sh -c "},
		"sudo with a password": {answers: []func(string) (string, error){says(freebsd + "meshvpc-fact uid 7\nmeshvpc-fact sudo yes\n"), ends(1, "a password is required"), says(""), says("")},
			ask: []string{"s3cret"}, want: hostFacts{os: "freebsd", arch: "arm64", hostname: "n1.example"}, command: "sudo -k -S -p '' sh -c "},
		"no root, no sudo":    {answers: []func(string) (string, error){says(freebsd + "meshvpc-fact uid 7\n")}, err: "has no sudo"},
		"no Unix":             {answers: []func(string) (string, error){says("Microsoft Windows\n")}, err: "does not say what it is"},
		"another Unix":        {answers: []func(string) (string, error){says("meshvpc-fact os SunOS\n")}, err: "the host runs SunOS"},
		"a shell that is off": {answers: []func(string) (string, error){ends(1, "This account is currently not available.")}, err: "currently not available"},
		"sudo that repeats the password": {answers: []func(string) (string, error){says(freebsd + "meshvpc-fact uid 7\nmeshvpc-fact sudo yes\n"), ends(1, "no"), ends(1, "s3cret: wrong")},
			ask: []string{"s3cret"}, err: "sudo there refuses: exit 1: ...: wrong"},
		"an agent.yaml that is none": {answers: []func(string) (string, error){says(freebsd + "meshvpc-fact uid 0\n"), says("meshvpc-fact agent yes\nmeshvpc-fact yaml {\n")}, err: "names no node and id"},
	} {
		t.Run(name, func(t *testing.T) {
			host := &scripted{answers: tt.answers}
			ask, _ := asks(tt.ask...)
			a := adding{remote: host, asker: ask, request: addRequest{path: "/usr/local/bin/meshvpc", target: sshTarget{"me", "n1:22"}}}
			_, got, err := a.look(t.Context())
			for _, command := range host.ran {
				if strings.Contains(command, "s3cret") {
					t.Errorf("the password is in %q", command)
				}
			}
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("look: %v; want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(hostFacts{})); d != "" {
				t.Error(d)
			}
			if last := host.ran[len(host.ran)-1]; !strings.Contains(last, tt.command) {
				t.Errorf("ran %q; want %q in it", last, tt.command)
			}
			if in := host.input[len(host.input)-1]; tt.ask != nil && in != "s3cret\n"+passwordEnd+"\n" {
				t.Errorf("its input is %q", in)
			}
		})
	}
}

// A token that a host repeats is shown to nobody.
func TestHide(t *testing.T) {
	tok := membership.NewToken(cluster.TokenNode, membership.Pin{}).String()
	err := hide(fmt.Errorf("join: %w", &remoteError{1, "bad token " + tok}), tok)
	if strings.Contains(err.Error(), tok) || !strings.Contains(err.Error(), "bad token ...") {
		t.Errorf("hide = %v", err)
	}
}
