package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Start makes a lab and returns when its hosts can reach each other. No service
// runs yet. It is ErrExists when a lab of that name runs, and ErrRefused when
// this machine cannot carry one. The end of ctx before that undoes it.
func Start(ctx context.Context, cfg Config) (*Lab, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if cfg.Binary == "" {
		if cfg.Binary, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("start lab %s: %w", cfg.Name, err)
		}
	}
	held, err := lock(cfg.Name)
	if err != nil {
		return nil, err
	}
	defer held.Close() // the supervisor has inherited it by then
	l := &Lab{name: cfg.Name, dir: filepath.Join(basePath(), cfg.Name)}
	err = l.prepare(cfg)
	if err == nil {
		err = l.launch(ctx, cfg, held)
	}
	if err != nil {
		return nil, errors.Join(err, unmake(basePath(), cfg.Name))
	}
	return l, nil
}

// prepare makes the lab's directory.
func (l *Lab) prepare(cfg Config) error {
	for what, path := range map[string]string{"directory": l.dir, "binary": cfg.Binary} {
		if strings.HasPrefix(path, "/run/") || strings.HasPrefix(path, "/var/run/") {
			return fmt.Errorf("start lab %s: its %s %s is under /run, of which every host has its own; put it elsewhere, as by TMPDIR", cfg.Name, what, path)
		}
	}
	if n := len(filepath.Join(l.dir, "sock")); n > 107 {
		return fmt.Errorf("start lab %s: the path of its socket has %d bytes, 107 are possible; set TMPDIR to a shorter one", cfg.Name, n)
	}
	if err := os.RemoveAll(l.dir); err != nil { // of a lab that was killed
		return fmt.Errorf("start lab %s: %w", cfg.Name, err)
	}
	bin := filepath.Join(l.dir, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		return fmt.Errorf("start lab %s: %w", cfg.Name, err)
	}
	if err := os.Symlink(cfg.Binary, filepath.Join(bin, "meshvpc")); err != nil {
		return fmt.Errorf("start lab %s: %w", cfg.Name, err)
	}
	return nil
}

// launch starts the supervisor and waits for its word.
func (l *Lab) launch(ctx context.Context, cfg Config, held *os.File) error {
	ours, theirs, err := socketpair()
	if err != nil {
		return fmt.Errorf("start lab %s: %w", l.name, err)
	}
	defer theirs.Close()
	log, err := os.OpenFile(filepath.Join(l.dir, "supervisor.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		ours.Close()
		return fmt.Errorf("start lab %s: %w", l.name, err)
	}
	defer log.Close()

	cmd := exec.Command(cfg.Binary, stageWord, "supervisor", l.name)
	cmd.Env = append(os.Environ(), "MESHVPC_LAB="+l.name)
	cmd.Stderr = log
	cmd.ExtraFiles = []*os.File{theirs, held}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS,
		Setsid:     true,
	}
	if uid := os.Geteuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	if err := cmd.Start(); err != nil {
		ours.Close()
		return fmt.Errorf("start lab %s: %w", l.name, explainClone(err))
	}
	theirs.Close()
	l.tied = &tie{cmd: cmd, lifeline: ours, ended: make(chan struct{})}
	go func() { // ends with the supervisor; Down waits for it
		_ = cmd.Wait() // how it ended is in what it said
		close(l.tied.ended)
	}()
	if err := l.greet(ctx, cfg, ours); err != nil {
		ours.Close()
		_ = cmd.Process.Kill() // it may have ended by itself
		<-l.tied.ended
		return fmt.Errorf("start lab %s: %w", l.name, err)
	}
	if cfg.Detached {
		ours.Close()
		l.tied.lifeline = nil
	}
	return nil
}

// greet hands the supervisor its configuration and waits until it is ready.
func (l *Lab) greet(ctx context.Context, cfg Config, c *conn) error {
	m, err := request("", "", supervisorConfig{Config: cfg, Dir: l.dir, Base: basePath()})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = c.send(m)
	if err == nil {
		m, _, err = c.receive()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil { // it died without a word
		text, _ := os.ReadFile(filepath.Join(l.dir, "supervisor.log")) // only adds to the error
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
			return fmt.Errorf("supervisor ended: %s; does %s call lab.Stage first in its main?", firstLine(text), cfg.Binary)
		}
		return err
	}
	return m.err()
}

func firstLine(text []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(text), []byte("\n"))
	if len(line) == 0 {
		return "it said nothing"
	}
	return string(line)
}

// explainClone says what a refused namespace means.
func explainClone(err error) error {
	hint := ""
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EUSERS):
		hint = "too many namespaces, or none allowed; raise sysctl user.max_user_namespaces, user.max_net_namespaces"
	case errors.Is(err, syscall.EINVAL):
		hint = "this kernel lacks namespaces; it needs CONFIG_USER_NS, CONFIG_PID_NS, CONFIG_NET_NS"
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		hint = "new namespaces are forbidden here; " + unprivilegedHint
		if os.Geteuid() == 0 {
			hint = "new namespaces are forbidden here; in a container, run it privileged or with CAP_SYS_ADMIN and CAP_NET_ADMIN and without seccomp and AppArmor profiles"
		}
	default:
		return err
	}
	return fmt.Errorf("%w: %w: %s", err, ErrRefused, hint)
}

const unprivilegedHint = "run as root, or allow user namespaces: sysctl kernel.unprivileged_userns_clone=1 (Debian), kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu)"

// socketpair returns our end and the one for a child.
func socketpair() (*conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	ours, err := connFrom(os.NewFile(uintptr(fds[0]), "ours"))
	theirs := os.NewFile(uintptr(fds[1]), "theirs")
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// peer is the process at the other end of a connection, whatever becomes of
// its number.
type peer struct{ pidfd *os.File }

// peerOf finds the process that listens on the socket that c is connected to.
func peerOf(c *conn) (peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return peer{}, fmt.Errorf("find supervisor: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return peer{}, fmt.Errorf("find supervisor: %w", err)
	}
	if credErr != nil {
		return peer{}, fmt.Errorf("find supervisor: %w", credErr)
	}
	fd, err := unix.PidfdOpen(int(cred.Pid), unix.PIDFD_NONBLOCK)
	if err != nil {
		return peer{}, fmt.Errorf("find supervisor %d: %w", cred.Pid, err)
	}
	return peer{os.NewFile(uintptr(fd), "supervisor")}, nil
}

// wait returns when the process, and so all that it was the init of, is gone.
func (p peer) wait(ctx context.Context) error {
	for {
		fds := []unix.PollFd{{Fd: int32(p.pidfd.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 50)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the lab's end: %w", err)
		}
		if n > 0 {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the lab's end: %w", ctx.Err())
		}
	}
}

func (p peer) kill() error {
	err := unix.PidfdSendSignal(int(p.pidfd.Fd()), unix.SIGKILL, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func (p peer) close() { p.pidfd.Close() }

// listen makes the lab's socket.
func listen(dir string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(dir, "sock"), Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listen for commands: %w", err)
	}
	return l, nil
}
