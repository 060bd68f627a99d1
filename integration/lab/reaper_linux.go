package lab

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// reaper starts processes and collects every one that ends, also those that
// were left to us: a stage is the init of its PID namespace. Package os cannot
// be used beside it, as both would wait for the same children.
type reaper struct {
	mu      sync.Mutex
	changed sync.Cond // some process ended, stopped or went on
	procs   map[int]*process
}

// process is a child. status may be read when done is closed.
type process struct {
	pid     int
	done    chan struct{}
	status  syscall.WaitStatus
	stopped bool // guarded by reaper.mu
}

func newReaper() *reaper {
	r := &reaper{procs: map[int]*process{}}
	r.changed.L = &r.mu
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	go func() { // for the life of the process
		for range ended {
			r.collect()
		}
	}()
	return r
}

func (r *reaper) collect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG|syscall.WUNTRACED|syscall.WCONTINUED, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if pid <= 0 || err != nil {
			return
		}
		r.changed.Broadcast()
		p := r.procs[pid]
		if p == nil {
			continue // left to us by its parent
		}
		p.stopped = status.Stopped()
		if status.Exited() || status.Signaled() {
			p.status = status
			delete(r.procs, pid)
			close(p.done)
		}
	}
}

// start runs a program in the calling thread's namespaces.
func (r *reaper) start(path string, argv []string, attr *syscall.ProcAttr, files ...*os.File) (*process, error) {
	for _, f := range files {
		attr.Files = append(attr.Files, f.Fd())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", path, err)
	}
	p := &process{pid: pid, done: make(chan struct{})}
	r.procs[pid] = p
	return p, nil
}

// signal reaches the process, or with group its process group, unless it has
// ended.
func (r *reaper) signal(p *process, sig syscall.Signal, group bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.procs[p.pid] != p {
		return nil
	}
	pid := p.pid
	if group {
		pid = -pid
	}
	if err := syscall.Kill(pid, sig); err != nil {
		return fmt.Errorf("send %v to process %d: %w", sig, p.pid, err)
	}
	return nil
}

// kill ends the process and waits for it.
func (r *reaper) kill(p *process, group bool) error {
	if err := r.signal(p, syscall.SIGKILL, group); err != nil {
		return err
	}
	<-p.done
	return nil
}

// settleTime is how long signalled processes are waited for. One that is in the
// kernel without a way to be disturbed may take any time: a process that is
// stopped while its child of vfork(2) is stopped before its exec never reports
// it, though nothing of it runs.
const settleTime = 2 * time.Second

// settle waits until the process, with all of its threads, is stopped or is
// not, or has ended.
func (r *reaper) settle(p *process, stopped bool) {
	r.await(func() bool { return r.procs[p.pid] != p || p.stopped == stopped })
}

// gone waits until nothing of the process's group is left.
func (r *reaper) gone(p *process) error {
	if !r.await(func() bool { return errors.Is(syscall.Kill(-p.pid, 0), syscall.ESRCH) }) {
		return fmt.Errorf("kill process group %d: some of it is there still", p.pid)
	}
	return nil
}

// await looks at a condition under the lock whenever a child has changed, for
// settleTime, and returns whether it came true.
func (r *reaper) await(cond func() bool) bool {
	late := false
	timer := time.AfterFunc(settleTime, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		late = true
		r.changed.Broadcast()
	})
	defer timer.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for !cond() {
		if late {
			return false
		}
		r.changed.Wait()
	}
	return true
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
