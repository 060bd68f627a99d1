package watcher

import (
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// TestUnreadableRecordsAreTold: a record that cannot be read leaves the host as
// it is, and the node's status says so and names it, until it can be read.
func TestUnreadableRecordsAreTold(t *testing.T) {
	for name, key := range map[string]string{
		"net":        cluster.KeyVPCNet("vpc1"),
		"member":     cluster.KeyMember("vpc1", "n2"),
		"own member": cluster.KeyMember("vpc1", "n1"),
		"assignment": cluster.KeyHostVPC("n1", "vpc1"),
		"config":     cluster.KeyConfig,
		"own node":   cluster.KeyNode("n1"),
	} {
		for kind, spoilt := range map[string]struct{ value, cause string }{
			"garbage": {"garbage \x1b[31m", "invalid JSON"},
			"newer":   {`{"needs":99}`, "record needs a newer meshvpc: version 99"},
			"wrong":   {`[]`, "invalid"},
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := mesh(t)
					defer w.close()
					good, err := w.kv.Range(t.Context(), mvcc.RangeRequest{Key: key})
					if err != nil || len(good.Keys) != 1 {
						t.Fatalf("read %s: %v, %v", key, good.Keys, err)
					}
					w.raw(key, spoilt.value)
					w.settle(2 * time.Minute)
					w.wantWhole("n1")
					got := w.problems("n1")
					for _, want := range []string{"keeping the last good state: ", key, spoilt.cause} {
						if !strings.Contains(got, want) {
							t.Errorf("problems = %q; want %q in them", got, want)
						}
					}
					if strings.Contains(got, "\x1b") {
						t.Errorf("control characters in %q", got)
					}
					w.stop["n1"]()
					w.start("n1") // the next agent knows the record only by the cache
					w.settle(2 * time.Minute)
					w.wantWhole("n1")
					if got := w.problems("n1"); !strings.Contains(got, key) {
						t.Errorf("problems that the next agent tells of = %q; want %q in them", got, key)
					}
					w.raw(key, string(good.Keys[0].Value))
					w.settle(2 * time.Minute)
					w.wantWhole("n1")
					if got := w.problems("n1"); got != "" {
						t.Errorf("problems once the record is mended = %q; want none", got)
					}
				})
			})
		}
	}
}
