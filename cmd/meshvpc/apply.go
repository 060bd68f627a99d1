package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster/document"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func (p *program) applyCommand() *cli.Command {
	c := p.verb("apply", "", "make VPCs and endpoints what a file says they are, and wait until it is so", waitFlags(meshWait,
		&cli.StringFlag{Name: "file", Aliases: []string{"f"}, Usage: "`FILE` of YAML documents, - for stdin"},
		&cli.BoolFlag{Name: "dry-run", Usage: "show what would change and change nothing (exit 3 if anything would)"},
		&cli.BoolFlag{Name: "prune", Usage: "delete the VPCs that are not in the file, and of those that are the endpoints that are not"},
		yesFlag(),
		&cli.BoolFlag{Name: "no-wait", Usage: "do not wait until it is so"},
	), p.apply)
	c.Description = "meshvpc apply -f vpcs.yaml --dry-run\nmeshvpc apply -f vpcs.yaml\nmeshvpc apply -f vpcs.yaml --prune\nmeshvpc apply -f - --prune --yes -o json"
	return c
}

// applyReport is `apply -o json`.
type applyReport struct {
	DryRun  bool            `json:"dry_run"`
	Applied bool            `json:"applied"` // something was written
	Steps   []document.Step `json:"steps"`
}

// apply reads the file before it asks the store: most mistakes need none.
func (p *program) apply(ctx context.Context, c *cli.Context) error {
	a := application{program: p, c: c, name: c.String("file")}
	if a.name == "" {
		return usage("like \"meshvpc apply -f vpcs.yaml\", - for stdin", "apply: want a file")
	}
	text, err := p.readFile(c.Done(), &a.name)
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	if a.file, err = document.Parse(a.name, text); err != nil {
		return a.refuse(exitUsage, err)
	}
	return p.withStore(a.run)(ctx, c)
}

// largestFile bounds what apply reads, in bytes.
const largestFile = 16 << 20

// readFile reads the file of that name, or stdin for "-", which it renames.
func (p *program) readFile(until <-chan struct{}, name *string) ([]byte, error) {
	in := p.in
	if *name == "-" {
		*name = "stdin"
	} else {
		f, err := os.Open(*name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := readUntil(until, func() ([]byte, error) { return io.ReadAll(io.LimitReader(in, largestFile+1)) })
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", *name, err)
	}
	if len(text) > largestFile {
		return nil, usage("cut it into several", "%s is larger than %d bytes", *name, largestFile)
	}
	return text, nil
}

// application is one run of apply.
type application struct {
	*program
	c     *cli.Context
	name  string // of the file, as it is shown
	file  document.File
	view  *store.View // that the steps were planned from
	steps []document.Step
}

func (a *application) run(ctx context.Context, _ *cli.Context, s *session) error {
	if err := a.plan(ctx, s); err != nil {
		return err
	}
	a.warnStranded()
	r := applyReport{DryRun: a.c.Bool("dry-run"), Steps: a.steps}
	changes := len(a.steps) - a.count(document.Unchanged)
	if changes == 0 || r.DryRun {
		return a.showPlan(r, changes)
	}
	if forPeople(a.c) {
		if err := a.print(a.c, r, a.planText); err != nil {
			return err
		}
	}
	if err := a.confirmPrune(); err != nil {
		return err
	}
	if err := a.write(ctx, s); err != nil {
		return err
	}
	r.Applied = true
	err := a.print(a.c, r, func(w io.Writer) {
		fmt.Fprintf(w, "applied: %s\n", a.tally("created", "changed", "deleted"))
	})
	if err == nil && !a.c.Bool("no-wait") {
		err = a.await(ctx, s)
	}
	return err
}

// confirmPrune asks before VPCs are deleted: for the name of one, for the
// number of several.
func (a *application) confirmPrune() error {
	var names []string
	noun := "VPC"
	for _, s := range a.steps {
		if s.Action == document.Delete {
			names = append(names, s.Name)
			if s.Kind == document.KindEndpoint {
				noun = "endpoint"
			}
		}
	}
	many := "VPCs"
	if noun != "VPC" {
		many = "objects"
	}
	const stays = "nothing was written"
	switch {
	case len(names) == 0:
		return nil
	case a.c.String("file") == "-" && !a.c.Bool("yes"):
		return usage("see what goes by --dry-run, then give --yes", "apply stdin: deleting %s has to be confirmed, and stdin is the file", few(names))
	case len(names) == 1:
		return a.confirmBy(a.c, "the name of the "+noun+" to delete", names[0], stays)
	}
	return a.confirmBy(a.c, "the number of "+many+" to delete", strconv.Itoa(len(names)), stays)
}

// showPlan is all that is done when nothing is written.
func (a *application) showPlan(r applyReport, changes int) error {
	err := a.print(a.c, r, func(w io.Writer) {
		a.planText(w)
		if changes == 0 {
			fmt.Fprintln(w, "nothing to do")
		} else {
			fmt.Fprintf(w, "nothing was written; to be %s\n", a.tally("created", "changed", "deleted"))
		}
	})
	if err == nil && changes > 0 {
		return exitCode(exitNotSo)
	}
	return err
}

// planText shows the steps, in colours on a terminal.
func (a *application) planText(w io.Writer) {
	colours := map[document.Action]string{document.Create: green, document.Change: yellow, document.Delete: red}
	for _, s := range a.steps {
		head, fields, _ := strings.Cut(s.String(), "\n")
		if colour := colours[s.Action]; colour != "" {
			head = a.paint(colour, head)
		}
		fmt.Fprintf(w, "%s\n%s", head, fields)
	}
}

func (a *application) count(action document.Action) int {
	n := 0
	for _, s := range a.steps {
		if s.Action == action {
			n++
		}
	}
	return n
}

// tally counts the steps, in the given words.
func (a *application) tally(created, changed, deleted string) string {
	return fmt.Sprintf("%d %s, %d %s, %d %s, %d unchanged", a.count(document.Create), created, a.count(document.Change), changed,
		a.count(document.Delete), deleted, a.count(document.Unchanged))
}

// counted is "1 mistake", "2 mistakes".
func counted(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}
