package main

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/meshvpc/meshvpc/cluster/membership/reach"
)

// program is one invocation of the command line.
type program struct {
	in       io.Reader
	out, err io.Writer
	outTerm  bool  // out is a terminal
	errTerm  bool  // err is a terminal
	asks     asker // nil: nobody to ask
	ask      askFunc
	now      func() time.Time
}

// askFunc asks whether the holder of a key, by its hash, is at an address; see
// package reach.
type askFunc func(ctx context.Context, key string, at netip.Addr) error

func newProgram(in io.Reader, out, err io.Writer) *program {
	return &program{in: in, out: out, err: err, outTerm: isTerminal(out), errTerm: isTerminal(err), asks: terminalOf(in, err), ask: reach.Ask, now: time.Now}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// commands is the command tree.
func (p *program) commands() []*cli.Command {
	list := []*cli.Command{
		p.statusCommand(),
		p.vpcCommand(),
		p.endpointCommand(),
		p.ipamCommand(),
		p.failoverCommand(),
		p.datacenterCommand(),
		p.nodeCommand(),
		p.applyCommand(),
		p.schemaCommand(),
		p.clusterCommand(),
		p.getCommand(),
		p.eventsCommand(),
		p.planCommand(),
		p.doctorCommand(),
		p.serverCommand(),
		p.agentCommand(),
		p.serviceCommand(),
	}
	list = append(list, p.labCommands()...)
	return append(list, p.versionCommand(), p.completionCommand(), p.completeCommand())
}

func (p *program) app() *cli.App {
	return &cli.App{
		Name:            "meshvpc",
		Usage:           "private networks for workloads, stretched over hosts in any datacenters",
		Commands:        p.commands(),
		HideHelp:        true,
		HideHelpCommand: true,
		HideVersion:     true,
		Writer:          p.out,
		ErrWriter:       p.err,
		ExitErrHandler:  func(*cli.Context, error) {},
		Action:          func(*cli.Context) error { return missingCommand(nil, p.commands()) },
	}
}

// run executes args and returns the exit code.
func (p *program) run(ctx context.Context, args []string) int {
	if t, ok := p.asks.(terminal); ok {
		t.until = ctx.Done()
		p.asks = t
	}
	app := p.app()
	line, err := parseArgs(app, args[1:])
	if err == nil && line.help {
		err = p.help(app, line.path)
	} else if err == nil {
		err = app.RunContext(ctx, append([]string{filepath.Base(args[0])}, line.args()...))
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	if err != nil {
		return p.explain(ctx, err)
	}
	return exitDone
}

// exitCode ends the program with that code and no further word.
type exitCode int

func (exitCode) Error() string { return "the command said what there is to say" }

// Flags that many commands share.

func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "table, json or yaml"}
}

func timeoutFlag(d time.Duration, what string) cli.Flag {
	return &cli.DurationFlag{Name: "timeout", Value: d, Usage: what}
}

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Usage: "client `FILE` (default $MESHVPC_CONFIG, else " + clientPath("") + ")"}
}

func yesFlag() cli.Flag {
	return &cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "answer the confirmation"}
}

// storeFlags are the flags of a command that asks the store.
func storeFlags(more ...cli.Flag) []cli.Flag {
	return append(more, timeoutFlag(defaultCall, "how long the store may take to answer"), configFlag(), outputFlag())
}

// waitFlags are the flags of a command that waits for the cluster.
func waitFlags(d time.Duration, more ...cli.Flag) []cli.Flag {
	return append(more, timeoutFlag(d, "how long to wait"), configFlag(), outputFlag())
}

// noun is a command that only groups verbs.
func (p *program) noun(name, usage string, examples []string, verbs ...*cli.Command) *cli.Command {
	c := &cli.Command{Name: name, Usage: usage, Subcommands: verbs, HideHelp: true, HideHelpCommand: true,
		Description: strings.Join(examples, "\n")}
	c.Action = func(*cli.Context) error { return missingCommand([]string{name}, verbs) }
	return c
}

// verb is a command that does something. args names its positionals as the
// help shows them: "V", "[K=V ...]"; their number is checked before do.
func (p *program) verb(name, args, usage string, flags []cli.Flag, do func(ctx context.Context, c *cli.Context) error) *cli.Command {
	low, high := arity(args)
	return &cli.Command{
		Name: name, ArgsUsage: args, Usage: usage, Flags: flags, HideHelp: true, HideHelpCommand: true,
		Action: func(c *cli.Context) error {
			if n := c.NArg(); n < low || (high >= 0 && n > high) {
				return wrongArguments(c, args)
			}
			if err := checkOutput(c); err != nil {
				return err
			}
			if err := checkTimeout(c); err != nil {
				return err
			}
			return do(c.Context, c)
		},
	}
}

func checkTimeout(c *cli.Context) error {
	if d := c.Duration("timeout"); c.IsSet("timeout") && d <= 0 {
		return usage("want a time like 500ms or 30s", "invalid --timeout %s", d)
	}
	return nil
}

// arity counts the words of an args usage: "A [B]" takes one or two, "A [B...]"
// and "A -- B" one or more.
func arity(args string) (low, high int) {
	for _, w := range strings.Fields(args) {
		switch {
		case strings.HasSuffix(w, "..."), strings.HasSuffix(w, "...]"):
			if !strings.HasPrefix(w, "[") {
				low++
			}
			high = -1
		case w == "--":
		case strings.HasPrefix(w, "["):
			if high >= 0 {
				high++
			}
		default:
			low++
			if high >= 0 {
				high++
			}
		}
	}
	return low, high
}
