package lab

import (
	"fmt"
	"os"
	"syscall"
)

// exec runs a caller's command and answers with its exit code. Words that come
// meanwhile are signals; the end of the connection is a SIGKILL.
func (h *host) exec(c *call) (any, error) {
	var body execBody
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if len(c.files) != 3 || len(body.Argv) == 0 {
		return nil, fmt.Errorf("run on host %s: %d descriptors and %d arguments came", h.cfg.Name, len(c.files), len(body.Argv))
	}
	env := h.environment(body.Env)
	path, err := lookPath(body.Argv[0], env)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(body.Dir); err != nil || !info.IsDir() {
		body.Dir = "/"
	}
	attr := &syscall.ProcAttr{Dir: body.Dir, Env: env, Sys: &syscall.SysProcAttr{Setsid: true}}
	var p *process
	err = h.inNetns(body.Workload, func() error {
		var err error
		p, err = h.children.start(path, body.Argv, attr, c.files...)
		return err
	})
	closeAll(c.files)
	c.files = nil
	if err != nil {
		return nil, err
	}
	go h.relay(c.conn, p)
	<-p.done
	if p.status.Signaled() {
		return 128 + int(p.status.Signal()), nil
	}
	return p.status.ExitStatus(), nil
}

// relay delivers signals until the connection ends, which is when the command
// has been answered for or nobody wants it any more.
func (h *host) relay(c *conn, p *process) {
	for {
		m, files, err := c.receive()
		closeAll(files)
		sig := syscall.SIGKILL
		if err == nil {
			var n int
			if m.decode(&n) != nil {
				continue
			}
			sig = syscall.Signal(n)
		}
		if sendErr := h.children.signal(p, sig, true); sendErr != nil {
			fmt.Fprintln(os.Stderr, sendErr)
		}
		if err != nil {
			return
		}
	}
}
