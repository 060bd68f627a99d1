package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/meshvpc/meshvpc/integration/lab"
)

type finding struct{ Grade, Check, What, Mend string }

// diagnosis is `doctor -o json`.
type diagnosis struct {
	OK       bool
	Findings []finding
	Checks   []struct{ Check, Result, Detail string }
}

// doctor asks a host, with time for a machine that is busy.
func (m *mesh) doctor(ctx context.Context, host string) (d diagnosis, code int) {
	m.t.Helper()
	var out, words bytes.Buffer
	code, err := m.Lab.Exec(ctx, lab.Command{Host: host, Argv: []string{"meshvpc", "doctor", "-o", "json", "--timeout", "20s"}, Stdout: &out, Stderr: &words})
	m.must(err)
	if err := json.Unmarshal(out.Bytes(), &d); err != nil {
		m.t.Fatalf("doctor on %s: exit %d: %v %s", host, code, err, &words)
	}
	return d, code
}

// TestDoctor asks healthy hosts, then one with a peer that large packets do not
// reach any more.
func TestDoctor(t *testing.T) {
	for _, underlay := range []lab.Underlay{lab.IPv6, lab.IPv4} {
		t.Run(string(underlay), func(t *testing.T) {
			ctx := within(t)
			m := newMesh(t, underlay)
			m.awaitPings(ctx)
			for _, host := range m.hosts {
				m.must(m.Until(ctx, func() error { // reports of links come a moment later
					d, code := m.doctor(ctx, host)
					for _, f := range d.Findings {
						if f.Grade != "note" && f.Check != "disk" { // a disk's speed is the machine's
							return fmt.Errorf("%s: %+v", host, f)
						}
					}
					for _, c := range d.Checks {
						if c.Result == "skipped" && (c.Check != "server" || host == m.Server) {
							return fmt.Errorf("%s: %+v", host, c)
						}
					}
					if d.OK != (code == 0) || !d.OK && code != 3 {
						return fmt.Errorf("%s: ok %v, exit %d", host, d.OK, code)
					}
					return nil
				}))
			}
			narrow := m.hosts[2]
			m.must(m.Lab.Tamper(ctx, narrow, "", "link-mtu", lab.UnderlayDevice, "1396"))
			m.must(m.Until(ctx, func() error {
				d, code := m.doctor(ctx, m.hosts[1])
				for _, f := range d.Findings {
					// A veth has room for a VLAN tag of 4 bytes beyond its MTU.
					if code == 3 && f.Check == "path MTU" && f.Grade == "problem" && strings.Contains(f.What, "the path to "+narrow+" ") &&
						strings.Contains(f.What, " 1400 bytes") && strings.Contains(f.Mend, fmt.Sprintf("meshvpc vpc set vpc1 --mtu %d", 1400-overhead[underlay])) {
						return nil
					}
				}
				return fmt.Errorf("exit %d: %+v", code, d)
			}))
			m.must(m.Lab.Kill(ctx, m.Server, "server"))
			d, code := m.doctor(ctx, m.Server)
			if code != 3 || len(d.Findings) == 0 || d.Findings[0].Check != "server" {
				t.Errorf("without a server: exit %d, %+v", code, d)
			}
		})
	}
}

// overhead of a tunnel in bytes.
var overhead = map[lab.Underlay]int{lab.IPv6: 70, lab.IPv4: 50}
