package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/integration/lab"
)

// completeIn bounds how long a completion may take.
const completeIn = 700 * time.Millisecond

var completionScripts = map[string]string{
	"bash": `_meshvpc() {
    local IFS=$'\n'
    COMPREPLY=($(meshvpc __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _meshvpc meshvpc
`,
	"zsh": `#compdef meshvpc
_meshvpc() {
    local -a found
    found=("${(@f)$(meshvpc __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    [[ -n "${found[1]}" ]] && compadd -- "${found[@]}"
}
compdef _meshvpc meshvpc
`,
	"fish": `function __meshvpc_complete
    set -l words (commandline -opc) (commandline -ct)
    meshvpc __complete -- $words[2..-1] 2>/dev/null
end
complete -c meshvpc -f -a '(__meshvpc_complete)'
`,
}

func (p *program) completionCommand() *cli.Command {
	c := p.verb("completion", "SHELL", "print the completion script of bash, zsh or fish", nil, func(_ context.Context, c *cli.Context) error {
		script, ok := completionScripts[c.Args().First()]
		if !ok {
			return usage("want bash, zsh or fish", "no completion for shell %q", c.Args().First())
		}
		_, err := fmt.Fprint(p.out, script)
		return err
	})
	c.Description = "source <(meshvpc completion bash)\nmeshvpc completion zsh > \"${fpath[1]}/_meshvpc\"\nmeshvpc completion fish > ~/.config/fish/completions/meshvpc.fish"
	return c
}

// completeCommand is what the scripts call: it prints candidates for the last
// of its arguments, and says nothing else whatever happens.
func (p *program) completeCommand() *cli.Command {
	c := p.verb("__complete", "[WORD...]", "", nil, func(ctx context.Context, c *cli.Context) error {
		ctx, cancel := context.WithTimeout(ctx, completeIn)
		defer cancel()
		words := c.Args().Slice()
		if len(words) == 0 {
			words = []string{""}
		}
		for _, candidate := range p.complete(ctx, words) {
			fmt.Fprintln(p.out, candidate)
		}
		return nil
	})
	c.Hidden = true
	return c
}

// complete lists what the last of words may become.
func (p *program) complete(ctx context.Context, words []string) []string {
	commands, leaf := p.commands(), (*cli.Command)(nil)
	var path []string
	given := 0
	done, current := words[:len(words)-1], words[len(words)-1]
	for i := 0; i < len(done); i++ {
		w := done[i]
		switch {
		case w == "--":
			return nil
		case strings.HasPrefix(w, "-"):
			name, _, valued := strings.Cut(strings.TrimLeft(w, "-"), "=")
			f := findFlag(leaf, name)
			if f == nil || valued || !takesValue(f) {
				continue
			}
			if i++; i == len(done) {
				return startingWith(current, p.flagValues(ctx, name))
			}
		case leaf == nil:
			c := findCommand(commands, w)
			if c == nil {
				return nil
			}
			path, commands = append(path, c.Name), c.Subcommands
			if len(commands) == 0 {
				leaf = c
			}
		default:
			given++
		}
	}
	switch {
	case leaf == nil:
		return startingWith(current, names(commands))
	case strings.HasPrefix(current, "-"):
		if name, value, ok := strings.Cut(current, "="); ok {
			var list []string
			for _, v := range startingWith(value, p.flagValues(ctx, strings.TrimLeft(name, "-"))) {
				list = append(list, name+"="+v)
			}
			return list
		}
		return startingWith(current, flagNames(leaf))
	}
	return startingWith(current, p.argument(ctx, path, leaf, given))
}

func flagNames(c *cli.Command) []string {
	list := []string{"--help"}
	for _, f := range c.Flags {
		list = append(list, dashes(f.Names()[0]))
	}
	return list
}

// flagValues lists what a flag can be given.
func (p *program) flagValues(ctx context.Context, name string) []string {
	switch name {
	case "output", "o":
		return []string{"table", "json", "yaml"}
	case "log-level":
		return []string{"debug", "info", "warn", "error"}
	case "members":
		return append([]string{"all", "dc=", "label="}, p.known(ctx, cluster.PrefixNodes)...)
	case "vpc":
		return p.known(ctx, cluster.PrefixVPCs)
	case "node":
		return p.known(ctx, cluster.PrefixNodes)
	case "who":
		return slices.Concat(p.subjects(ctx, cluster.SubjectUser, cluster.PrefixUsers), p.subjects(ctx, cluster.SubjectNode, cluster.PrefixNodes),
			p.subjects(ctx, cluster.SubjectServer, cluster.PrefixSrvs))
	case "netns":
		return namesOfNamespaces()
	case "lab":
		return labNames()
	case "only":
		return []string{"agent", "server"}
	}
	return nil
}

// argument lists what the n-th positional of a command can be.
func (p *program) argument(ctx context.Context, path []string, c *cli.Command, n int) []string {
	args := strings.Fields(c.ArgsUsage)
	if n >= len(args) {
		return nil
	}
	word := strings.Trim(args[n], "[].")
	switch {
	case word == "V" && c.Name != "create":
		return p.known(ctx, cluster.PrefixVPCs)
	case word == "N":
		return p.known(ctx, cluster.PrefixNodes)
	case path[0] == "endpoint" && strings.HasPrefix(word, "E") && c.Name != "create":
		return p.knownEndpoints(ctx)
	case word == "SHELL":
		return []string{"bash", "zsh", "fish"}
	case path[0] == "lab" && strings.HasPrefix(word, "HOST"):
		return labHosts(ctx)
	}
	return nil
}

func startingWith(prefix string, candidates []string) []string {
	var list []string
	for _, c := range candidates {
		if strings.HasPrefix(c, prefix) {
			list = append(list, c)
		}
	}
	slices.Sort(list)
	return list
}

// manyNames bounds a completion's list.
const manyNames = 500

// known lists the names right below a prefix.
func (p *program) known(ctx context.Context, prefix string) []string {
	s, err := openSession(clientPath(""), completeIn)
	if err != nil {
		return nil
	}
	defer s.cli.Close()
	list, _ := s.namesBelow(ctx, prefix) // a completion is silent about a store that does not answer
	return list
}

// knownEndpoints lists the names of endpoints, of whatever VPC.
func (p *program) knownEndpoints(ctx context.Context) (list []string) {
	for _, vpc := range p.known(ctx, cluster.PrefixVPCs) {
		list = append(list, p.known(ctx, cluster.PrefixEndpoints(vpc))...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// subjects are those of a kind that there are.
func (p *program) subjects(ctx context.Context, kind cluster.SubjectKind, prefix string) []string {
	list := p.known(ctx, prefix)
	for i, name := range list {
		list[i] = cluster.Subject{Kind: kind, Name: name}.String()
	}
	return list
}

// namesBelow lists the names right below a prefix, the first manyNames of them,
// by one short read each: a VPC with a thousand members costs no more than an
// empty one.
func (s *session) namesBelow(ctx context.Context, prefix string) ([]string, error) {
	var list []string
	limit := int64(1)
	if prefix == cluster.PrefixNodes {
		limit = manyNames
	}
	for at, end := prefix, mvcc.PrefixEnd(prefix); len(list) < manyNames; {
		callCtx, cancel := context.WithTimeout(ctx, s.call)
		got, err := s.store.KV().Range(callCtx, mvcc.RangeRequest{Key: at, End: end, Limit: limit, KeysOnly: true})
		cancel()
		if err != nil || len(got.Keys) == 0 {
			return list, err
		}
		for _, kv := range got.Keys {
			name, _, nested := strings.Cut(strings.TrimPrefix(kv.Key, prefix), "/")
			list = append(list, printable(name))
			at = kv.Key + "\x00"
			if nested {
				at = mvcc.PrefixEnd(prefix + name + "/")
			}
		}
	}
	return list, nil
}

// namesOfNamespaces are those that this host has by name, but the VPCs' own.
func namesOfNamespaces() (list []string) {
	files, err := os.ReadDir("/run/netns")
	if err != nil {
		return nil
	}
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), "vpc-") {
			list = append(list, printable(f.Name()))
		}
	}
	return list
}

func labNames() []string {
	list, err := lab.List()
	if err != nil {
		return nil
	}
	return list
}

func labHosts(ctx context.Context) []string {
	l, err := lab.Open("")
	if err != nil {
		return nil
	}
	s, err := l.Status(ctx)
	if err != nil {
		return nil
	}
	var list []string
	for _, h := range s.Hosts {
		list = append(list, h.Name)
	}
	return list
}
