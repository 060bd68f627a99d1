package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestUnits compares the units for a host with paths of its own to golden files,
// and those for a host with the usual ones to the files in deployments.
func TestUnits(t *testing.T) {
	own := places{"/opt/meshvpc/bin/meshvpc", dirs{"/etc/nets/meshvpc", "/srv/meshvpc", "/run/nets/meshvpc"}}
	for _, m := range []manager{systemd(), rcd()} {
		for _, name := range []string{"agent", "server"} {
			t.Run(m.unit(name), func(t *testing.T) {
				got, err := m.text(name, own, []string{"/srv/store"})
				if err != nil {
					t.Fatal(err)
				}
				golden := filepath.Join("testdata", "units", m.unit(name))
				if *update {
					if err := errors.Join(os.MkdirAll(filepath.Dir(golden), 0o755), os.WriteFile(golden, []byte(marked(got)), 0o644)); err != nil {
						t.Fatal(err)
					}
				}
				if d := cmp.Diff(mustRead(t, golden), marked(got)); d != "" {
					t.Errorf("unit of the %s (-golden +got; -update writes it):\n%s", name, d)
				}
				if program := m.binary.FindStringSubmatch(got); program == nil || program[1] != own.program {
					t.Errorf("the program in it is %q, want %q", program, own.program)
				}
				usual, err := m.text(name, m.usual, nil)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(mustRead(t, filepath.Join("../../deployments", m.folder, m.unit(name))), usual); d != "" {
					t.Errorf("with the usual paths it is not the file for use by hand (-file +got):\n%s", d)
				}
			})
		}
	}
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// mountDirectives begin the directives that give a service a mount namespace of
// its own, systemd.exec(5); those below are not among them though they begin so.
var (
	mountDirectives = []string{"Private", "Protect", "ReadWrite", "ReadOnly", "Inaccessible", "ExecPaths", "NoExecPaths", "Bind",
		"Temporary", "Mount", "Root", "Extension", "DynamicUser", "ProcSubset", "NetworkNamespacePath", "IPCNamespacePath", "LogNamespace", "LoadCredential", "SetCredential", "ImportCredential"}
	mountFree = map[string]bool{"ProtectClock": true}
)

// TestAgentMakesNoMountNamespace: namespaces that the agent pins are for all.
func TestAgentMakesNoMountNamespace(t *testing.T) {
	for _, name := range []string{"agent", "server"} {
		text := mustRead(t, filepath.Join("../../deployments/systemd", systemd().unit(name)))
		var found []string
		for line := range strings.Lines(text) {
			for _, d := range mountDirectives {
				if key, _, _ := strings.Cut(line, "="); strings.HasPrefix(line, d) && !mountFree[key] {
					found = append(found, key)
				}
			}
		}
		if name == "agent" && len(found) > 0 {
			t.Errorf("the agent's unit makes a mount namespace: %v", found)
		}
		if name == "server" && len(found) < 10 {
			t.Errorf("of the server's unit only %v are known to make a mount namespace: the list here is wrong", found)
		}
	}
}

// TestUnitsAreUnderstood has the tools of each manager read its units.
func TestUnitsAreUnderstood(t *testing.T) {
	t.Run("systemd", func(t *testing.T) {
		if _, err := exec.LookPath("systemd-analyze"); err != nil {
			t.Skipf("no systemd here: %v", err)
		}
		for _, name := range []string{"agent", "server"} {
			m := systemd()
			text, err := m.text(name, places{"/bin/true", m.usual.dirs}, nil)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), m.unit(name))
			if err := os.WriteFile(path, []byte(marked(text)), 0o644); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("systemd-analyze", "verify", "--recursive-errors=no", path).CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Errorf("systemd-analyze verify: %v\n%s", err, out)
			}
		}
	})
	t.Run("rc.d", func(t *testing.T) {
		for _, name := range []string{"agent", "server"} {
			path := filepath.Join("../../deployments/rc.d", rcd().unit(name))
			if out, err := exec.Command("sh", "-n", path).CombinedOutput(); err != nil {
				t.Errorf("sh -n %s: %v\n%s", path, err, out)
			}
		}
	})
}

func TestOriginOf(t *testing.T) {
	text := "[Service]\nExecStart=/bin/true\n"
	for name, tt := range map[string]struct {
		text string
		want origin
	}{
		"ours":                {marked(text), originOurs},
		"a line changed":      {strings.Replace(marked(text), "true", "false", 1), originEdited},
		"a line added":        {marked(text) + "Nice=5\n", originEdited},
		"the mark cut short":  {marked(text)[:len(marked(text))-9], originEdited},
		"no mark":             {text, originForeign},
		"empty":               {"", originForeign},
		"without its newline": {strings.TrimSuffix(marked(text), "\n"), originOurs},
	} {
		t.Run(name, func(t *testing.T) {
			if got := originOf(tt.text); got != tt.want {
				t.Errorf("originOf(%q) = %q, want %q", tt.text, got, tt.want)
			}
		})
	}
}

// TestPlans: what is to be done, for hosts in different states.
func TestPlans(t *testing.T) {
	unit := func(m manager, name string, s service) service {
		s.name, s.unit, s.path, s.text = name, m.unit(name), m.dir+"/"+m.unit(name), "text\n"
		return s
	}
	running := unitState{enabled: true, active: true, word: "active (running)"}
	for name, tt := range map[string]struct {
		manager   manager
		service   service
		uninstall bool
		offline   bool
		want      []string
	}{
		"new": {systemd(), service{absent: []string{"/srv/store"}}, false, false,
			[]string{"mkdir /srv/store, mode 0700", "write /etc/systemd/system/meshvpc-agent.service, mode 0644", "run systemctl daemon-reload",
				"run systemctl enable meshvpc-agent.service", "run systemctl start meshvpc-agent.service"}},
		"as it should be": {systemd(), service{found: originOurs, same: true, state: running}, false, false, nil},
		"changed": {systemd(), service{found: originOurs, state: running}, false, false,
			[]string{"write /etc/systemd/system/meshvpc-agent.service, mode 0644", "run systemctl daemon-reload", "run systemctl restart meshvpc-agent.service"}},
		"stopped": {systemd(), service{found: originOurs, same: true, state: unitState{enabled: true, word: "failed"}}, false, false,
			[]string{"run systemctl start meshvpc-agent.service"}},
		"new in rc.d": {rcd(), service{}, false, false,
			[]string{"write /usr/local/etc/rc.d/meshvpc_agent, mode 0555", "run service meshvpc_agent enable", "run service meshvpc_agent start"}},
		"new in an image of rc.d": {rcd(), service{}, false, true,
			[]string{"write /usr/local/etc/rc.d/meshvpc_agent, mode 0555", "write /etc/rc.conf.d/meshvpc_agent, mode 0644"}},
		"away": {systemd(), service{found: originOurs, state: running}, true, false,
			[]string{"run systemctl stop meshvpc-agent.service", "run systemctl disable meshvpc-agent.service",
				"remove /etc/systemd/system/meshvpc-agent.service", "run systemctl daemon-reload"}},
		"away, starting": {systemd(), service{found: originEdited, state: unitState{word: "activating (start)"}}, true, false,
			[]string{"run systemctl stop meshvpc-agent.service", "remove /etc/systemd/system/meshvpc-agent.service", "run systemctl daemon-reload"}},
		"away in rc.d": {rcd(), service{found: originOurs, state: unitState{enabled: true, word: "inactive"}}, true, false,
			[]string{"run service meshvpc_agent disable", "remove /usr/local/etc/rc.d/meshvpc_agent"}},
		"somebody else's": {systemd(), service{found: originForeign, state: running}, true, false, nil},
		"none":            {systemd(), service{}, true, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			plan := planInstall
			if tt.uninstall {
				plan = planUninstall
			}
			var got []string
			for _, s := range plan(tt.manager, []service{unit(tt.manager, "agent", tt.service)}, tt.offline) {
				got = append(got, s.String())
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("plan (-want +got):\n%s", d)
			}
		})
	}
}

func TestServiceJudge(t *testing.T) {
	good := serviceStatus{Service: "agent", Unit: "meshvpc-agent.service", Wanted: true, Installed: true, Enabled: true, Active: true, Version: "0.2.0", Running: "0.2.0"}
	for name, tt := range map[string]struct {
		change        func(*serviceStatus)
		problem, mend string
		down          bool
	}{
		"well":               {func(*serviceStatus) {}, "", "", false},
		"not this host's":    {func(v *serviceStatus) { *v = serviceStatus{} }, "", "", false},
		"of an image":        {func(v *serviceStatus) { v.offline, v.Active = true, false }, "", "", false},
		"not installed":      {func(v *serviceStatus) { v.Installed, v.Active = false, false }, "is not installed", "meshvpc service install --only agent", true},
		"ended":              {func(v *serviceStatus) { v.Active = false }, "does not run", "systemctl start meshvpc-agent.service; journalctl -u meshvpc-agent.service says why it ended", true},
		"by hand":            {func(v *serviceStatus) { v.Enabled = false }, "will not start at the next boot", "systemctl enable meshvpc-agent.service", false},
		"an older one runs":  {func(v *serviceStatus) { v.Running = "0.1.0" }, "runs version 0.1.0, and 0.2.0 is installed", "systemctl restart meshvpc-agent.service", false},
		"unknown version":    {func(v *serviceStatus) { v.Running = "" }, "", "", false},
		"another build runs": {func(v *serviceStatus) { v.replaced = true }, "runs a program that was replaced since", "systemctl restart meshvpc-agent.service", false},
		"an older unit":      {func(v *serviceStatus) { v.outdated = true }, "has a unit that another version wrote", "meshvpc service install --only agent", false},
	} {
		t.Run(name, func(t *testing.T) {
			got := good
			tt.change(&got)
			if down := got.judge(systemd()); down != tt.down || got.Problem != tt.problem || got.Mend != tt.mend {
				t.Errorf("judge = %v, %q, %q; want %v, %q, %q", down, got.Problem, got.Mend, tt.down, tt.problem, tt.mend)
			}
		})
	}
}

// TestLook reads what the service managers print.
func TestLook(t *testing.T) {
	since := time.Date(2026, 11, 24, 19, 0, 0, 0, time.UTC)
	no := exec.Command("false").Run() // ran to its end, and said no
	for name, tt := range map[string]struct {
		manager manager
		prints  map[string]string // by command; others say no
		want    unitState
	}{
		"systemd, running": {systemd(), map[string]string{
			"systemctl show --property=ActiveState,SubState,UnitFileState,ActiveEnterTimestamp,MainPID u": "MainPID=12\nActiveState=active\nSubState=running\nUnitFileState=enabled\nActiveEnterTimestamp=Tue 2026-11-24 19:00:00 UTC\n",
		}, unitState{true, true, "active (running)", since, 12}},
		"systemd, starting": {systemd(), map[string]string{
			"systemctl show --property=ActiveState,SubState,UnitFileState,ActiveEnterTimestamp,MainPID u": "MainPID=12\nActiveState=activating\nSubState=auto-restart\nUnitFileState=enabled-runtime\nActiveEnterTimestamp=Tue 2026-11-24 19:00:00 UTC\n",
		}, unitState{enabled: true, word: "activating (auto-restart)", pid: 12}},
		"systemd, no such unit": {systemd(), map[string]string{
			"systemctl show --property=ActiveState,SubState,UnitFileState,ActiveEnterTimestamp,MainPID u": "MainPID=0\nActiveState=inactive\nSubState=dead\nUnitFileState=\nActiveEnterTimestamp=\n",
		}, unitState{word: "inactive"}},
		"rc.d, running": {rcd(), map[string]string{
			"service u enabled": "", "service u status": "u is running as pid 123.\n", "ps -o lstart= -p 123": "Tue Nov 24 19:00:00 2026\n",
		}, unitState{enabled: true, active: true, word: "active", since: since}},
		"rc.d, no such script": {rcd(), nil, unitState{word: "inactive"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tt.manager.look(t.Context(), func(_ context.Context, command ...string) (string, error) {
				line := strings.Join(command, " ")
				if out, ok := tt.prints[line]; ok {
					return out, nil
				}
				return "", &commandError{command: line, err: no}
			}, "u")
			if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(unitState{})); d != "" || err != nil {
				t.Errorf("look (-want +got): %v\n%s", err, d)
			}
		})
	}
	_, err := systemd().look(t.Context(), func(ctx context.Context, command ...string) (string, error) {
		return runCommand(ctx, "sh", "-c", "echo not booted with systemd; exit 1")
	}, "u")
	if want := `run "sh -c echo not booted with systemd; exit 1": exit status 1: not booted with systemd`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
