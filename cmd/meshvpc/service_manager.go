package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/deployments"
)

// manager is a service manager: where its files are and how it is spoken to.
type manager struct {
	name   string
	folder string                      // in package deployments
	unit   func(service string) string // a service's unit, and the name of its file
	dir    string                      // where the host's own units are
	mode   fs.FileMode                 // of a unit
	usual  places                      // what the files in deployments say
	bases  map[string]string           // directives that make a directory below a base, and the base
	binary *regexp.Regexp              // finds the program in a unit
	reload []string                    // the command that makes the manager read its files; nil: none
	call   func(verb, unit string) []string
	atBoot func(unit string) step   // has a unit started at boot, in a root that does not run
	log    func(unit string) string // the command that shows what a unit said
	look   func(ctx context.Context, run runner, unit string) (unitState, error)
}

// places are the paths that a unit names.
type places struct {
	program string
	dirs    dirs
}

// unitState is what the manager says of a unit.
type unitState struct {
	enabled, active bool
	word            string    // the manager's own: "active (running)"
	since           time.Time // when it became active; zero: unknown
	pid             int       // of the service; 0: unknown
}

func systemd() manager {
	return manager{
		name:   "systemd",
		folder: "systemd",
		unit:   func(service string) string { return "meshvpc-" + service + ".service" },
		dir:    "/etc/systemd/system",
		mode:   0o644,
		usual:  places{"/usr/local/bin/meshvpc", dirs{"/etc/meshvpc", "/var/lib/meshvpc", "/run/meshvpc"}},
		bases:  map[string]string{"ConfigurationDirectory": "/etc", "StateDirectory": "/var/lib", "RuntimeDirectory": "/run"},
		binary: regexp.MustCompile(`(?m)^ExecStart=(\S+)`),
		reload: []string{"systemctl", "daemon-reload"},
		call:   func(verb, unit string) []string { return []string{"systemctl", verb, unit} },
		atBoot: func(unit string) step {
			return step{Do: doLink, Path: "/etc/systemd/system/multi-user.target.wants/" + unit, Text: "/etc/systemd/system/" + unit}
		},
		log:  func(unit string) string { return "journalctl -u " + unit },
		look: lookSystemd,
	}
}

func rcd() manager {
	return manager{
		name:   "rc.d",
		folder: "rc.d",
		unit:   func(service string) string { return "meshvpc_" + service },
		dir:    "/usr/local/etc/rc.d",
		mode:   0o555,
		usual:  places{"/usr/local/bin/meshvpc", dirs{"/usr/local/etc/meshvpc", "/var/db/meshvpc", "/var/run/meshvpc"}},
		binary: regexp.MustCompile(`(?m)^: \$\{meshvpc_\w+_binary:=(\S+)\}`),
		call:   func(verb, unit string) []string { return []string{"service", unit, verb} },
		atBoot: func(unit string) step {
			return step{Do: doWrite, Path: "/etc/rc.conf.d/" + unit, Mode: 0o644, Text: unit + "_enable=\"YES\"\n"}
		},
		log:  func(unit string) string { return "grep " + strings.ReplaceAll(unit, "_", "-") + " /var/log/messages" },
		look: lookRCD,
	}
}

// text is a service's unit with the paths of p, to which the service writes also
// below the directories in writes.
func (m manager) text(service string, p places, writes []string) (string, error) {
	b, err := fs.ReadFile(deployments.Services, path.Join(m.folder, m.unit(service)))
	if err != nil {
		return "", fmt.Errorf("read unit of the %s: %w", service, err)
	}
	filled := strings.NewReplacer(m.usual.program, p.program, m.usual.dirs.config, p.dirs.config,
		m.usual.dirs.state, p.dirs.state, m.usual.dirs.run, p.dirs.run).Replace(string(b))
	made := map[string]string{"ConfigurationDirectory": p.dirs.config, "StateDirectory": p.dirs.state, "RuntimeDirectory": p.dirs.run}
	var out strings.Builder
	for line := range strings.Lines(filled) {
		key, _, _ := strings.Cut(line, "=")
		switch {
		case key == "ReadWritePaths":
			line = strings.Join(append([]string{strings.TrimSuffix(line, "\n")}, writes...), " ") + "\n"
		case m.bases[key] != "":
			line = key + "=" + strings.TrimPrefix(made[key], m.bases[key]+"/") + "\n"
		}
		if directive := strings.TrimSuffix(strings.TrimSuffix(key, "Mode"), "Preserve"); m.bases[directive] != "" && !below(made[directive], m.bases[directive]) {
			continue // the manager makes no such directory elsewhere
		}
		out.WriteString(line)
	}
	return out.String(), nil
}

func below(path, dir string) bool { return strings.HasPrefix(path, dir+"/") }

// plainPath is what neither a unit nor a script takes for anything else.
var plainPath = regexp.MustCompile(`^/[A-Za-z0-9/._+@-]*$`)

// runner runs a command and returns what it printed.
type runner func(ctx context.Context, command ...string) (string, error)

// runCommand is the runner of this host.
func runCommand(ctx context.Context, command ...string) (string, error) {
	c := exec.CommandContext(ctx, command[0], command[1:]...)
	c.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	c.WaitDelay = time.Second
	out, err := c.CombinedOutput()
	if err != nil {
		return string(out), &commandError{strings.Join(command, " "), strings.TrimSpace(string(out)), err}
	}
	return string(out), nil
}

// commandError is a command that failed, with what it printed.
type commandError struct {
	command, output string
	err             error
}

func (e *commandError) Error() string {
	if e.output == "" {
		return fmt.Sprintf("run %q: %v", e.command, e.err)
	}
	return fmt.Sprintf("run %q: %v: %s", e.command, e.err, e.output)
}

func (e *commandError) Unwrap() error { return e.err }
