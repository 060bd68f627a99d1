package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// doctorLook is how long doctor looks, at all at once, and doctorGrace how much
// later it gives up what does not heed that.
const (
	doctorLook  = 3 * time.Second
	doctorGrace = 300 * time.Millisecond
)

func (p *program) doctorCommand() *cli.Command {
	c := p.verb("doctor", "", "on a host: look at everything that may be wrong with it, and say what mends it (exit 3 if anything is)", []cli.Flag{
		timeoutFlag(doctorLook, "how long to look"), configFlag(), outputFlag(),
	}, p.doctor)
	c.Description = "meshvpc doctor\nmeshvpc doctor --timeout 2s\nmeshvpc doctor -o json"
	return c
}

// grade is how grave a finding is.
type grade string

// The grades, the gravest first.
const (
	gradeProblem grade = "problem" // something does not work, or is open to others
	gradeSoon    grade = "soon"    // something will not work
	gradeNote    grade = "note"    // worth knowing, and nothing is wrong
)

var grades = []grade{gradeProblem, gradeSoon, gradeNote}

// symptom is a finding of doctor.
type symptom struct {
	Grade grade  `json:"grade"`
	Check string `json:"check"`
	What  string `json:"what"`
	Mend  string `json:"mend"`
}

// seen is what came of a look.
type seen struct {
	found   []symptom
	good    string // what was looked at and is well; "" for nothing
	skipped string // why nothing was looked at
}

func (s *seen) add(g grade, mend, format string, args ...any) {
	s.found = append(s.found, symptom{Grade: g, What: oneLine(fmt.Sprintf(format, args...)), Mend: mend})
}

// worst is the gravest grade of what was found.
func (s seen) worst() grade {
	for _, g := range grades {
		if slices.ContainsFunc(s.found, func(f symptom) bool { return f.Grade == g }) {
			return g
		}
	}
	return ""
}

func skip(format string, args ...any) seen {
	return seen{skipped: oneLine(fmt.Sprintf(format, args...))}
}

// look is one thing that doctor looks at.
type look struct {
	name string
	do   func(ctx context.Context) seen
}

// doctorReport is `doctor -o json`.
type doctorReport struct {
	OK       bool          `json:"ok"` // there is no finding, but for notes
	Findings []symptom     `json:"findings"`
	Checks   []doctorCheck `json:"checks"`
}

type doctorCheck struct {
	Check  string `json:"check"`
	Result string `json:"result"` // ok, skipped, or the gravest grade found
	Detail string `json:"detail,omitempty"`
}

func (p *program) doctor(ctx context.Context, c *cli.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	t := newPatient(clientPath(c.String("config")), p.now)
	r := reportOf(examine(ctx, t.looks()))
	err := p.print(c, r, func(w io.Writer) { p.doctorText(w, r) })
	if err == nil && !r.OK {
		return exitCode(exitNotSo)
	}
	return err
}

// examined is a look and what came of it.
type examined struct {
	name string
	seen seen
}

// examine makes all looks at once. One that has not ended in time is left
// behind: a disk that hangs must not hang this.
func examine(ctx context.Context, looks []look) []examined {
	late, stop := context.WithCancel(context.Background())
	defer stop()
	context.AfterFunc(ctx, func() { time.AfterFunc(doctorGrace, stop) }) // what heeds ctx has answered by then
	list := make([]examined, len(looks))
	answers := make([]chan seen, len(looks))
	for i, l := range looks {
		answers[i] = make(chan seen, 1)
		go func() { answers[i] <- l.do(ctx) }()
	}
	for i, l := range looks {
		list[i].name = l.name
		select {
		case list[i].seen = <-answers[i]:
			continue
		case <-late.Done():
		}
		select {
		case list[i].seen = <-answers[i]:
		default:
			list[i].seen = skip("it took too long")
		}
	}
	return list
}

// reportOf puts the gravest first, and else in the order of the looks.
func reportOf(list []examined) doctorReport {
	r := doctorReport{OK: true, Findings: []symptom{}, Checks: []doctorCheck{}}
	for _, e := range list {
		check := doctorCheck{Check: e.name, Result: "ok", Detail: e.seen.good}
		switch {
		case len(e.seen.found) > 0:
			check.Result = string(e.seen.worst())
			if n := len(e.seen.found); n > 1 {
				check.Detail = strings.TrimPrefix(check.Detail+fmt.Sprintf("; %d findings", n), "; ")
			}
		case e.seen.skipped != "":
			check.Result, check.Detail = "skipped", e.seen.skipped
		}
		for _, f := range e.seen.found {
			f.Check = e.name
			r.Findings = append(r.Findings, f)
			r.OK = r.OK && f.Grade == gradeNote
		}
		r.Checks = append(r.Checks, check)
	}
	slices.SortStableFunc(r.Findings, func(a, b symptom) int {
		return slices.Index(grades, a.Grade) - slices.Index(grades, b.Grade)
	})
	return r
}

// mostTold is how many findings of a look and grade people are shown.
const mostTold = 8

func (p *program) doctorText(w io.Writer, r doctorReport) {
	colours := map[grade]string{gradeProblem: red, gradeSoon: yellow}
	told := map[string]int{}
	for _, f := range r.Findings {
		kind := string(f.Grade) + f.Check
		if told[kind]++; told[kind] > mostTold {
			continue
		}
		word := string(f.Grade) + ":"
		if colour := colours[f.Grade]; colour != "" {
			word = p.paint(colour, word)
		}
		fmt.Fprintf(w, "%s %s\n   mend: %s\n", word, f.What, f.Mend)
	}
	if r.OK {
		fmt.Fprintln(w, p.paint(green, "nothing is wrong here"))
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, c := range r.Checks {
		rows = append(rows, []string{c.Check, c.Result, c.Detail})
	}
	columns(w, []string{"looked at", "result", "detail"}, rows)
	for _, n := range told {
		if n > mostTold {
			fmt.Fprintf(w, "\nOf many findings of one kind, %d are shown; all: meshvpc doctor -o json\n", mostTold)
			break
		}
	}
}
