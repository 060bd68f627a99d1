package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// sshServer is a host to log in to: an SSH server whose commands run in a shell
// of this machine, with an environment of the test's.
type sshServer struct {
	t        *testing.T
	address  string
	key      ssh.Signer
	env      []string
	password string        // lets in; "" does not
	client   ssh.PublicKey // lets in; nil does not
	cutAfter int64         // bytes of input after which a command's connection is cut; 0 never
	answer   func(command string) (out string, status int, known bool)

	mu       sync.Mutex
	commands []string
	tries    int // of a password
	conns    []net.Conn
	wg       sync.WaitGroup
	running  sync.WaitGroup // commands
}

func newKey(t *testing.T) (ssh.Signer, ed25519.PrivateKey) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return s, private
}

// keyFile writes a new private key, under a passphrase if there is one.
func keyFile(t *testing.T, passphrase string) (file string, public ssh.PublicKey) {
	t.Helper()
	signer, private := newKey(t)
	block, err := ssh.MarshalPrivateKey(private, "")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, signer.PublicKey()
}

// start serves until the test ends.
func (s *sshServer) start(t *testing.T) *sshServer {
	t.Helper()
	s.t = t
	s.key, _ = newKey(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.wg.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

func (s *sshServer) config() *ssh.ServerConfig {
	cfg := &ssh.ServerConfig{}
	cfg.AddHostKey(s.key)
	if s.password != "" {
		cfg.PasswordCallback = func(_ ssh.ConnMetadata, given []byte) (*ssh.Permissions, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.tries++
			if string(given) != s.password {
				return nil, errors.New("wrong")
			}
			return nil, nil
		}
	}
	cfg.PublicKeyCallback = func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if s.client == nil || string(k.Marshal()) != string(s.client.Marshal()) {
			return nil, errors.New("unknown")
		}
		return nil, nil
	}
	return cfg
}

func (s *sshServer) serve(c net.Conn) {
	defer c.Close()
	_, channels, requests, err := ssh.NewServerConn(c, s.config())
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests) // ends with the connection
	for n := range channels {
		ch, requests, err := n.Accept()
		if err != nil {
			return
		}
		s.wg.Go(func() { s.session(c, ch, requests) })
	}
}

// session runs the commands of a session, one.
func (s *sshServer) session(c net.Conn, ch ssh.Channel, requests <-chan *ssh.Request) {
	defer ch.Close()
	for r := range requests {
		if r.Type != "exec" {
			_ = r.Reply(false, nil) // the other end may be gone
			continue
		}
		var q struct{ Command string }
		if err := ssh.Unmarshal(r.Payload, &q); err != nil {
			s.t.Error(err)
		}
		s.mu.Lock()
		s.commands = append(s.commands, q.Command)
		s.mu.Unlock()
		_ = r.Reply(true, nil)
		go ssh.DiscardRequests(requests)
		s.running.Add(1)
		status := s.exec(c, ch, q.Command)
		s.running.Done()
		_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
		return
	}
}

func (s *sshServer) exec(c net.Conn, ch ssh.Channel, command string) int {
	if s.answer != nil {
		if out, status, known := s.answer(command); known {
			_, _ = io.WriteString(ch, out)
			return status
		}
	}
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.env, ch, ch.Stderr()
	in, err := cmd.StdinPipe()
	if err != nil {
		s.t.Error(err)
		return 255
	}
	if err := cmd.Start(); err != nil {
		s.t.Error(err)
		return 255
	}
	go func() { // as sshd does it: the end of the connection is the end of the input
		if s.cutAfter > 0 && strings.Contains(command, "umask 077") {
			_, _ = io.CopyN(in, ch, s.cutAfter)
			c.Close()
		} else {
			_, _ = io.Copy(in, ch)
		}
		in.Close()
	}()
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return 0
}

// ran returns all command lines that the host got.
func (s *sshServer) ran() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.commands)
}

// knows writes a file of known hosts with keys for the server's address.
func (s *sshServer) knows(keys ...ssh.PublicKey) string {
	var text strings.Builder
	for _, k := range keys {
		host, port, err := net.SplitHostPort(s.address)
		if err != nil {
			s.t.Fatal(err)
		}
		fmt.Fprintf(&text, "[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(k))
	}
	file := filepath.Join(s.t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// person answers what is asked, and remembers the questions.
type person struct {
	answers []string
	asked   []string
}

func (p *person) line(prompt string) (string, error) {
	p.asked = append(p.asked, prompt)
	if len(p.answers) == 0 {
		return "", errors.New("asked more than was expected: " + prompt)
	}
	a := p.answers[0]
	p.answers = p.answers[1:]
	return a, nil
}

func (p *person) secret(prompt string) ([]byte, error) {
	a, err := p.line(prompt)
	return []byte(a), err
}
