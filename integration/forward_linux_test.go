package integration

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// TestForwardDrop: Docker's rules on a host drop what a VPC's bridge forwards when
// br_netfilter hands it over to them. doctor says so, and the commands that it
// prints mend it.
func TestForwardDrop(t *testing.T) {
	lengthy(t)
	ctx := patient(t)
	m := newMesh(t, lab.IPv6)
	host := m.hosts[1]
	add := func(i int, name, v4, v6 string) lab.Workload {
		w := lab.Workload{Host: m.hosts[i], Name: name, VPC: "vpc1", Prefixes: []netip.Prefix{netip.MustParsePrefix(v4), netip.MustParsePrefix(v6)}}
		m.must(m.Lab.AddWorkload(ctx, w))
		return w
	}
	here := add(1, "here", "10.10.11.21/24", "fd00:11::21/64")
	beside := add(1, "beside", "10.10.11.22/24", "fd00:11::22/64")
	away := add(2, "away", "10.10.11.23/24", "fd00:11::23/64")
	m.awaitPings(ctx)

	// answers are what the workload gets by IPv4, IPv6: from its own host, and over
	// the mesh. A machine that is busy may lose one of three.
	answers := func() (got [4]bool) {
		for i, to := range []netip.Prefix{beside.Prefixes[0], beside.Prefixes[1], away.Prefixes[0], away.Prefixes[1]} {
			r, err := m.Lab.Ping(ctx, lab.Ping{Host: here.Host, Workload: here.Name, To: to.Addr(), Timeout: 500 * time.Millisecond})
			m.must(err)
			got[i] = r.Received > 0
		}
		return got
	}
	const v4, v6 = "bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"
	m.must(m.Lab.Tamper(ctx, host, "", "forward-drop"))
	for _, tt := range []struct {
		v4, v6 string
		want   [4]bool // local IPv4, IPv6, mesh IPv4, IPv6
	}{
		{"0", "0", [4]bool{true, true, true, true}},
		{"1", "0", [4]bool{false, true, false, true}},
		{"0", "1", [4]bool{true, false, true, false}},
		{"1", "1", [4]bool{}},
	} {
		m.must(m.Lab.Tamper(ctx, host, "", "sysctl", v4, tt.v4))
		m.must(m.Lab.Tamper(ctx, host, "", "sysctl", v6, tt.v6))
		if got := answers(); got != tt.want {
			t.Errorf("call-iptables %s, call-ip6tables %s: answers %v, want %v", tt.v4, tt.v6, got, tt.want)
		}
		want := 0
		for _, on := range []string{tt.v4, tt.v6} {
			if on == "1" {
				want++
			}
		}
		if got := m.forwardFindings(ctx, host); len(got) != want {
			t.Errorf("call-iptables %s, call-ip6tables %s: doctor finds %+v, want %d", tt.v4, tt.v6, got, want)
		}
	}
	if d := cmp.Diff(m.forwardFindings(ctx, host), []finding{
		{"problem", "other programs", "IPv4 within VPC vpc1 is dropped: net.bridge.bridge-nf-call-iptables has it pass this host's packet filter, where no rule of chain ip filter FORWARD accepts it",
			"sysctl -w net.bridge.bridge-nf-call-iptables=0 # or, if other bridges need it: iptables -I FORWARD -i vpc1 -o vpc1 -j ACCEPT"},
		{"problem", "other programs", "IPv6 within VPC vpc1 is dropped: net.bridge.bridge-nf-call-ip6tables has it pass this host's packet filter, where no rule of chain ip6 filter FORWARD accepts it",
			"sysctl -w net.bridge.bridge-nf-call-ip6tables=0 # or, if other bridges need it: ip6tables -I FORWARD -i vpc1 -o vpc1 -j ACCEPT"},
	}); d != "" {
		t.Errorf("doctor: got -, want +:\n%s", d)
	}
	for _, f := range m.forwardFindings(ctx, host) {
		m.mend(ctx, host, f.Mend)
	}
	if got := answers(); got != [4]bool{true, true, true, true} {
		t.Errorf("mended: answers %v", got)
	}
	if got := m.forwardFindings(ctx, host); len(got) != 0 {
		t.Errorf("mended: doctor still finds %+v", got)
	}
}

// forwardFindings are those of doctor that are about what a bridge forwards.
func (m *mesh) forwardFindings(ctx context.Context, host string) (list []finding) {
	m.t.Helper()
	d, _ := m.doctor(ctx, host)
	for _, f := range d.Findings {
		if strings.Contains(f.What, "within VPC") {
			list = append(list, f)
		}
	}
	return list
}

// mend types what doctor printed into a host's shell.
func (m *mesh) mend(ctx context.Context, host, command string) {
	m.t.Helper()
	var out bytes.Buffer
	code, err := m.Lab.Exec(ctx, lab.Command{Host: host, Argv: []string{"sh", "-c", command}, Stdout: &out, Stderr: &out})
	if err != nil || code != 0 {
		m.t.Fatalf("%s: exit %d, %v: %s", command, code, err, &out)
	}
}
