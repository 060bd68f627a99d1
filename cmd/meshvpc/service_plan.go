package main

import (
	"fmt"
	"io/fs"
	"strings"
)

// What a step does.
const (
	doMkdir  = "mkdir"  // Path, of mode Mode
	doWrite  = "write"  // Text to Path, of mode Mode
	doLink   = "link"   // Path to Text
	doRemove = "remove" // Path
	doRun    = "run"    // Command
)

// step is one thing that installing or uninstalling does to the host.
type step struct {
	Do      string      `json:"do"`
	Path    string      `json:"path,omitempty"`
	Mode    fs.FileMode `json:"-"`
	Text    string      `json:"text,omitempty"`
	Command []string    `json:"command,omitempty"`
}

func (s step) String() string {
	switch s.Do {
	case doRun:
		return "run " + strings.Join(s.Command, " ")
	case doLink:
		return fmt.Sprintf("link %s to %s", s.Path, s.Text)
	case doMkdir, doWrite:
		return fmt.Sprintf("%s %s, mode %04o", s.Do, s.Path, s.Mode.Perm())
	}
	return s.Do + " " + s.Path
}

// service is one of the two services on a host: what should be and what is.
type service struct {
	name   string // "agent", "server"
	unit   string
	path   string   // of the unit's file
	wanted bool     // its configuration is there
	text   string   // what its file should hold, marked
	absent []string // directories that are missing and that the manager does not make
	found  origin   // whose file is there
	same   bool     // and it holds text
	binary string   // the program that it starts; "": unknown
	state  unitState
}

// planInstall lists what makes the services run, now and at each boot; in a root
// that does not run (offline), at boot only. The agent comes first: it is ready
// without the server. A service that runs is restarted if its unit changed.
func planInstall(m manager, services []service, offline bool) []step {
	var steps []step
	written := false
	for _, s := range services {
		for _, dir := range s.absent {
			steps = append(steps, step{Do: doMkdir, Path: dir, Mode: 0o700})
		}
		if !s.same {
			steps = append(steps, step{Do: doWrite, Path: s.path, Mode: m.mode, Text: s.text})
			written = true
		}
	}
	if written && !offline && m.reload != nil {
		steps = append(steps, step{Do: doRun, Command: m.reload})
	}
	for _, s := range services {
		if offline && !s.state.enabled {
			steps = append(steps, m.atBoot(s.unit))
		}
		if offline {
			continue
		}
		if !s.state.enabled {
			steps = append(steps, step{Do: doRun, Command: m.call("enable", s.unit)})
		}
		switch {
		case !s.state.active:
			steps = append(steps, step{Do: doRun, Command: m.call("start", s.unit)})
		case !s.same:
			steps = append(steps, step{Do: doRun, Command: m.call("restart", s.unit)})
		}
	}
	return steps
}

// planUninstall lists what takes the services away whose files are ours.
func planUninstall(m manager, services []service, offline bool) []step {
	var steps []step
	for _, s := range services {
		if s.found != originOurs && s.found != originEdited {
			continue
		}
		switch {
		case offline && s.state.enabled:
			steps = append(steps, step{Do: doRemove, Path: m.atBoot(s.unit).Path})
		case !offline:
			if s.state.word != "" && s.state.word != "inactive" {
				steps = append(steps, step{Do: doRun, Command: m.call("stop", s.unit)})
			}
			if s.state.enabled {
				steps = append(steps, step{Do: doRun, Command: m.call("disable", s.unit)})
			}
		}
		steps = append(steps, step{Do: doRemove, Path: s.path})
	}
	if len(steps) > 0 && !offline && m.reload != nil {
		steps = append(steps, step{Do: doRun, Command: m.reload})
	}
	return steps
}

// refuseEdited refuses to touch what somebody wrote by hand.
func refuseEdited(verb string, services []service) error {
	for _, s := range services {
		switch {
		case s.found == originEdited:
			return failed(fmt.Sprintf("keep your changes in a file of your own (\"systemctl edit %s\", or rc.conf), or let --yes take them away", s.unit),
				"%s service: %s was edited by hand", verb, s.path)
		case s.found == originForeign && verb == "install":
			return failed("look whether it is still needed; --yes writes over it", "%s service: %s is there, and not written by meshvpc", verb, s.path)
		}
	}
	return nil
}
