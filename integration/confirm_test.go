package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// advertise has the agent of a host report another address than the host has,
// "": its own again.
func (m *mesh) advertise(ctx context.Context, host, other string) {
	m.t.Helper()
	h, err := m.Lab.Host(ctx, host)
	m.must(err)
	path := filepath.Join(m.Lab.Disk(host).Etc, "agent.yaml")
	b, err := os.ReadFile(path)
	m.must(err)
	var cfg map[string]any
	m.must(yaml.Unmarshal(b, &cfg))
	cfg["underlay"] = []string{lab.UnderlayDevice}
	if other != "" {
		cfg["underlay"] = []string{h.Underlay[0].Addr().String() + "=" + other}
	}
	b, err = yaml.Marshal(cfg)
	m.must(err)
	m.must(os.WriteFile(path, b, 0o600))
	m.must(m.Lab.Kill(ctx, host, "agent"))
	m.must(m.Lab.StartServices(ctx, host, "agent"))
}

// TestFalseAddress: a node reports another node's underlay address, then a
// stranger's. Peers go on by the old one, status says whose it is or what was
// asked, and no pair loses a ping, that node's among them.
func TestFalseAddress(t *testing.T) {
	ctx := within(t)
	m := newMesh(t, lab.IPv6)
	liar := m.hosts[2]
	of := func(host string) string {
		h, err := m.Lab.Host(ctx, host)
		m.must(err)
		return h.Underlay[0].Addr().String()
	}
	member := func() string {
		r, err := m.Meshvpc(ctx, m.Server, "get", "vpcs/vpc1/members/"+liar)
		m.must(err)
		return r
	}
	m.through(ctx, func() {
		for _, tt := range []struct{ address, want string }{
			{of(m.hosts[0]), "is " + m.hosts[0] + "'s"},
			{"2001:db8:ffff::1", "is not confirmed"},
		} {
			m.advertise(ctx, liar, tt.address)
			m.must(m.Until(ctx, func() error {
				said, err := m.Meshvpc(ctx, m.Server, "status")
				if want := "VPC vpc1 on " + liar + ": it keeps its underlay address: " + tt.address + ", which it reports as its underlay address, " + tt.want; err == nil || !strings.Contains(said, want) {
					return fmt.Errorf("status lacks %q: %w\n%s", want, err, said)
				}
				return nil
			}))
			if r := member(); !strings.Contains(r, of(liar)) || strings.Contains(r, tt.address) {
				t.Errorf("with %s, peers know it by %s", tt.address, r)
			}
			d, code := m.doctor(ctx, liar)
			if i := slices.IndexFunc(d.Findings, func(f finding) bool { return f.Check == "underlay" }); code != 3 || i < 0 ||
				!strings.Contains(d.Findings[i].What, "this host says that it is at "+tt.address) {
				t.Errorf("doctor there: exit %d, %+v", code, d.Findings)
			}
			for _, host := range m.hosts[:2] {
				peers, err := m.Lab.Flood(ctx, host, "mv6-10000")
				if flooded := strings.Join(peers, " "); err != nil || !strings.Contains(flooded, of(liar)) || strings.Contains(flooded, "2001:db8:ffff::1") {
					t.Errorf("%s floods to %v, %v", host, peers, err)
				}
			}
		}
	})
	m.advertise(ctx, liar, "")
	m.must(m.Until(ctx, func() error {
		said, err := m.Meshvpc(ctx, m.Server, "status")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, said)
		}
		return nil
	}))
	m.awaitPings(ctx)
}

// TestJoinAsksBack: a joiner that is not where it says is told its own and its
// seen address; one that nobody can ask joins by --no-ask-back, and no VPC takes
// it until it can be asked.
func TestJoinAsksBack(t *testing.T) {
	ctx := within(t)
	m := newMesh(t, lab.IPv6)
	_, err := m.Lab.AddHost(ctx, lab.HostConfig{Name: "home", Datacenter: "home"})
	m.must(err)
	home, err := m.Lab.Host(ctx, "home")
	m.must(err)
	server, err := m.Lab.Host(ctx, m.Server)
	m.must(err)
	var token struct {
		Token string `json:"token"`
	}
	m.must(m.JSON(ctx, &token, m.Server, "cluster", "token", "create"))
	file := filepath.Join(m.Lab.Disk("home").Etc, "token")
	m.must(os.WriteFile(file, []byte(token.Token), 0o600))
	own, to := home.Underlay[0].Addr().String(), server.Underlay[0].Addr().String()
	join := func(words ...string) (string, error) {
		return m.Meshvpc(ctx, "home", append([]string{"cluster", "join", to, "--token-file", file, "--name", "home", "--datacenter", "home", "--timeout", "8s"}, words...)...)
	}
	for other, want := range map[string][]string{
		to:                 {to + " is the underlay address of node " + m.Server},
		"2001:db8:ffff::1": {"no answer at 2001:db8:ffff::1", "the connection came from " + own, "forward UDP ports 4788 and 4789", "--no-ask-back"},
	} {
		said, err := join("--underlay", own+"="+other)
		for _, w := range want {
			if err == nil || !strings.Contains(said+err.Error(), w) {
				t.Errorf("join at %s: %v\n%s\nwant %q", other, err, said, w)
			}
		}
	}
	nodes, err := m.Meshvpc(ctx, m.Server, "node", "list")
	if err != nil || strings.Contains(nodes, "home") {
		t.Errorf("a refused host is a node: %v\n%s", err, nodes)
	}
	if said, err := join("--underlay", own+"=2001:db8:ffff::1", "--no-ask-back"); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	m.must(m.Lab.SetServices(ctx, "home", lab.Service{Name: "agent", Argv: []string{"meshvpc", "agent"}}))
	m.must(m.Lab.StartServices(ctx, "home", ""))
	m.must(m.Until(ctx, func() error {
		said, err := m.Meshvpc(ctx, m.Server, "status")
		if want := "VPC vpc1 on home: not admitted: 2001:db8:ffff::1, which it reports as its underlay address, is not confirmed"; err == nil || !strings.Contains(said, want) {
			return fmt.Errorf("status lacks %q: %w\n%s", want, err, said)
		}
		return nil
	}))
	begun := time.Now()
	m.advertise(ctx, "home", "")
	m.must(m.Until(ctx, func() error {
		_, err := m.Meshvpc(ctx, m.Server, "vpc", "wait", "vpc1")
		return err
	}))
	t.Logf("admitted %v after it began to tell the truth", time.Since(begun).Round(time.Millisecond))
	if _, err := m.Meshvpc(ctx, m.Server, "get", "vpcs/vpc1/members/home"); err != nil {
		m.must(errors.Join(errors.New("it is no member"), err))
	}
}
