package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/meshvpc/meshvpc/"

// imports is which of our packages each part may import; a part is the longest
// of these names that a package's path begins with.
var imports = map[string][]string{
	"cluster":                   {},
	"cluster/backup":            {},
	"cluster/document":          {"cluster"},
	"deployments":               {},
	"cluster/mvcc":              {},
	"cluster/store":             {"cluster", "cluster/mvcc"},
	"cluster/engine/etcd":       {},
	"cluster/engine/client":     {"cluster/mvcc"},
	"cluster/engine/external":   {"cluster", "cluster/engine/client", "cluster/engine/etcd"},
	"cluster/engine/enginetest": {"cluster/mvcc", "cluster/engine/etcd", "cluster/engine/client"},
	"cluster/membership":        {"cluster", "cluster/membership/voters", "cluster/mvcc", "cluster/store"},
	"cluster/membership/reach":  {},
	"cluster/membership/voters": {},
	"allocator":                 {"cluster", "cluster/mvcc", "cluster/store"},
	"controller":                {"cluster", "cluster/store", "allocator", "controller/failover"},
	"controller/failover":       {"cluster"},
	"hostops":                   {"cluster"},
	"hostops/linux":             {"cluster", "hostops"},
	"hostops/fake":              {"cluster", "hostops"},
	"hostops/hosttest":          {"cluster", "hostops"},
	"watcher":                   {"cluster", "cluster/mvcc", "cluster/store", "hostops", "watcher/hooks", "watcher/local", "watcher/observe"},
	"watcher/hooks":             {"cluster"},
	"watcher/observe":           {"cluster", "cluster/membership/reach", "cluster/store"},
	"watcher/local":             {"cluster"},
	"watcher/cni":               {"cluster", "watcher/local"},
	"integration/lab":           {},
	"integration/sim":           {"cluster", "cluster/mvcc", "cluster/store", "controller", "hostops", "hostops/fake", "watcher", "watcher/local"},
	"integration/demo":          {"integration/lab"},
	"integration/bench":         {},
	"integration/history":       {},
	"cmd/meshvpc": {"cluster", "cluster/backup", "cluster/document", "cluster/mvcc", "cluster/store", "cluster/engine/etcd", "cluster/engine/client", "cluster/engine/external",
		"cluster/membership", "cluster/membership/reach", "cluster/membership/voters", "allocator", "controller", "controller/failover", "hostops", "hostops/linux", "watcher", "watcher/cni", "watcher/hooks", "watcher/local", "watcher/observe", "deployments", "integration/lab", "integration/demo"},
}

// TestImportsPointOneWay holds the table of CONTRIBUTING.md true, for the code
// itself; tests may reach further.
func TestImportsPointOneWay(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "../...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for d := json.NewDecoder(bytes.NewReader(out)); ; seen++ {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		if name == "integration" {
			continue
		}
		allowed, known := imports[name]
		if !known {
			t.Errorf("package %s is in no row of the table", name)
		}
		for _, i := range p.Imports {
			if own, ok := strings.CutPrefix(i, module); ok && !slices.Contains(allowed, own) {
				t.Errorf("%s imports %s, which the table does not allow", name, own)
			}
		}
	}
	if seen < 10 {
		t.Fatalf("go list named %d packages; want all of them", seen)
	}
}
