package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/integration/demo"
	"github.com/meshvpc/meshvpc/integration/lab"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// stored is a record as `meshvpc get -o json` prints it.
type stored struct {
	Value json.RawMessage
	Mod   int64 `json:"mod_revision"`
}

// record reads one key, below the root, into v.
func (m *mesh) record(ctx context.Context, key string, v any) (mod int64, err error) {
	var s stored
	if err := m.JSON(ctx, &s, m.Server, "get", key); err != nil {
		return 0, err
	}
	return s.Mod, json.Unmarshal(s.Value, v)
}

// edited is a record with some fields set.
func (m *mesh) edited(ctx context.Context, key string, fields map[string]any) string {
	m.t.Helper()
	var all map[string]any
	_, err := m.record(ctx, key, &all)
	m.must(err)
	for k, v := range fields {
		all[k] = v
	}
	b, err := json.Marshal(all)
	m.must(err)
	return string(bytes.TrimSpace(b))
}

// suspected waits until an observer says of a node what is wanted, nil: nothing.
func (m *mesh) suspected(ctx context.Context, observer, node string, want *cluster.Suspect) {
	m.t.Helper()
	m.must(m.Until(ctx, func() error {
		var v cluster.Verdicts
		if _, err := m.record(ctx, "status/"+observer+"/verdicts", &v); err != nil {
			return err
		}
		var got *cluster.Suspect
		for _, s := range v.Suspects {
			if s.Node == node {
				got = &s
			}
		}
		if v.Unsure || (got == nil) != (want == nil) || got != nil && *got != *want {
			return fmt.Errorf("%s says %+v; want of %s %+v", observer, v, node, want)
		}
		return nil
	}))
}

// fencedUpTo waits until hosts say that they have applied all fences up to a revision.
func (m *mesh) fencedUpTo(ctx context.Context, at int64, hosts ...string) {
	m.t.Helper()
	for _, h := range hosts {
		m.must(m.Until(ctx, func() error {
			var s cluster.FenceStatus
			_, err := m.record(ctx, "status/"+h+"/fences", &s)
			if err == nil && s.Revision < at {
				err = fmt.Errorf("%s says up to %d; want %d", h, s.Revision, at)
			}
			return err
		}))
	}
}

// lost wants nothing that one workload sends another to be answered.
func (m *mesh) lost(ctx context.Context, when, host, namespace string, to local.Attached) {
	m.t.Helper()
	for _, a := range to.Addresses {
		r, err := m.Lab.Ping(ctx, lab.Ping{Host: host, Workload: namespace, To: a.Addr(), Count: 3})
		if err != nil || r.Lost != r.Sent || r.Sent == 0 {
			m.t.Errorf("%s: %s on %s pings %s: %+v, %v; want all lost", when, namespace, host, a, r, err)
		}
	}
}

// TestObserversAndFences: observers tell a frozen agent from a host that is off, the
// witness among them; and what comes from a fenced host arrives nowhere until its fence
// goes, also when agents are killed meanwhile.
func TestObserversAndFences(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	hosts, err := lab.Topology(3, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Start(ctx, lab.Config{Name: "testobservers", Hosts: hosts, Binary: binary})
	mustLab(t, err)
	t.Cleanup(func() {
		for _, h := range hosts[:2] {
			if text, err := os.ReadFile(filepath.Join(l.Disk(h.Name).Log, "agent.log")); err == nil && t.Failed() {
				lines := strings.Split(string(text), "\n")
				t.Logf("agent of %s:\n%s", h.Name, strings.Join(lines[max(0, len(lines)-25):], "\n"))
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	m := &mesh{t: t, Site: &demo.Site{Lab: l, Server: hosts[0].Name, Servers: hosts[3:]}}
	for _, h := range hosts[:3] {
		m.hosts = append(m.hosts, h.Name)
	}
	m.must(m.Found(ctx))
	m.must(m.Join(ctx, m.hosts[1], m.hosts[2], "witness"))
	m.must(m.AwaitNodes(ctx, 3))
	m.create(ctx, "vpc1", "--network", tenants)
	var at []local.Attached
	for i, h := range m.hosts {
		at = append(at, m.inside(ctx, h, fmt.Sprint("web", i+1)))
	}
	m.etcdctl(ctx, "put", cluster.KeyConfig, m.edited(ctx, "config", map[string]any{"failover": "fast"}))
	m.etcdctl(ctx, "put", cluster.KeyEndpointSpec("vpc1", "web3"), m.edited(ctx, "vpcs/vpc1/endpoints/web3/spec",
		map[string]any{"failover": map[string]any{"mode": "stateless", "place": []string{"all"}}}))

	last := m.hosts[2]
	observers := []string{m.hosts[0], m.hosts[1], "witness"}
	for _, o := range observers {
		m.suspected(ctx, o, last, nil)
	}
	m.must(l.Freeze(ctx, last, "agent"))
	for _, o := range observers {
		m.suspected(ctx, o, last, &cluster.Suspect{Node: last, Kernel: true})
	}
	m.fences(ctx, at) // the controller would lift that of a host that is well
	m.must(l.Thaw(ctx, last, "agent"))
	for _, o := range observers {
		m.suspected(ctx, o, last, nil)
	}

	m.must(l.PowerOff(ctx, last))
	for _, o := range observers {
		m.suspected(ctx, o, last, &cluster.Suspect{Node: last})
	}
}

// fences fences the last host, whose agent is frozen and whose kernel serves, and lifts
// that.
func (m *mesh) fences(ctx context.Context, at []local.Attached) {
	m.t.Helper()
	last := m.hosts[2]
	m.reached(ctx, m.hosts[0], "web1", at[1].Addresses...)
	m.reached(ctx, m.hosts[0], "web1", at[2].Addresses...)
	var node cluster.Node
	_, err := m.record(ctx, "nodes/"+last, &node)
	m.must(err)
	var member cluster.Member
	_, err = m.record(ctx, "vpcs/vpc1/members/"+last, &member)
	m.must(err)
	f, err := json.Marshal(&cluster.Fence{NodeID: node.ID, Underlay: member.Underlays(), Why: "a test", Since: cluster.At(time.Now())})
	m.must(err)
	m.etcdctl(ctx, "put", cluster.KeyFence(last), string(f))
	mod, err := m.record(ctx, "fences/"+last, &cluster.Fence{})
	m.must(err)
	m.fencedUpTo(ctx, mod, m.hosts[:2]...)
	m.lost(ctx, "fenced", m.hosts[0], "web1", at[2])
	m.lost(ctx, "fenced", last, "web3", at[1])
	m.reached(ctx, m.hosts[0], "web1", at[1].Addresses...)
	for i, h := range m.hosts[:2] {
		m.must(m.Lab.Kill(ctx, h, "agent"))
		m.lost(ctx, "without an agent", h, fmt.Sprint("web", i+1), at[2])
		m.must(m.Lab.StartServices(ctx, h, "agent"))
		m.must(m.Until(ctx, func() error { return m.nothingToDo(ctx, h) }))
	}
	m.lost(ctx, "agents began anew", m.hosts[0], "web1", at[2])
	m.lost(ctx, "agents began anew", m.hosts[1], "web2", at[2])
	m.etcdctl(ctx, "del", cluster.KeyFence(last))
	for i, h := range m.hosts[:2] {
		m.must(m.Until(ctx, func() error {
			r, err := m.Lab.Ping(ctx, lab.Ping{Host: h, Workload: fmt.Sprint("web", i+1), To: at[2].Addresses[0].Addr(), Count: 1})
			if err == nil && r.Lost > 0 {
				err = fmt.Errorf("no answer")
			}
			return err
		}))
		m.reached(ctx, h, fmt.Sprint("web", i+1), at[2].Addresses...)
	}
}
