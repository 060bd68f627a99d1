package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/integration/lab"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
	exitNotSo  = 3 // not (yet) so
)

// refusal is an error whose remedy the command itself knows.
type refusal struct {
	code int
	err  error
	do   string // what to do, one line
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// failed, usage and notSo make a refusal with that exit code.
func failed(do, format string, args ...any) error {
	return &refusal{exitFailed, fmt.Errorf(format, args...), do}
}

func usage(do, format string, args ...any) error {
	return &refusal{exitUsage, fmt.Errorf(format, args...), do}
}

func notSo(do, format string, args ...any) error {
	return &refusal{exitNotSo, fmt.Errorf(format, args...), do}
}

// unreachable is a store that did not answer.
type unreachable struct {
	endpoints []string
	after     time.Duration
	source    string // where the endpoints come from
	err       error
}

func (u *unreachable) Error() string {
	return fmt.Sprintf("reach the store at %s: no answer within %s", strings.Join(u.endpoints, ", "), u.after)
}
func (u *unreachable) Unwrap() error { return u.err }

// explain prints what went wrong, why and what to do in two lines, and returns
// the exit code. All remedies that depend on the kind of an error only are
// here.
func (p *program) explain(ctx context.Context, err error) int {
	code, do := remedy(ctx, err)
	fmt.Fprintf(p.err, "meshvpc: %s\n", oneLine(err.Error()))
	if do != "" {
		lines := strings.Split(strings.TrimSpace(do), "\n") // each of ours, and printable
		for i := range lines {
			lines[i] = printable(lines[i])
		}
		fmt.Fprintf(p.err, "hint: %s\n", strings.Join(lines, "\n"))
	}
	return code
}

func remedy(ctx context.Context, err error) (code int, do string) {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.code, r.do
	}
	if u, ok := errors.AsType[*unreachable](err); ok {
		return exitFailed, fmt.Sprintf("see that \"meshvpc server\" runs there and that this host reaches it; the endpoints come from %s", u.source)
	}
	if r, ok := errors.AsType[*local.Refusal](err); ok && r.Code == local.CodeInvalid {
		return exitUsage, r.Hint
	} else if ok {
		return exitFailed, r.Hint
	}
	switch {
	case errors.Is(err, local.ErrNoAgent):
		return exitFailed, "this asks the host's own agent: start \"meshvpc agent\", or run it on the host of the workload"
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return exitFailed, "it was interrupted; what was written stays, run it again to go on"
	case errors.Is(err, mvcc.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return exitFailed, "see that \"meshvpc server\" runs and is reachable, then run it again"
	case errors.Is(err, mvcc.ErrDenied):
		return exitFailed, "ask an admin, or name a client file with more rights by --config or MESHVPC_CONFIG"
	case errors.Is(err, store.ErrConflict):
		return exitFailed, "run it again: it decides from what is there now"
	case errors.Is(err, cluster.ErrNewer):
		return exitFailed, "update meshvpc on this host to the version that the others have"
	case errors.Is(err, hostops.ErrBusy):
		return exitFailed, "one agent a host: stop the other one first"
	case errors.Is(err, hostops.ErrForeign):
		return exitFailed, "rename or remove what stands in the way; meshvpc never takes over what it did not make"
	case errors.Is(err, hostops.ErrUnsupported):
		return exitFailed, "run this on a host that can"
	case errors.Is(err, lab.ErrNotFound):
		return exitFailed, `"meshvpc lab status" shows what there is, "meshvpc lab up" makes a lab`
	case errors.Is(err, lab.ErrExists):
		return exitFailed, `choose another name, or end it by "meshvpc lab down"`
	case errors.Is(err, lab.ErrPoweredOff):
		return exitFailed, `start it by "meshvpc lab fault boot"`
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EPERM):
		return exitFailed, "run it as root"
	case errors.Is(err, syscall.ENOSPC):
		return exitFailed, "free some space on that disk"
	case errors.Is(err, syscall.EROFS):
		return exitFailed, "see why that disk is read-only (dmesg), and mount it for writing"
	case errors.Is(err, cluster.ErrInvalid):
		return exitUsage, ""
	}
	return exitFailed, ""
}

// oneLine makes an error of any origin one printable line.
func oneLine(s string) string {
	s = strings.ReplaceAll(strings.TrimSpace(s), "\n", "; ")
	return printable(s)
}

func missingCommand(path []string, choices []*cli.Command) error {
	return usage(helpFor(path), "%swhat to do is missing: want %s", pathPrefix(path), strings.Join(names(choices), ", "))
}

func unknownCommand(path []string, word string, choices []*cli.Command) error {
	do := helpFor(path)
	if near := cluster.Nearest(word, names(choices)); near != "" {
		do = fmt.Sprintf("did you mean %q?", strings.Join(append(append([]string{"meshvpc"}, path...), near), " "))
	}
	return usage(do, "%sunknown command %q: want %s", pathPrefix(path), word, strings.Join(names(choices), ", "))
}

func unknownFlag(path []string, word string, c *cli.Command) error {
	name, _, _ := strings.Cut(word, "=")
	do := helpFor(path)
	if c != nil {
		var all []string
		for _, f := range c.Flags {
			for _, n := range f.Names() {
				all = append(all, dashes(n))
			}
		}
		if near := cluster.Nearest(name, all); near != "" {
			do = fmt.Sprintf("did you mean %q?", near)
		} else if strings.Contains(c.ArgsUsage, "-- CMD") {
			do = `put "--" before the command to run`
		}
	}
	return usage(do, "%sunknown flag %q", pathPrefix(path), name)
}

func missingValue(path []string, flag string) error {
	return usage(helpFor(path), "%sflag %q needs a value", pathPrefix(path), flag)
}

func wrongArguments(c *cli.Context, want string) error {
	path := strings.Fields(c.Command.HelpName)
	if len(path) > 0 {
		path = path[1:]
	}
	got := "none"
	if c.NArg() > 0 {
		got = strings.Join(quoted(c.Args().Slice()), " ")
	}
	if want == "" {
		want = "no arguments"
	}
	return usage(helpFor(path), "%swrong arguments: want %s, got %s", pathPrefix(path), want, got)
}

func helpFor(path []string) string {
	return fmt.Sprintf("see %q", strings.Join(append(append([]string{"meshvpc"}, path...), "--help"), " "))
}

func pathPrefix(path []string) string {
	if len(path) == 0 {
		return ""
	}
	return strings.Join(path, " ") + ": "
}

func names(commands []*cli.Command) []string {
	var ns []string
	for _, c := range commands {
		if !c.Hidden {
			ns = append(ns, c.Name)
		}
	}
	return ns
}

func dashes(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

func quoted(words []string) []string {
	words = slices.Clone(words)
	for i, w := range words {
		words[i] = fmt.Sprintf("%q", w)
	}
	return words
}
