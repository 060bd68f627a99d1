package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// tie is what binds a lab to the process that started it: its supervisor is a
// child, and ends when the lifeline closes.
type tie struct {
	cmd      *exec.Cmd
	lifeline *conn // nil when detached
	ended    chan struct{}
}

// downGrace is how long a supervisor may take to end before it is killed.
const downGrace = 10 * time.Second

// Close ends a lab that is tied to this process, and leaves any other alone.
func (l *Lab) Close() error {
	if l.tied == nil || l.tied.lifeline == nil {
		return nil
	}
	return l.Down(context.Background())
}

// Down ends the lab: when it returns, its processes, namespaces, mounts and
// directory are gone.
func (l *Lab) Down(ctx context.Context) error {
	c, err := l.dial()
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if err == nil {
		err = l.end(ctx, c)
		c.Close()
		if err != nil {
			return err
		}
	}
	if l.tied != nil {
		<-l.tied.ended
		if l.tied.lifeline != nil {
			l.tied.lifeline.Close()
		}
	}
	f, err := lock(l.name)
	if errors.Is(err, ErrExists) {
		return nil // somebody started it again already
	}
	if err != nil {
		return fmt.Errorf("end lab %s: %w", l.name, err)
	}
	defer f.Close()
	return unmake(filepath.Dir(l.dir), l.name)
}

// Down ends the lab of that name, whoever started it, and removes what a lab
// that was killed left on disk. "" is DefaultName. It is ErrNotFound when there
// is neither.
func Down(ctx context.Context, name string) error {
	if name == "" {
		name = DefaultName
	}
	if err := checkName("lab", name); err != nil {
		return err
	}
	l := &Lab{name: name, dir: filepath.Join(basePath(), name)}
	if _, err := os.Lstat(l.dir); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("end lab %s: %w", name, ErrNotFound)
	}
	if _, err := openBase(); err != nil {
		return err
	}
	return l.Down(ctx)
}

// end tells the supervisor to end and waits until it has.
func (l *Lab) end(ctx context.Context, c *conn) error {
	p, err := peerOf(c)
	if err != nil {
		return fmt.Errorf("end lab %s: %w", l.name, err)
	}
	defer p.close()
	asked, cancel := context.WithTimeout(ctx, downGrace)
	defer cancel()
	if err := c.send(message{Op: opDown}); err == nil {
		err = p.wait(asked)
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	if err := p.kill(); err != nil {
		return fmt.Errorf("end lab %s: %w", l.name, err)
	}
	return p.wait(ctx)
}
