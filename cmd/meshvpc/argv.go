package main

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// commandLine is an argv taken apart.
type commandLine struct {
	path        []string // of the command: "vpc", "create"
	flags       []string // of the command, each as the flag parser takes it
	positionals []string
	help        bool
}

// args is the command line in the order that cli wants: flags first.
func (l commandLine) args() []string {
	args := append([]string{}, l.path...)
	args = append(args, l.flags...)
	if len(l.positionals) > 0 {
		args = append(args, "--")
	}
	return append(args, l.positionals...)
}

// parseArgs takes an argv apart by the flag lists of the app's own commands, so
// that flags may stand before or after positionals, up to "--". What begins
// with "-" is a flag (but "-" itself is an argument): one that the command does
// not have is a usage error, never an argument. "help" as the first word is
// --help of what follows.
func parseArgs(app *cli.App, argv []string) (commandLine, error) {
	var line commandLine
	commands, leaf := app.Commands, (*cli.Command)(nil)
	var early []string // flags before the command is known
	if len(argv) > 0 && argv[0] == "help" {
		line.help, argv = true, argv[1:]
	}
	if len(argv) > 0 && argv[0] == "--version" {
		argv = append([]string{"version"}, argv[1:]...)
	}
	for i := 0; i < len(argv); i++ {
		word := argv[i]
		switch {
		case word == "--":
			line.positionals = append(line.positionals, argv[i+1:]...)
			i = len(argv)
		case word == "-h" || word == "--help":
			line.help = true
		case strings.HasPrefix(word, "-") && word != "-":
			name, value, valued := strings.Cut(strings.TrimLeft(word, "-"), "=")
			f := findFlag(leaf, name)
			if leaf == nil {
				f = findAnywhere(commands, name)
			}
			if f == nil {
				return line, unknownFlag(line.path, word, leaf)
			}
			words := []string{"--" + name + "=" + value}
			if !valued {
				words = []string{"--" + name}
				if takesValue(f) {
					if i+1 == len(argv) {
						return line, missingValue(line.path, word)
					}
					i++
					words = []string{"--" + name + "=" + argv[i]}
				}
			}
			if leaf == nil {
				early = append(early, words...)
			} else {
				line.flags = append(line.flags, words...)
			}
		case leaf == nil:
			c := findCommand(commands, word)
			if c == nil {
				return line, unknownCommand(line.path, word, commands)
			}
			line.path = append(line.path, c.Name)
			commands = c.Subcommands
			if len(commands) == 0 {
				leaf = c
			}
		default:
			line.positionals = append(line.positionals, word)
		}
	}
	if line.help {
		return line, nil
	}
	for _, f := range early {
		name, _, _ := strings.Cut(strings.TrimLeft(f, "-"), "=")
		if findFlag(leaf, name) == nil {
			return line, unknownFlag(line.path, f, leaf)
		}
	}
	line.flags = append(early, line.flags...)
	return line, nil
}

func findCommand(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

func findFlag(c *cli.Command, name string) cli.Flag {
	if c == nil {
		return nil
	}
	for _, f := range c.Flags {
		for _, n := range f.Names() {
			if n == name {
				return f
			}
		}
	}
	return nil
}

// findAnywhere finds a flag that a command below has, for flags that stand
// before the command; whether it is that command's is checked in the end.
func findAnywhere(commands []*cli.Command, name string) cli.Flag {
	for _, c := range commands {
		if f := findFlag(c, name); f != nil {
			return f
		}
		if f := findAnywhere(c.Subcommands, name); f != nil {
			return f
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}
