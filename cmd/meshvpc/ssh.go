package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"strings"

	"golang.org/x/crypto/ssh"
)

// remote is a machine on which command lines are run, one at a time. A command
// that ends badly is a *remoteError; any other error means that nobody knows how
// it ended.
type remote interface {
	run(ctx context.Context, command string, stdin io.Reader) (stdout string, err error)
}

// remoteError is a command that ended badly, and the last that it said.
type remoteError struct {
	status int
	said   string
}

func (e *remoteError) Error() string {
	if e.said == "" {
		return fmt.Sprintf("exit %d without a word", e.status)
	}
	return fmt.Sprintf("exit %d: %s", e.status, e.said)
}

// sshTarget is where to log in.
type sshTarget struct{ user, address string } // address is host:port

func (t sshTarget) String() string { return t.user + "@" + t.address }

const sshPort = 22

// parseTarget reads "[USER@]HOST[:PORT]"; self is who logs in unless it says.
func parseTarget(s, self string) (sshTarget, error) {
	const hint = "want [USER@]HOST[:PORT], like root@gold-hoster-03 or root@[2001:db8::7]:2222"
	name, host, given := cutLast(s, "@")
	if !given {
		name, host = self, s
	}
	address, err := hostPort(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"), sshPort)
	if strings.Contains(host, "]:") {
		address, err = hostPort(host, sshPort)
	}
	if err != nil || name == "" || strings.HasPrefix(host, "-") || printable(s) != s {
		return sshTarget{}, usage(hint, "invalid host %q", s)
	}
	return sshTarget{name, address}, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+len(sep):], true
}

func currentUser() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return os.Getenv("USER")
}

// sshHost is a remote that one is logged in to.
type sshHost struct {
	client *ssh.Client
	key    string // fingerprint of the host's key
}

// dialSSH logs in. The host's key is judged by keys before anything is said to
// the host; an error of keys or login is returned as it is.
func dialSSH(ctx context.Context, t sshTarget, keys *hostKeys, login *login) (*sshHost, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.address)
	if err != nil {
		return nil, failed("is sshd running there, and does the firewall let its port in?", "reach %s: %w", t.address, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c, channels, requests, err := ssh.NewClientConn(conn, t.address, &ssh.ClientConfig{
		User: t.user, Auth: login.methods(), HostKeyCallback: keys.check, HostKeyAlgorithms: keys.algorithms(t.address),
	})
	if err != nil {
		conn.Close()
		return nil, explainLogin(ctx, t, keys, login, err)
	}
	return &sshHost{ssh.NewClient(c, channels, requests), keys.fingerprint}, nil
}

func explainLogin(ctx context.Context, t sshTarget, keys *hostKeys, login *login, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("log in to %s: %w", t, ctx.Err())
	case keys.refused != nil:
		return keys.refused
	case login.failed != nil:
		return login.failed
	case keys.fingerprint == "":
		return failed("is that the port of an sshd?", "talk SSH to %s: %s", t.address, clean(err.Error()))
	}
	return failed(login.hint(), "log in to %s: %s", t, clean(err.Error()))
}

// close ends the connection; what was to be said was said.
func (h *sshHost) close() { _ = h.client.Close() }

// run runs a command in the login shell of the user there. The end of ctx ends
// the connection.
func (h *sshHost) run(ctx context.Context, command string, stdin io.Reader) (string, error) {
	stop := context.AfterFunc(ctx, h.close)
	defer stop()
	out, words := &tail{max: maxRemoteOutput}, &tail{max: maxRemoteOutput}
	err := h.exec(command, stdin, out, words)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if exit, ok := errors.AsType[*ssh.ExitError](err); ok && exit.Signal() == "" {
		said := words.String()
		if strings.TrimSpace(said) == "" {
			said = out.String()
		}
		return out.String(), &remoteError{exit.ExitStatus(), clean(strings.TrimSpace(said))}
	}
	if err != nil {
		return "", fmt.Errorf("the connection was cut: %s", clean(err.Error()))
	}
	return out.String(), nil
}

func (h *sshHost) exec(command string, stdin io.Reader, out, words io.Writer) error {
	s, err := h.client.NewSession()
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }() // it is over by then, or the connection is
	s.Stdin, s.Stdout, s.Stderr = stdin, out, words
	return s.Run(command)
}

// maxRemoteOutput bounds what is kept of what a command prints, in bytes.
const maxRemoteOutput = 64 << 10

// tail keeps the last max bytes that are written.
type tail struct {
	bytes.Buffer
	max int
}

func (t *tail) Write(b []byte) (int, error) {
	n, err := t.Buffer.Write(b)
	if over := t.Len() - t.max; over > 0 {
		t.Next(over)
	}
	return n, err
}
