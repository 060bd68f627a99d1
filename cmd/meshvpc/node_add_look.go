package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"sigs.k8s.io/yaml"
)

// hostFacts is what a host says of itself.
type hostFacts struct {
	os, arch string // as Go spells them
	hostname string
	server   bool   // it runs a server of some cluster
	agent    bool   // it has an agent.yaml
	node, id string // of it
	joined   bool   // it has a node's certificate
	sum      string // SHA-256 of the program there, in hex; "" is none
	version  string // what that says of itself
}

// Each fact is a line of its own, so that what a login shell may print besides
// does no harm.
const factMark = "meshvpc-fact "

// scriptWho is run as the user who logs in. All scripts are for a POSIX shell,
// have no single quote, exclamation mark or line break: a login shell may be csh.
const scriptWho = `LC_ALL=C; export LC_ALL; f() { echo "meshvpc-fact $*"; }; f os $(uname -s); f arch $(uname -m); f name $(uname -n); f uid $(id -u); ` +
	`if command -v sudo >/dev/null 2>&1; then f sudo yes; fi`

// scriptLook is run as root, and changes nothing.
func scriptLook(path string, d dirs) string {
	return `f() { echo "meshvpc-fact $*"; }; d=${MESHVPC_CONFIG_DIR:-` + d.config + `}; p=` + path + `; ` +
		`if [ -e $d/server.yaml ]; then f server yes; fi; ` +
		`if [ -e $d/tls/node.crt ]; then f joined yes; fi; ` +
		`if [ -e $d/agent.yaml ]; then f agent yes; sed "s/^/meshvpc-fact yaml /" $d/agent.yaml; fi; ` +
		`if [ -x $p ]; then f sum $(` + scriptSum("$p") + `); f version $($p version 2>/dev/null); fi`
}

// scriptSum prints a file's SHA-256: GNU's tool, else FreeBSD's.
func scriptSum(file string) string {
	return `if command -v sha256sum >/dev/null 2>&1; then sha256sum < ` + file + `; else sha256 -q < ` + file + `; fi`
}

// facts are the words of the fact lines in out, by their first.
func facts(out string) map[string][]string {
	m := map[string][]string{}
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, factMark); ok {
			key, value, _ := strings.Cut(strings.TrimRight(rest, "\r\n"), " ")
			m[key] = append(m[key], value)
		}
	}
	return m
}

func fact(m map[string][]string, key string) string {
	if len(m[key]) == 0 {
		return ""
	}
	return clean(strings.TrimSpace(m[key][0]))
}

// look asks the host what it is, and becomes root on it.
func (a *adding) look(ctx context.Context) (*rootShell, hostFacts, error) {
	var h hostFacts
	out, err := a.remote.run(ctx, "sh -c "+shellWord(scriptWho), nil)
	if err != nil {
		return nil, h, err
	}
	who := facts(out)
	if h, err = systemOf(who); err != nil {
		return nil, h, err
	}
	root, err := a.becomeRoot(ctx, who)
	if err != nil {
		return nil, h, err
	}
	d := rcd().usual.dirs
	if h.os == "linux" {
		d = systemd().usual.dirs
	}
	if out, err = root.run(ctx, scriptLook(a.request.path, d), nil); err != nil {
		return nil, h, err
	}
	return root, h, h.add(facts(out))
}

// systemOf reads the facts of scriptWho.
func systemOf(who map[string][]string) (h hostFacts, err error) {
	system, machine := fact(who, "os"), fact(who, "arch")
	h = hostFacts{os: map[string]string{"Linux": "linux", "FreeBSD": "freebsd"}[system], arch: goArch(machine), hostname: fact(who, "name")}
	switch {
	case system == "":
		return h, failed("see that a POSIX shell runs there: ssh HOST uname", "the host does not say what it is")
	case h.os == "":
		return h, failed("nodes run Linux or FreeBSD", "the host runs %s", system)
	}
	return h, nil
}

// goArch is Go's name of what uname -m says.
func goArch(machine string) string {
	switch {
	case machine == "x86_64":
		return "amd64"
	case machine == "aarch64":
		return "arm64"
	case strings.HasPrefix(machine, "armv6"), strings.HasPrefix(machine, "armv7"):
		return "arm"
	case len(machine) == 4 && strings.HasPrefix(machine, "i") && strings.HasSuffix(machine, "86"):
		return "386"
	}
	return machine
}

// add adds the facts of scriptLook.
func (h *hostFacts) add(m map[string][]string) error {
	h.server, h.agent, h.joined = fact(m, "server") != "", fact(m, "agent") != "", fact(m, "joined") != ""
	h.version = fact(m, "version")
	h.sum, _, _ = strings.Cut(fact(m, "sum"), " ")
	if !h.agent {
		return nil
	}
	var cfg agentConfig
	if err := yaml.Unmarshal([]byte(strings.Join(m["yaml"], "\n")), &cfg); err != nil || cfg.Node == "" || cfg.ID == "" {
		return failed("mend it, or \"meshvpc node purge\" there", "the host has an agent.yaml that names no node and id")
	}
	h.node, h.id = clean(cfg.Node), clean(cfg.ID)
	return nil
}

// rootShell runs scripts as root.
type rootShell struct {
	remote
	sudo     bool
	password string // of sudo, which asks for none if it is ""
}

// passwordEnd is the line of input after the password that a script waits for: a
// sudo that did not read the password leaves it to nobody else.
const passwordEnd = "meshvpc-input-follows"

// command is the command line for a script; no secret is in it.
func (r *rootShell) command(script string) string {
	switch {
	case !r.sudo:
		return "sh -c " + shellWord(script)
	case r.password == "":
		return "sudo -n sh -c " + shellWord(script)
	}
	skip := `while IFS= read -r l; do if [ "$l" = ` + passwordEnd + ` ]; then break; fi; done; unset l; `
	return "sudo -k -S -p '' sh -c " + shellWord(skip+script)
}

// run runs a script. The words of sudo and script never hold the password.
func (r *rootShell) run(ctx context.Context, script string, stdin io.Reader) (string, error) {
	if r.password != "" {
		if stdin == nil {
			stdin = strings.NewReader("")
		}
		stdin = io.MultiReader(strings.NewReader(r.password+"\n"+passwordEnd+"\n"), stdin)
	}
	out, err := r.remote.run(ctx, r.command("LC_ALL=C; export LC_ALL; "+script), stdin)
	return out, hide(err, r.password)
}

// hide takes a secret out of what a command said.
func hide(err error, secret string) error {
	if e, ok := errors.AsType[*remoteError](err); ok && secret != "" {
		return &remoteError{e.status, strings.ReplaceAll(e.said, secret, "...")} // what is around it never holds it
	}
	return err
}

// becomeRoot finds the way to run commands as root: none is needed, sudo asks
// for nothing, or for a password, which is asked for once.
func (a *adding) becomeRoot(ctx context.Context, who map[string][]string) (*rootShell, error) {
	r := &rootShell{remote: a.remote}
	if fact(who, "uid") == "0" {
		return r, nil
	}
	if fact(who, "sudo") == "" {
		return nil, failed("log in as root, or install sudo there", "user %s is not root, and the host has no sudo", a.request.target.user)
	}
	r.sudo = true
	_, err := r.run(ctx, ":", nil)
	ended, ok := errors.AsType[*remoteError](err)
	if err == nil || !ok {
		return r, err
	}
	if a.asker == nil {
		return nil, failed("run it on a terminal, which can be asked for sudo's password, or log in as root", "sudo there needs a password: %w", ended)
	}
	password, err := a.asker.secret(fmt.Sprintf("sudo password of %s: ", a.request.target))
	if err != nil {
		return nil, err
	}
	if r.password = string(password); r.password == "" {
		return nil, usage("run it again", "the password of sudo is empty")
	}
	// With nothing after the password: a sudo that refuses it asks again, and reads on.
	_, err = r.remote.run(ctx, "sudo -k -S -p '' sh -c :", strings.NewReader(r.password+"\n"))
	if _, ok := errors.AsType[*remoteError](err); ok {
		return nil, failed("see that the password is right and that sudo lets "+a.request.target.user+" run sh as root", "sudo there refuses: %w", hide(err, r.password))
	}
	return r, err
}
