package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
)

// help prints the help of the command at path.
func (p *program) help(app *cli.App, path []string) error {
	commands, c := app.Commands, (*cli.Command)(nil)
	for _, name := range path {
		c = findCommand(commands, name)
		commands = c.Subcommands
	}
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	full := strings.Join(append([]string{"meshvpc"}, path...), " ")
	switch {
	case c == nil:
		fmt.Fprintf(w, "meshvpc: %s\n\nusage: meshvpc COMMAND\n\n", app.Usage)
	case len(commands) > 0:
		fmt.Fprintf(w, "%s: %s\n\nusage: %s COMMAND\n\n", full, c.Usage, full)
	default:
		fmt.Fprintf(w, "%s: %s\n\nusage: %s\n", full, c.Usage, usageLine(full, c))
	}
	for _, sub := range commands {
		if !sub.Hidden {
			fmt.Fprintf(w, "  %s\t%s\n", strings.TrimSpace(sub.Name+" "+sub.ArgsUsage), sub.Usage)
		}
	}
	if c != nil && len(commands) == 0 {
		printFlags(w, c)
	}
	if examples := examplesOf(app, path); examples != "" {
		fmt.Fprintf(w, "\nexamples:\n")
		for line := range strings.SplitSeq(examples, "\n") {
			fmt.Fprintf(w, "  %s\n", line)
		}
	}
	if len(commands) > 0 {
		fmt.Fprintf(w, "\n%q shows a command's flags.\n", full+" COMMAND --help")
	}
	return w.Flush()
}

func usageLine(full string, c *cli.Command) string {
	if len(c.Flags) > 0 {
		full += " [flags]"
	}
	return strings.TrimSpace(full + " " + c.ArgsUsage)
}

func printFlags(w *tabwriter.Writer, c *cli.Command) {
	for i, f := range c.Flags {
		if i == 0 {
			fmt.Fprintf(w, "\nflags:\n")
		}
		d, ok := f.(cli.DocGenerationFlag)
		if !ok {
			continue
		}
		names := f.Names()
		spelled := make([]string, len(names))
		for i, n := range names {
			spelled[len(names)-1-i] = dashes(n)
		}
		placeholder, text := unquote(d.GetUsage())
		if d.TakesValue() {
			spelled[len(spelled)-1] += " " + placeholder
		}
		if v := d.GetDefaultText(); v != "" && d.TakesValue() && v != `""` {
			text += fmt.Sprintf(" (default %s)", strings.Trim(v, `"`))
		}
		fmt.Fprintf(w, "  %s\t%s\n", strings.Join(spelled, ", "), text)
	}
}

// unquote takes the placeholder out of a flag's usage: "client `FILE`" is
// FILE, and "client FILE".
func unquote(usage string) (placeholder, text string) {
	before, rest, ok := strings.Cut(usage, "`")
	name, after, closed := strings.Cut(rest, "`")
	if !ok || !closed {
		return "VALUE", usage
	}
	return name, before + name + after
}

// examplesOf are the examples of a noun, or those among them that show a verb.
func examplesOf(app *cli.App, path []string) string {
	if len(path) == 0 {
		return "meshvpc lab demo\nmeshvpc cluster init --datacenter skynet\nmeshvpc vpc create vpc1 --members all --peer-network 10.100.0.0/24\nmeshvpc status"
	}
	noun := findCommand(app.Commands, path[0])
	if len(path) == 1 {
		return noun.Description
	}
	prefix := strings.Join(append([]string{"meshvpc"}, path...), " ")
	var shown []string
	for line := range strings.SplitSeq(noun.Description, "\n") {
		if strings.HasPrefix(line, prefix+" ") || line == prefix {
			shown = append(shown, line)
		}
	}
	return strings.Join(shown, "\n")
}
