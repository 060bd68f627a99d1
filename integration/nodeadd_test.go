package integration

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// sshdWord names the directory of a host's SSH server: this program is one then.
const sshdWord = "MESHVPC_TEST_SSHD"

// systemctl is enough of a service manager to start an agent.
const systemctl = `#!/bin/sh
case $1 in
show) echo ActiveState=inactive; echo SubState=dead; echo UnitFileState=;;
start) setsid $(sed -n 's/^ExecStart=//p' "$MESHVPC_UNIT_DIR/$2") >"$MESHVPC_STATE_DIR/agent.log" 2>&1 </dev/null & ;;
esac
`

// sshd serves one host: root logs in with the key in client.pub, and commands are
// run by the shell, and written down in the file commands.
func sshd(dir string) error {
	// A place for programs that no other host has: the lab's share their disk.
	if out, err := exec.Command("mount", "-t", "tmpfs", "tmpfs", "/opt").CombinedOutput(); err != nil {
		return fmt.Errorf("mount /opt: %w: %s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(dir, "host"))
	if err != nil {
		return err
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return err
	}
	client, err := os.ReadFile(filepath.Join(dir, "client.pub"))
	if err != nil {
		return err
	}
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if c.User() != "root" || !bytes.Equal(ssh.MarshalAuthorizedKey(k), client) {
			return nil, errors.New("unknown")
		}
		return nil, nil
	}}
	cfg.AddHostKey(key)
	l, err := net.Listen("tcp", "[::]:22")
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go serveSSH(c, cfg, filepath.Join(dir, "commands")) // until the host goes off
	}
}

func serveSSH(c net.Conn, cfg *ssh.ServerConfig, log string) {
	defer c.Close()
	_, channels, requests, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for n := range channels {
		ch, requests, err := n.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			var q struct{ Command string }
			if r.Type != "exec" || ssh.Unmarshal(r.Payload, &q) != nil {
				_ = r.Reply(false, nil)
				continue
			}
			_ = r.Reply(true, nil)
			go ssh.DiscardRequests(requests)
			status := struct{ Status uint32 }{runSSH(ch, q.Command, log)}
			_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(status))
			ch.Close()
		}
	}
}

func runSSH(ch ssh.Channel, command, log string) uint32 {
	f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, command)
		err = errors.Join(err, f.Close())
	}
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	in, pipeErr := cmd.StdinPipe()
	if err = errors.Join(err, pipeErr); err == nil {
		go func() {
			_, _ = io.Copy(in, ch)
			in.Close()
		}()
		err = cmd.Run()
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return uint32(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(ch.Stderr(), err)
		return 255
	}
	return 0
}

// startSSHD starts an SSH server on a host, whose commands find systemctl first.
func (m *mesh) startSSHD(host string) (dir string) {
	m.t.Helper()
	dir = m.t.TempDir()
	var public [2]ssh.PublicKey
	for i, name := range []string{"host", "client"} {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		m.must(err)
		block, err := ssh.MarshalPrivateKey(private, "")
		m.must(err)
		m.must(os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
		public[i], err = ssh.NewPublicKey(private.Public())
		m.must(err)
	}
	h, err := m.Lab.Host(within(m.t), host)
	m.must(err)
	known := fmt.Sprintf("%s %s", h.Underlay[0].Addr(), ssh.MarshalAuthorizedKey(public[0]))
	m.must(errors.Join(os.WriteFile(filepath.Join(dir, "known_hosts"), []byte(known), 0o600), os.WriteFile(filepath.Join(dir, "client.pub"), ssh.MarshalAuthorizedKey(public[1]), 0o600),
		os.WriteFile(filepath.Join(dir, "systemctl"), []byte(systemctl), 0o755)))
	self, err := os.Executable()
	m.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var words bytes.Buffer
		code, err := m.Lab.Exec(ctx, lab.Command{Host: host, Argv: []string{self}, Stderr: &words,
			Env: append(os.Environ(), sshdWord+"="+dir, "MESHVPC_UNIT_DIR="+dir+"/units", "PATH="+dir+":"+os.Getenv("PATH"))})
		if ctx.Err() == nil {
			m.t.Errorf("sshd on %s: exit %d, %v: %s", host, code, err, &words)
		}
	}()
	m.t.Cleanup(func() {
		cancel()
		<-ended
	})
	return dir
}

// TestNodeAdd adds a host that has nothing of meshvpc by one command over SSH: it
// gets the program, its agent as a service, and its part of the VPC.
func TestNodeAdd(t *testing.T) {
	m := newMesh(t, lab.IPv6)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // the program is copied, and started several times
	defer cancel()
	host := lab.HostConfig{Name: "friends-home", Datacenter: "home"}
	h, err := m.Lab.AddHost(ctx, host)
	m.must(err)
	dir := m.startSSHD(host.Name)
	add := func(more ...string) (out string, err error) {
		return m.Meshvpc(ctx, m.Server, append([]string{"node", "add", "root@" + h.Underlay[0].Addr().String(), "--datacenter", "home", "--underlay", lab.UnderlayDevice,
			"--identity", filepath.Join(dir, "client"), "--known-hosts", filepath.Join(dir, "known_hosts"), "--path", "/opt/bin/meshvpc"}, more...)...)
	}
	m.must(m.Until(ctx, func() error { _, err := add("--dry-run"); return err })) // sshd starts meanwhile
	out, err := add()
	m.must(err)
	if !strings.Contains(out, "node friends-home in datacenter home is live") {
		t.Errorf("node add: %s", out)
	}
	m.must(m.AwaitNodes(ctx, 4))
	m.hosts = append(m.hosts, host.Name)
	_, err = m.Meshvpc(ctx, m.Server, "vpc", "wait", "vpc1")
	m.must(err)
	w := lab.Workload{Host: host.Name, Name: "jail4", VPC: "vpc1", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.10.11.4/24")}}
	m.must(m.Until(ctx, func() error { return m.Lab.AddWorkload(ctx, w) }))
	m.workloads = append(m.workloads, w)
	m.awaitPings(ctx)

	if _, err := add(); err == nil || !strings.Contains(err.Error(), "already, and live") {
		t.Errorf("a second node add: %v", err)
	}
	commands, err := os.ReadFile(filepath.Join(dir, "commands"))
	m.must(err)
	if !bytes.Contains(commands, []byte(" cluster join ")) || bytes.Contains(commands, []byte("mv1-")) {
		t.Errorf("commands there, which may hold no token:\n%s", commands)
	}
}
