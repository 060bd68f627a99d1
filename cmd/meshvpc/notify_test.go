package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

// serviceManager listens as a service manager does.
type serviceManager struct {
	conn  *net.UnixConn
	heard []string // the lines that it was told
}

// startServiceManager listens at a path, or at an abstract "@name".
func startServiceManager(t testing.TB, socket string) *serviceManager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &serviceManager{conn: conn}
}

// shortSocket is a path that fits into a socket's address.
func shortSocket(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "n")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "notify")
}

// await reads until a line says want.
func (m *serviceManager) await(want string) error {
	b := make([]byte, 4096)
	for !slices.Contains(m.heard, want) {
		if err := m.conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			return err
		}
		n, err := m.conn.Read(b)
		if err != nil {
			return err
		}
		m.heard = append(m.heard, strings.Split(string(b[:n]), "\n")...)
	}
	return nil
}

func TestNotify(t *testing.T) {
	for name, socket := range map[string]string{"a path": shortSocket(t), "abstract": "@meshvpc-test-" + filepath.Base(t.TempDir()) + randomID()} {
		t.Run(name, func(t *testing.T) {
			m := startServiceManager(t, socket)
			t.Setenv("NOTIFY_SOCKET", socket)
			t.Setenv("WATCHDOG_USEC", "8000000")
			n := newNotifier("a test", zap.NewNop())
			now := time.Unix(1800000000, 0)
			n.now = func() time.Time { return now }
			if n.every() != 2*time.Second {
				t.Errorf("the loop is to call every %v, want 2s: twice in half of the watchdog's time", n.every())
			}
			for _, after := range []time.Duration{0, 0, time.Second, time.Second, 0, 2 * time.Second} {
				now = now.Add(after)
				n.alive()
			}
			ended, end := context.WithCancel(t.Context())
			end()
			n.stopping(ended)
			if err := m.await("STOPPING=1"); err != nil {
				t.Fatal(err)
			}
			want := []string{"READY=1", "STATUS=a test", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1", "STATUS=stopping"}
			if !slices.Equal(m.heard, want) {
				t.Errorf("the service manager heard %q, want %q", m.heard, want)
			}
		})
	}
}

// TestNotifyNobody: without a service manager nothing is sent, a watchdog of
// another process is none, and a service is ready as soon as somebody listens.
func TestNotifyNobody(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "8000000")
	t.Setenv("WATCHDOG_PID", "1")
	t.Setenv("NOTIFY_SOCKET", "")
	n := newNotifier("a test", zap.NewNop())
	if n.alive(); n.every() != 0 || n.watchdog != 0 {
		t.Errorf("every %v, watchdog %v; want none", n.every(), n.watchdog)
	}
	t.Setenv("NOTIFY_SOCKET", shortSocket(t))
	n = newNotifier("a test", zap.NewNop())
	if n.alive(); n.ready {
		t.Error("ready, though nobody was told")
	}
	m := startServiceManager(t, n.socket)
	n.alive()
	if err := m.await("READY=1"); err != nil || !n.ready {
		t.Errorf("ready is %v: %v", n.ready, err)
	}
}
