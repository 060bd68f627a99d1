package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// serviceStatus is what `service status` says of a service.
type serviceStatus struct {
	Service   string     `json:"service"`
	Unit      string     `json:"unit"`
	Wanted    bool       `json:"wanted"`    // this host has its configuration
	Installed bool       `json:"installed"` // it has a unit
	File      origin     `json:"file,omitempty"`
	Enabled   bool       `json:"enabled"`
	Active    bool       `json:"active"`
	State     string     `json:"state,omitempty"` // in the manager's words
	Since     *time.Time `json:"since,omitempty"`
	Binary    string     `json:"binary,omitempty"`
	Version   string     `json:"version,omitempty"` // of Binary
	Running   string     `json:"running,omitempty"` // of the process
	Problem   string     `json:"problem,omitempty"`
	Mend      string     `json:"mend,omitempty"` // the command that mends it

	outdated bool // the unit is ours, and not as this program would write it
	replaced bool // the process does not run the file that Binary is now
	offline  bool // nothing of it can run
}

// versionIn bounds how long a program may take to say its version.
const versionIn = 3 * time.Second

func (p *program) serviceStatus(ctx context.Context, c *cli.Context) error {
	h, services, err := p.findServices(ctx, c)
	if err != nil {
		return err
	}
	list := make([]serviceStatus, len(services))
	down := false
	for i, s := range services {
		list[i] = h.status(ctx, s)
		down = list[i].judge(h.manager) || down
	}
	v := struct {
		Manager  string          `json:"manager"`
		Services []serviceStatus `json:"services"`
	}{h.name, list}
	err = p.print(c, v, func(w io.Writer) {
		var rows [][]string
		for _, s := range list {
			rows = append(rows, []string{s.Service, yesNo(s.Installed), yesNo(s.Enabled), s.State, stampOf(s.Since), s.Version, s.Running})
		}
		columns(w, []string{"service", "installed", "enabled", "state", "since", "version", "running"}, rows)
		for _, s := range list {
			if s.Problem != "" {
				fmt.Fprintf(w, "%s %s: %s\n", s.Service, s.Problem, s.Mend)
			}
		}
	})
	if err == nil && down {
		return exitCode(exitNotSo)
	}
	return err
}

func stampOf(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// status gathers what is known of a service.
func (h serviceHost) status(ctx context.Context, s service) serviceStatus {
	v := serviceStatus{Service: s.name, Unit: s.unit, Wanted: s.wanted, Installed: s.found != originNone, File: s.found,
		Enabled: s.state.enabled, Active: s.state.active, State: s.state.word, Binary: s.binary, offline: h.root != "",
		outdated: s.found == originOurs && s.binary == h.program && !s.same}
	if !s.state.since.IsZero() {
		v.Since = &s.state.since
	}
	if s.binary != "" && h.root == "" {
		v.Version = versionOf(ctx, s.binary)
	}
	if s.state.pid > 0 {
		process := fmt.Sprintf("/proc/%d/exe", s.state.pid) // also of a file that was replaced since
		v.Running = versionOf(ctx, process)
		was, err1 := os.Stat(process)
		is, err2 := os.Stat(s.binary)
		v.replaced = err1 == nil && err2 == nil && !os.SameFile(was, is)
	}
	return v
}

// versionOf asks a program for its version; "" is unknown.
func versionOf(ctx context.Context, program string) string {
	ctx, cancel := context.WithTimeout(ctx, versionIn)
	defer cancel()
	c := exec.CommandContext(ctx, program, "version", "-o", "json")
	c.Args[0] = "meshvpc" // also of /proc/PID/exe
	out, err := c.Output()
	if err != nil {
		return ""
	}
	var v struct{ Version string }
	if err := json.Unmarshal(out, &v); err != nil {
		return ""
	}
	return clean(v.Version)
}

// judge fills in what is wrong and what mends it, and reports whether the
// service should run and does not.
func (v *serviceStatus) judge(m manager) (down bool) {
	command := func(verb string) string { return strings.Join(m.call(verb, v.Unit), " ") }
	say := func(problem, mend string) { v.Problem, v.Mend = problem, mend }
	switch {
	case v.offline, !v.Wanted && !v.Enabled && !v.Active:
	case !v.Installed:
		say("is not installed", "meshvpc service install --only "+v.Service)
		return true
	case !v.Active:
		say("does not run", command("start")+"; "+m.log(v.Unit)+" says why it ended")
		return true
	case !v.Enabled:
		say("will not start at the next boot", command("enable"))
	case v.Version != v.Running && v.Version != "" && v.Running != "":
		say(fmt.Sprintf("runs version %s, and %s is installed", v.Running, v.Version), command("restart"))
	case v.replaced:
		say("runs a program that was replaced since", command("restart"))
	case v.outdated:
		say("has a unit that another version wrote", "meshvpc service install --only "+v.Service)
	}
	return false
}
