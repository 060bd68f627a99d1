package watcher

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// targetEvery is how long it takes at most until a namespace that came back is
// noticed.
const targetEvery = 2 * time.Second

// ownSpace is the path of the host's own network namespace.
const ownSpace = "/proc/self/ns/net"

// ofProcess reports whether a path leads to a namespace by way of a process,
// itself or by a link: another process may have that place later.
func ofProcess(path string) bool {
	const links = 8 // in a row
	for range links {
		if strings.HasPrefix(path, "/proc/") {
			return true
		}
		to, err := os.Readlink(path)
		if err != nil {
			return false
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = filepath.Clean(to)
	}
	return false
}

// nothingAt reports whether there is nothing at a path.
func nothingAt(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.ENOTDIR)
}

// pin sees whether an attachment's target is there, and ties the attachment to what
// it is now if that is a process's.
func (a *Agent) pin(ctx context.Context, endpoint string, at *attachment) *local.Refusal {
	if at.Kind != hostops.PortNetns {
		return nil
	}
	spaces := a.cfg.Driver.Spaces(ctx, []string{at.Target, ownSpace})
	switch inode := spaces[at.Target].Inode; {
	case inode == 0 && nothingAt(at.Target):
		return refuse(local.CodeTarget, "", "attach endpoint %q: there is no network namespace %s", endpoint, at.Target)
	case inode == 0:
		return refuse(local.CodeTarget, "", "attach endpoint %q: %s is no network namespace", endpoint, at.Target)
	case inode == spaces[ownSpace].Inode:
		return refuse(local.CodeTarget, "", "attach endpoint %q: %s is the host's own network namespace", endpoint, at.Target)
	case ofProcess(at.Target):
		at.Inode, at.BootID = inode, a.cfg.BootID
	}
	return nil
}

// look takes what an attachment's target is now; ended: it never will be there
// again.
func (at *attachment) look(now hostops.Space, bootID string) (ended bool) {
	if at.Kind != hostops.PortNetns {
		return false
	}
	at.lost = ""
	switch {
	case at.Inode != 0 && (at.BootID != bootID || now.Inode != 0 && now.Inode != at.Inode):
		return true
	case now.Inode != 0:
	case at.Inode != 0:
		return nothingAt(at.Target)
	default:
		at.lost = cluster.CleanText(fmt.Sprintf("the network namespace %s is gone: waiting for it", at.Target))
	}
	return false
}

// lookAt is look of one attachment.
func (a *Agent) lookAt(ctx context.Context, at *attachment) (ended bool) {
	return at.Kind == hostops.PortNetns && at.look(a.cfg.Driver.Spaces(ctx, []string{at.Target})[at.Target], a.cfg.BootID)
}

// lookAtTargets ends the attachments whose target has ended, and reports whether
// any ended, went or came back.
func (a *Agent) lookAtTargets(ctx context.Context) (changed bool) {
	var paths []string
	for _, v := range a.memory.VPCs {
		for _, at := range v.Attachments {
			if at.Kind == hostops.PortNetns {
				paths = append(paths, at.Target)
			}
		}
	}
	if len(paths) == 0 {
		return false
	}
	slices.Sort(paths)
	spaces := a.cfg.Driver.Spaces(ctx, slices.Compact(paths))
	for vpc, v := range a.memory.VPCs {
		for name, at := range v.Attachments {
			was := at.lost
			if at.look(spaces[at.Target], a.cfg.BootID) {
				a.log.Info("workload has ended", zap.String("vpc", vpc), zap.String("endpoint", name), zap.String("target", at.Target))
				v.end(name, a.cfg.Node, a.now)
				changed = true
				continue
			}
			if at.lost != was {
				v.Attachments[name] = at
				changed = true
			}
		}
	}
	return changed
}

// waitsForTarget reports whether any target is gone.
func (a *Agent) waitsForTarget() bool {
	for _, v := range a.memory.VPCs {
		for _, at := range v.Attachments {
			if at.lost != "" {
				return true
			}
		}
	}
	return false
}
