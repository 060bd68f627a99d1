package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
)

// Bounds of what alarms run.
const (
	alarmQueue = 64               // alarms that wait; more are only logged
	alarmPause = time.Second      // between two
	alarmTime  = 30 * time.Second // that a program may take
)

// alarms runs the programs of a directory for what failover does, one alarm after
// the other: notify.d of the configuration. Nothing of it comes from the store but
// the words that a program gets in its environment.
type alarms struct {
	dir   string
	log   *zap.Logger
	queue chan cluster.Change
	lost  int // that had no room, since it was last said
}

func newAlarms(dir string, log *zap.Logger) *alarms {
	return &alarms{dir: dir, log: log.Named("alarm"), queue: make(chan cluster.Change, alarmQueue)}
}

// raise takes an alarm, and waits for nothing.
func (a *alarms) raise(c cluster.Change) {
	a.log.Warn("alarm", zap.String("what", c.String()))
	select {
	case a.queue <- c:
	default:
		a.lost++
		a.log.Warn("too many alarms: its programs are not run", zap.Int("lost", a.lost))
	}
}

// run works until ctx ends; a program that runs then is killed.
func (a *alarms) run(ctx context.Context) {
	t := time.NewTicker(alarmPause)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-a.queue:
			a.tell(ctx, c)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// tell runs all programs for one alarm.
func (a *alarms) tell(ctx context.Context, c cluster.Change) {
	programs, refused, err := programsOf(a.dir)
	if err != nil {
		a.log.Error("cannot look for the programs of alarms", zap.Error(err))
	}
	for _, why := range refused {
		a.log.Error("a program of alarms is not run", zap.Error(why))
	}
	for _, p := range programs {
		if err := a.start(ctx, p, c); err != nil && ctx.Err() == nil {
			a.log.Error("a program of alarms failed", zap.String("program", p), zap.Error(err))
		}
	}
}

func (a *alarms) start(ctx context.Context, program string, c cluster.Change) error {
	ctx, cancel := context.WithTimeout(ctx, alarmTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program)
	cmd.Dir, cmd.WaitDelay = "/", time.Second
	cmd.Env = append(os.Environ(), "MESHVPC_ALARM="+string(c.Verb), "MESHVPC_KEY="+c.Key, "MESHVPC_TEXT="+c.String())
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, cluster.CleanText(string(out[:min(len(out), 400)])))
	}
	return nil
}

// programsOf lists what a directory has to run, in order, and what it has and must not
// be run: what somebody else than root, or this user, could change.
func programsOf(dir string) (programs []string, refused []error, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || len(entries) == 0 && err == nil {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, nil, err
	}
	if err := oursAlone(dir, true); err != nil {
		return nil, []error{err}, nil
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := os.Lstat(path)
		if err == nil && (!info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0) {
			continue // a README, a link, a directory
		}
		if err == nil {
			err = oursAlone(path, false)
		}
		if err != nil {
			refused = append(refused, err)
			continue
		}
		programs = append(programs, path)
	}
	slices.Sort(programs)
	return programs, refused, nil
}

// oursAlone wraps why somebody else could change what is at a path; with parents, in
// any directory above it, too.
func oursAlone(path string, parents bool) error {
	for {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		sticky := info.IsDir() && info.Mode()&os.ModeSticky != 0
		switch owner := ownerOf(info); {
		case owner != 0 && owner != os.Geteuid():
			return fmt.Errorf("%s belongs to user %d: chown root %s", path, owner, path)
		case info.Mode().Perm()&0o022 != 0 && !sticky:
			return fmt.Errorf("%s can be written by others: chmod go-w %s", path, path)
		}
		up := filepath.Dir(path)
		if !parents || up == path {
			return nil
		}
		path = up
	}
}
