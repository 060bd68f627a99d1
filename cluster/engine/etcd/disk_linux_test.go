package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/enginetest"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
)

// process is an engine on a data directory, in a process of its own.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	out string // file
	cli *clientv3.Client
}

func startProcess(t *testing.T, cfg etcd.Config) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), childDir+"="+cfg.DataDir, childPorts+"="+cfg.ListenClient[0].String()+" "+cfg.ListenPeer[0].String())
	p.out = filepath.Join(t.TempDir(), "out")
	out, err := os.Create(p.out)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close() // it has its own
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); _ = p.cmd.Wait() }) // it may have ended
	cli, err := client.Dial(client.Config{Endpoints: []string{"http://" + cfg.ListenClient[0].String()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	p.cli = cli
	return p
}

func (p *process) says() string {
	text, err := os.ReadFile(p.out)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

// ended is what the process says, which ends by itself.
func (p *process) ended() string {
	p.t.Helper()
	late := time.AfterFunc(time.Minute, func() { _ = p.cmd.Process.Kill() })
	err := p.cmd.Wait()
	if late.Stop(); err == nil || p.cmd.ProcessState.ExitCode() != 1 {
		p.t.Errorf("it ends with %v", err)
	}
	if strings.Contains(p.says(), "goroutine ") {
		p.t.Errorf("it ends with a stack: %s", p.says())
	}
	return p.says()
}

// write puts numbered values of so many bytes until the first that is refused, and
// returns how many were acknowledged.
func (p *process) write(from, most, bytes int) (acked int) {
	text := strings.Repeat("x", bytes)
	for i := range most {
		ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
		_, err := p.cli.Put(ctx, fmt.Sprintf("k%06d", from+i), text)
		cancel()
		if err != nil {
			return i
		}
	}
	return most
}

func (p *process) has(acked int) {
	p.t.Helper()
	for i := range acked {
		r, err := p.cli.Get(p.t.Context(), fmt.Sprintf("k%06d", i))
		if err != nil {
			p.t.Fatal(err)
		}
		if len(r.Kvs) != 1 {
			p.t.Errorf("acknowledged write %d of %d is lost", i, acked)
		}
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !is(); time.Sleep(20 * time.Millisecond) { //nolint:forbidigo // another process
		if time.Now().After(end) {
			t.Fatalf("not within two minutes: %s", what)
		}
	}
}

// TestDiskFull fills the disk of an engine that is written to: it gives up the ballast,
// ends with what is wrong when that is used up, does not start while there is no room,
// and has all that it acknowledged when there is.
func TestDiskFull(t *testing.T) {
	if !etcd.InOwnMounts(t) {
		return
	}
	dir := etcd.SmallDisk(t, 480)
	cfg := config(filepath.Join(dir, "store"), enginetest.FreePorts(t, 2))
	p := startProcess(t, cfg)
	if n := p.write(0, 10, 1000); n != 10 {
		t.Fatalf("%d writes: %s", n, p.says())
	}
	file := filepath.Join(cfg.DataDir, "ballast")
	var ballast unix.Stat_t
	eventually(t, "ballast", func() bool { return unix.Stat(file, &ballast) == nil && ballast.Size == 30<<20 })
	if ballast.Mode&0o777 != 0o600 || ballast.Blocks*512 < ballast.Size {
		t.Errorf("ballast: mode %o, %d blocks", ballast.Mode, ballast.Blocks)
	}
	acked := 10
	etcd.Fill(t, dir, 40)
	eventually(t, "ballast given up", func() bool { _, err := os.Stat(file); return err != nil })
	acked += p.write(acked, 10000, 64<<10)
	said := p.ended()
	t.Logf("%d writes acknowledged, then: %s", acked, said)
	if acked < 20 || !strings.Contains(said, "serve etcd: the disk is too full") || !strings.Contains(said, "gave up the ballast") {
		t.Errorf("%d writes acknowledged, then: %s", acked, said)
	}
	etcd.Fill(t, dir, 3)
	if said := startProcess(t, cfg).ended(); !strings.Contains(said, "prepare data directory "+cfg.DataDir+": the disk is too full: ") || !strings.Contains(said, " MiB are free, etcd needs 64 MiB: free some") {
		t.Errorf("without room it starts: %s", said)
	}
	etcd.Unfill(t, dir)
	p = startProcess(t, cfg)
	p.has(acked)
	if n := p.write(acked, 10, 1000); n != 10 {
		t.Errorf("%d writes: %s", n, p.says())
	}
}

// TestDiskFullAtOnce: also a disk that fills faster than anybody looks ends it in
// order, and loses nothing.
func TestDiskFullAtOnce(t *testing.T) {
	if !etcd.InOwnMounts(t) {
		return
	}
	dir := etcd.SmallDisk(t, 400)
	cfg := config(filepath.Join(dir, "store"), enginetest.FreePorts(t, 2))
	p := startProcess(t, cfg)
	acked := p.write(0, 10, 1000)
	ended := make(chan struct{}, 1)
	var filling sync.WaitGroup
	filling.Go(func() {
		for len(ended) == 0 {
			if f, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err == nil {
				_, _ = f.Write(make([]byte, 1<<20)) // it is full, often
				f.Close()
			}
		}
	})
	acked += p.write(acked, 10000, 256<<10)
	said := p.ended()
	ended <- struct{}{}
	filling.Wait()
	t.Logf("%d writes acknowledged, then: %s", acked, said)
	if !strings.Contains(said, "serve etcd: the disk is too full") {
		t.Error("it does not say what is wrong")
	}
	etcd.Unfill(t, dir)
	startProcess(t, cfg).has(acked)
}

// TestCompacted: what the database does not use goes back to a disk that is almost
// full.
func TestCompacted(t *testing.T) {
	if !etcd.InOwnMounts(t) {
		return
	}
	core, logged := observer.New(zap.InfoLevel)
	cfg := config(etcd.SmallDisk(t, 600), enginetest.FreePorts(t, 2))
	cfg.Logger, cfg.NoSync = zap.New(core), true
	engine, stop := start(t, cfg)
	cli, err := client.Dial(client.Config{Endpoints: engine.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("x", 1<<20)
	for range 40 {
		if _, err := cli.Put(t.Context(), "a", text); err != nil {
			t.Fatal(err)
		}
	}
	r, err := cli.Put(t.Context(), "a", "1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cli.Compact(t.Context(), r.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(cfg.DataDir, "ballast")
	eventually(t, "ballast", func() bool { _, err := os.Stat(file); return err == nil })
	etcd.Fill(t, cfg.DataDir, 40)
	eventually(t, "database made smaller", func() bool { return logged.FilterMessage("made the database smaller").Len() == 1 })
	st, err := cli.Status(t.Context(), engine.Endpoints()[0])
	if err != nil || st.DbSize > 2<<20 {
		t.Errorf("the database has %d bytes, %v", st.DbSize, err)
	}
	etcd.Unfill(t, cfg.DataDir)
	eventually(t, "ballast again", func() bool { _, err := os.Stat(file); return err == nil })
	mustGet(t, client.New(cli), "a", "1")
	if err := errors.Join(cli.Close(), stop()); err != nil {
		t.Error(err)
	}
}

// TestDiskReadOnly: an engine whose disk is read-only says so at its start, and ends
// with that when the disk becomes so while it runs.
func TestDiskReadOnly(t *testing.T) {
	if !etcd.InOwnMounts(t) {
		return
	}
	cfg := config(etcd.SmallDisk(t, 400), enginetest.FreePorts(t, 2))
	p := startProcess(t, cfg)
	acked := p.write(0, 10, 1000)
	writable := etcd.ReadOnly(t, cfg.DataDir)
	if said := p.ended(); !strings.Contains(said, "serve etcd: the disk is read-only") {
		t.Errorf("read-only, it says: %s", said)
	}
	if said := startProcess(t, cfg).ended(); !strings.Contains(said, "the disk is read-only") {
		t.Errorf("it starts on a read-only disk: %s", said)
	}
	writable()
	p = startProcess(t, cfg)
	p.has(acked)
	if acked != 10 || p.write(acked, 10, 1000) != 10 {
		t.Errorf("it does not serve again: %s", p.says())
	}
}
