package main

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
	"pgregory.net/rapid"
)

func testApp() *cli.App { return newProgram(strings.NewReader(""), io.Discard, io.Discard).app() }

func TestParseArgs(t *testing.T) {
	for name, tt := range map[string]struct{ in, want string }{
		"flags after the argument":          {"vpc create v --mtu 1400 --protect", "vpc create --mtu=1400 --protect -- v"},
		"flags before the argument":         {"vpc create --mtu 1400 v", "vpc create --mtu=1400 -- v"},
		"flags before the noun":             {"-o json vpc list", "vpc list --o=json"},
		"flags between noun and verb":       {"vpc -o json list", "vpc list --o=json"},
		"a value that looks like a flag":    {"vpc create v --members -x", "vpc create --members=-x -- v"},
		"a value with =":                    {"vpc create v --members=dc=a,label=b=c", "vpc create --members=dc=a,label=b=c -- v"},
		"after -- all are arguments":        {"lab exec a --workload w -- ls -l --help", "lab exec --workload=w -- a ls -l --help"},
		"a single dash is an argument":      {"vpc show -", "vpc show -- -"},
		"one dash and a long name":          {"vpc list -output json", "vpc list --output=json"},
		"a bool with a value":               {"vpc delete v --yes=false", "vpc delete --yes=false -- v"},
		"an argument named like a command":  {"vpc show list", "vpc show -- list"},
		"help is a verb's argument only":    {"vpc show help", "vpc show -- help"},
		"the same flag twice":               {"node set n --label a=b --label c=d", "node set --label=a=b --label=c=d -- n"},
		"a path as a value":                 {"endpoint attach e --netns /proc/7/ns/net --trust", "endpoint attach --netns=/proc/7/ns/net --trust -- e"},
		"three levels":                      {"lab fault kill a --only agent", "lab fault kill --only=agent -- a"},
		"an empty value":                    {"vpc create v --network=", "vpc create --network= -- v"},
		"version as a flag":                 {"--version", "version"},
		"nothing":                           {"", ""},
		"flags both before and after":       {"--timeout 1s vpc wait v -o json", "vpc wait --timeout=1s --o=json -- v"},
		"a short flag after the positional": {"vpc delete v -y", "vpc delete --y -- v"},
	} {
		t.Run(name, func(t *testing.T) {
			line, err := parseArgs(testApp(), strings.Fields(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(strings.Fields(tt.want), line.args(), cmp.Transformer("nil", func(s []string) string { return strings.Join(s, " ") })); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseArgsRefuses(t *testing.T) {
	for in, want := range map[string]struct{ err, do string }{
		"vpc create v --mtuu 1":       {`vpc create: unknown flag "--mtuu"`, `did you mean "--mtu"?`},
		"vpc create v --mtu":          {`vpc create: flag "--mtu" needs a value`, `see "meshvpc vpc create --help"`},
		"vpc crate v":                 {`vpc: unknown command "crate": want create, list, show, peers, status, set, delete, wait, ping, export`, `did you mean "meshvpc vpc create"?`},
		"--nope vpc list":             {`unknown flag "--nope"`, `see "meshvpc --help"`},
		"--mtu 5 vpc list":            {`vpc list: unknown flag "--mtu"`, `see "meshvpc vpc list --help"`},
		"vpc list -z":                 {`vpc list: unknown flag "-z"`, `see "meshvpc vpc list --help"`},
		"vpc --members all":           {`vpc: unknown flag "--members"`, `see "meshvpc vpc --help"`},
		"lab exec a ls -l":            {`lab exec: unknown flag "-l"`, `put "--" before the command to run`},
		"quite something else before": {`unknown command "quite": want status, vpc, endpoint, ipam, failover, datacenter, node, apply, schema, cluster, get, events, plan, doctor, server, agent, service, lab, version, completion`, `see "meshvpc --help"`},
	} {
		_, err := parseArgs(testApp(), strings.Fields(in))
		r, ok := errors.AsType[*refusal](err)
		if !ok || r.code != exitUsage || r.Error() != want.err || r.do != want.do {
			t.Errorf("parseArgs(%q) = %v; want exit 2, %q, %q", in, err, want.err, want.do)
		}
	}
}

func TestParseArgsHelp(t *testing.T) {
	for in, want := range map[string]string{
		"help": "", "--help": "", "-h": "", "vpc --help": "vpc", "vpc create v --mtu 5 -h": "vpc create", "help lab fault": "lab fault", "vpc create --help": "vpc create",
	} {
		line, err := parseArgs(testApp(), strings.Fields(in))
		if err != nil || !line.help || strings.Join(line.path, " ") != want {
			t.Errorf("parseArgs(%q) = %+v, %v; want help of %q", in, line, err, want)
		}
	}
	if line, err := parseArgs(testApp(), strings.Fields("lab exec a -- ls --help")); err != nil || line.help {
		t.Errorf("--help after -- is the command's own: %+v, %v", line, err)
	}
}

// Where flags stand makes no difference, and no argument is lost or becomes a
// flag.
func TestParseArgsOrder(t *testing.T) {
	app := testApp()
	rapid.Check(t, func(t *rapid.T) {
		positionals := rapid.SliceOfN(rapid.StringMatching(`[a-z0-9.=]{1,6}|-`), 0, 4).Draw(t, "positionals")
		flags := rapid.SliceOfN(rapid.SampledFrom([]string{"--mtu 1400", "--protect", "--members=a", "--exclude ::1", "-o json", "--network -"}), 0, 4).Draw(t, "flags")
		words := []string{"vpc", "create"}
		f, p := flags, positionals
		for len(f)+len(p) > 0 {
			if len(p) == 0 || len(f) > 0 && rapid.Bool().Draw(t, "flag first") {
				words = append(words, strings.Fields(f[0])...)
				f = f[1:]
			} else {
				words = append(words, p[0])
				p = p[1:]
			}
		}
		line, err := parseArgs(app, words)
		if err != nil {
			t.Fatal(err)
		}
		if len(line.flags) != len(flags) || strings.Join(line.positionals, " ") != strings.Join(positionals, " ") {
			t.Fatalf("%q became flags %q, positionals %q", words, line.flags, line.positionals)
		}
	})
}

// Every verb of every noun has an example in its help, and every example is a
// command line that parses.
func TestExamples(t *testing.T) {
	app := testApp()
	for _, noun := range app.Commands {
		if noun.Hidden {
			continue
		}
		for _, verb := range noun.Subcommands {
			if examplesOf(app, []string{noun.Name, verb.Name}) == "" {
				t.Errorf("%s %s has no example", noun.Name, verb.Name)
			}
		}
		for line := range strings.SplitSeq(noun.Description, "\n") {
			words := strings.Fields(strings.ReplaceAll(line, `"`, ""))
			if len(words) == 0 || words[0] != "meshvpc" {
				continue
			}
			if i := strings.IndexAny(line, ">"); i >= 0 {
				words = strings.Fields(line[:i])
			}
			if _, err := parseArgs(app, words[1:]); err != nil {
				t.Errorf("example %q: %v", line, err)
			}
		}
	}
}

func TestArity(t *testing.T) {
	for args, want := range map[string][2]int{"": {0, 0}, "V": {1, 1}, "[KEY]": {0, 1}, "HOST -- CMD...": {2, -1}, "[WORD...]": {0, -1}, "A [B]": {1, 2}, "-- CMD...": {1, -1}} {
		if low, high := arity(args); low != want[0] || high != want[1] {
			t.Errorf("arity(%q) = %d, %d; want %v", args, low, high, want)
		}
	}
}
