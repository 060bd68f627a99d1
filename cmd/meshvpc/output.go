package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
	"sigs.k8s.io/yaml"

	"github.com/meshvpc/meshvpc/cluster"
)

// checkOutput refuses a format that does not exist before anything is done.
func checkOutput(c *cli.Context) error {
	switch o := c.String("output"); o {
	case "", "table", "json", "yaml":
		return nil
	default:
		return usage("want table, json or yaml", "unknown output format %q", o)
	}
}

// print writes v as the -o flag says; table writes it for people.
func (p *program) print(c *cli.Context, v any, table func(w io.Writer)) error {
	return p.write(c, v, "  ", "", table)
}

// printNext writes one of a stream: a line of JSON, or a YAML document.
func (p *program) printNext(c *cli.Context, v any, table func(w io.Writer)) error {
	return p.write(c, v, "", "---\n", table)
}

// write indents JSON, and begins YAML by a mark of a document.
func (p *program) write(c *cli.Context, v any, indent, mark string, table func(w io.Writer)) error {
	var b bytes.Buffer
	switch c.String("output") {
	case "json", "yaml":
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", indent)
		if err := enc.Encode(v); err != nil {
			return fmt.Errorf("print as %s: %w", c.String("output"), err)
		}
		if c.String("output") == "yaml" {
			y, err := yaml.JSONToYAML(b.Bytes())
			if err != nil {
				return fmt.Errorf("print as yaml: %w", err)
			}
			b.Reset()
			b.WriteString(mark)
			b.Write(y)
		}
	default:
		table(&b)
	}
	_, err := p.out.Write(b.Bytes())
	return err
}

// forPeople reports whether the output is for a person, not for a program.
func forPeople(c *cli.Context) bool { o := c.String("output"); return o == "" || o == "table" }

// columns writes rows under a header, aligned.
func columns(w io.Writer, header []string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.ToUpper(strings.Join(header, "\t")))
	for _, row := range rows {
		for i := range row {
			if row[i] == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	t.Flush() // into memory
}

// clean is cluster.CleanText: for all text that another machine wrote.
func clean(s string) string { return cluster.CleanText(s) }

// printable is clean without its bound on length, for text that is bounded
// already.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unprintable(r) {
			return '?'
		}
		return r
	}, s)
}

func unprintable(r rune) bool {
	return unicode.IsControl(r) || r == utf8.RuneError || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}

// Colours, for a terminal only, and never with NO_COLOR.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
)

func (p *program) paint(colour, s string) string {
	if !p.outTerm || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

// progress shows one changing line on stderr, if that is a terminal.
type progress struct {
	w    io.Writer
	last string
}

func (p *program) progress() *progress {
	if p.errTerm {
		return &progress{w: p.err}
	}
	return &progress{}
}

func (g *progress) show(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	if g.w == nil || s == g.last {
		return
	}
	g.last = s
	fmt.Fprintf(g.w, "\r\x1b[K%s", s)
}

// done clears the line.
func (g *progress) done() {
	if g.w != nil && g.last != "" {
		fmt.Fprint(g.w, "\r\x1b[K")
	}
	g.last = ""
}

// warn writes one line to stderr.
func (p *program) warn(format string, args ...any) {
	fmt.Fprintf(p.err, "warning: %s\n", oneLine(fmt.Sprintf(format, args...)))
}
