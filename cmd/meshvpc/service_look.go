package main

import (
	"context"
	"errors"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// lookSystemd asks systemd for a unit; one that does not exist is inactive.
func lookSystemd(ctx context.Context, run runner, unit string) (unitState, error) {
	out, err := run(ctx, "systemctl", "show", "--property=ActiveState,SubState,UnitFileState,ActiveEnterTimestamp,MainPID", unit)
	if err != nil {
		return unitState{}, err
	}
	return parseShow(out), nil
}

// parseShow reads the output of systemctl show, made in English and UTC.
func parseShow(out string) unitState {
	v := map[string]string{}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		v[key] = value
	}
	s := unitState{enabled: strings.HasPrefix(v["UnitFileState"], "enabled"), active: v["ActiveState"] == "active", word: v["ActiveState"]}
	if sub := v["SubState"]; sub != "" && sub != "dead" {
		s.word += " (" + sub + ")"
	}
	s.pid, _ = strconv.Atoi(v["MainPID"]) // 0 otherwise: unknown
	if s.active {
		s.since, _ = time.Parse("Mon 2006-01-02 15:04:05 MST", v["ActiveEnterTimestamp"]) // zero otherwise: unknown
	}
	return s
}

// rcPID finds the pid in "meshvpc_agent is running as pid 123."
var rcPID = regexp.MustCompile(` is running as pid (\d+)`)

// lookRCD asks rc.d for a script; one that does not exist is inactive. The pid
// that rc.d knows is the supervisor's, daemon(8): the service's own is unknown.
func lookRCD(ctx context.Context, run runner, unit string) (unitState, error) {
	_, err := run(ctx, "service", unit, "enabled")
	if !ended(err) {
		return unitState{}, err
	}
	s := unitState{enabled: err == nil, word: "inactive"}
	out, err := run(ctx, "service", unit, "status")
	if !ended(err) {
		return unitState{}, err
	}
	if s.active = err == nil; !s.active {
		return s, nil
	}
	s.word = "active"
	if pid := rcPID.FindStringSubmatch(out); pid != nil {
		if out, err := run(ctx, "ps", "-o", "lstart=", "-p", pid[1]); err == nil {
			s.since, _ = time.Parse(time.ANSIC, strings.TrimSpace(out)) // zero otherwise: unknown
		}
	}
	return s, nil
}

// ended reports whether a command ran to its end, which may be a no.
func ended(err error) bool {
	_, no := errors.AsType[*exec.ExitError](err)
	return err == nil || no
}
