package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/watcher"
)

// expired FILE: a client file whose certificate ended a year ago.
func cmdExpired(ts *testscript.TestScript, _ bool, args []string) {
	then := time.Now().AddDate(-2, 0, 0)
	ca, err := membership.NewCA("test", then)
	ts.Check(err)
	c, err := ca.Credential(cluster.Subject{Kind: cluster.SubjectUser, Name: "late"}, nil, then)
	ts.Check(err)
	ts.Check(writeConfig(ts.MkAbs(args[0]), newClientConfig([]string{ts.Getenv("ENDPOINT")}, c)))
}

// said is what was found, one line each, for comparison.
func said(s seen) []string {
	var list []string
	for _, f := range s.found {
		list = append(list, string(f.Grade)+": "+f.What)
		if f.Mend == "" {
			list = append(list, "no mend for it")
		}
	}
	return list
}

// serversIn are servers that vote and answer, one in each datacenter named.
func serversIn(datacenters ...string) (list []serverReport) {
	for i, dc := range datacenters {
		list = append(list, serverReport{Name: string(rune('a' + i)), Datacenter: dc, Voter: true, Healthy: true})
	}
	return list
}

func TestDoctorJudges(t *testing.T) {
	noon := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	year := membership.Period{From: noon.AddDate(0, 0, -1), Until: noon.AddDate(0, 0, 364)}
	paperAt := func(now time.Time, p paper) seen {
		var s seen
		p.name, p.path, p.period, p.mend = "the certificate", "x.crt", year, "renew it"
		judgePaper(&s, p, now)
		return s
	}
	modeOf := func(mode fs.FileMode) seen {
		var s seen
		judgeMode(&s, "x.key", mode)
		return s
	}
	server := func(d disk) disk { d.dir, d.server = "/data", true; return d }
	agent := agentConfig{Node: "a", ID: "id-a"}
	state := func(change func(*watcher.State)) watcher.State {
		s := watcher.State{Node: "a", NodeID: "id-a", Version: "1", Started: cluster.At(noon), VPCs: map[string]watcher.VPCDetail{}}
		change(&s)
		return s
	}
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for name, tt := range map[string]struct {
		got  seen
		want []string
	}{
		"a kernel that can":           {got: judgeKernel(nil, true)},
		"a kernel that cannot":        {judgeKernel([]hostops.Problem{{Reason: "vxlan cannot be used (no such device): load the module: modprobe vxlan"}}, true), []string{"problem: vxlan cannot be used (no such device)"}},
		"an ordinary user cannot see": {got: judgeKernel([]hostops.Problem{{Reason: "missing privilege"}}, false)},

		"an agent that is well": {got: judgeAgent(state(func(*watcher.State) {}), agent)},
		"an agent with another name": {judgeAgent(state(func(s *watcher.State) { s.NodeID = "id-b" }), agent),
			[]string{"problem: the agent runs as node a, and the files say a"}},
		"a node that was removed": {judgeAgent(state(func(s *watcher.State) { s.Left = true }), agent), []string{"problem: this node was removed from the cluster"}},
		"links down and repairs": {judgeAgent(state(func(s *watcher.State) {
			s.Problems, s.Notes = []string{"device vpc1 is not ours"}, []string{"fewer probes"}
			s.VPCs["vpc1"] = watcher.VPCDetail{VPCStatus: cluster.VPCStatus{Ready: true, Repairs: 3, Links: []cluster.Link{{Peer: "b", State: cluster.LinkDown, Reason: "no answer"}, {Peer: "c", State: cluster.LinkUp}}}}
			s.VPCs["vpc2"] = watcher.VPCDetail{VPCStatus: cluster.VPCStatus{Reason: "name is taken"}}
		}), agent), []string{
			"problem: device vpc1 is not ours",
			"problem: VPC vpc1: the link to b is down: no answer",
			"note: VPC vpc1: what others changed of its devices was put right 3 times",
			"problem: VPC vpc2 on this host: name is taken",
			"note: fewer probes",
		}},

		"a server that answers": {got: judgeServing(serverConfig{Name: "a"}, "", nil, "server.yaml")},
		"a server that does not run": {judgeServing(serverConfig{Name: "a"}, "", []error{refused}, "server.yaml"),
			[]string{"problem: server.yaml is there, and no server answers: dial tcp: connection refused"}},
		"a server that moved": {judgeServing(serverConfig{Name: "a"}, "it listens on 10.0.0.1, which this host does not have", nil, "server.yaml"),
			[]string{"problem: the server of this host cannot be reached: it listens on 10.0.0.1, which this host does not have"}},

		"nobody there": {judgeReach("10.0.0.1:2379", "agent.yaml", refused), []string{"problem: 10.0.0.1:2379 cannot be reached: dial tcp: connection refused"}},
		"a silent way": {judgeReach("10.0.0.1:2379", "agent.yaml", context.DeadlineExceeded), []string{"problem: 10.0.0.1:2379 cannot be reached: context deadline exceeded"}},
		"a stranger":   {judgeReach("10.0.0.1:2379", "agent.yaml", fmt.Errorf("%w: of another CA", membership.ErrUntrusted)), []string{"problem: 10.0.0.1:2379: certificate is not trusted: of another CA"}},
		"an ended one there": {judgeReach("10.0.0.1:2379", "agent.yaml", fmt.Errorf("%w: %w: it holds", membership.ErrUntrusted, membership.ErrUntimely)),
			[]string{"problem: 10.0.0.1:2379: certificate is not trusted: not at this time: it holds"}},
		"a strange word": {judgeReach("10.0.0.1:2379", "agent.yaml", errors.New("EOF")), []string{"problem: 10.0.0.1:2379: EOF"}},

		"a quorum":            {got: judgeQuorum(clusterReport{Members: serversIn("x", "y", "z")}, nil)},
		"a node may not look": {got: judgeQuorum(clusterReport{Quorum: true}, nil)},
		"one datacenter":      {judgeQuorum(clusterReport{Members: serversIn("x", "x", "y")}, nil), []string{"note: datacenter x holds 2 of 3 voters: its loss stops changes until it is back (traffic goes on)"}},
		"one of three is gone": {judgeQuorum(clusterReport{Members: append(serversIn("x", "y"), serverReport{Name: "c", Datacenter: "z", Voter: true})}, nil),
			[]string{"problem: server c does not answer", "note: 1 of 3 voters does not answer: the loss of one more stops changes until it is back (traffic goes on)"}},
		"no quorum": {judgeQuorum(clusterReport{}, mvcc.ErrUnavailable), []string{"problem: the store does not answer: changes wait, traffic goes on: " + mvcc.ErrUnavailable.Error()}},
		"no rights": {judgeQuorum(clusterReport{}, mvcc.ErrDenied), []string{"problem: the store lets this host read nothing: not allowed"}},

		"clocks agree":         {got: judgeClock("a:2378", membership.Offset{Low: 4 * time.Second, High: 6 * time.Second})},
		"a slow answer":        {got: judgeClock("a:2378", membership.Offset{Low: -time.Minute, High: time.Minute})},
		"this clock is behind": {judgeClock("a:2378", membership.Offset{Low: time.Hour, High: time.Hour + time.Second}), []string{"problem: the clock of this host is 1h0m0s behind that of the server at a:2378: certificates and times care"}},
		"this clock is ahead":  {judgeClock("a:2378", membership.Offset{Low: -8 * time.Second, High: -7 * time.Second}), []string{"problem: the clock of this host is 7s ahead of that of the server at a:2378: certificates and times care"}},

		"a fresh certificate":     {got: paperAt(noon, paper{renews: true})},
		"about to be renewed":     {got: paperAt(noon.AddDate(0, 0, 243), paper{renews: true})},
		"should have been":        {paperAt(noon.AddDate(0, 0, 250), paper{renews: true}), []string{"soon: the certificate (x.crt) ends on 2027-06-30 12:00 UTC, and should have been renewed by now"}},
		"a person's has time":     {got: paperAt(noon.AddDate(0, 0, 250), paper{soon: soonOfPerson})},
		"a person's ends":         {paperAt(noon.AddDate(0, 0, 344), paper{soon: soonOfPerson}), []string{"soon: the certificate (x.crt) ends on 2027-06-30 12:00 UTC, in 20 days"}},
		"an ended one":            {paperAt(noon.AddDate(2, 0, 0), paper{}), []string{"problem: the certificate (x.crt) ended on 2027-06-30 12:00 UTC, and the clock of this host says 2028-07-01 12:00 UTC"}},
		"one of a future":         {paperAt(noon.AddDate(-1, 0, 0), paper{}), []string{"problem: the certificate (x.crt) holds from 2026-06-30 12:00 UTC, and the clock of this host says 2025-07-01 12:00 UTC: the clock is wrong, here or where it was made"}},
		"a key of its owner's":    {got: modeOf(0o600)},
		"a key that may not even": {got: modeOf(0o400)},
		"a key of everybody's":    {modeOf(0o644), []string{"problem: x.key holds a key, and others may use it: its mode is 0644"}},

		"a good disk":          {got: judgeDisk(server(disk{free: 2 << 30, sync: 10 * time.Millisecond}))},
		"a full disk":          {judgeDisk(server(disk{free: 900 << 20})), []string{"soon: 900 MiB free for /data, less than 1.0 GiB: a store without space stops"}},
		"no space":             {judgeDisk(server(disk{free: 63 << 20})), []string{"problem: 63 MiB free for /data: the server ends as what is left fills up, and starts again with 64 MiB"}},
		"a slow disk":          {judgeDisk(server(disk{free: 2 << 30, sync: 80 * time.Millisecond})), []string{"soon: a sync of the disk of /data takes 80ms, more than 50ms: changes are slow, and leaders are lost"}},
		"a disk of no server":  {got: judgeDisk(disk{dir: "/data", free: 900 << 20, sync: time.Second})},
		"a disk to read only":  {judgeDisk(server(disk{free: 2 << 30, err: syscall.EROFS})), []string{"problem: read-only file system"}},
		"a disk of root's":     {got: judgeDisk(server(disk{free: 2 << 30, err: fs.ErrPermission}))},
		"an agent's full disk": {judgeDisk(disk{dir: "/data", free: 1 << 20}), []string{"soon: 1 MiB free for /data, less than 64 MiB: the agent keeps its last good state there"}},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(said(tt.got), tt.want); d != "" {
				t.Errorf("got -, want +:\n%s", d)
			}
		})
	}
}

func TestDoctorReport(t *testing.T) {
	one := seen{good: "looked"}
	one.add(gradeNote, "n", "noted")
	two := seen{}
	two.add(gradeSoon, "s", "coming")
	two.add(gradeProblem, "p", "broken")
	got := reportOf([]examined{{"one", one}, {"two", two}, {"three", seen{good: "well"}}, {"four", skip("not here")}})
	want := doctorReport{
		Findings: []symptom{{gradeProblem, "two", "broken", "p"}, {gradeSoon, "two", "coming", "s"}, {gradeNote, "one", "noted", "n"}},
		Checks:   []doctorCheck{{"one", "note", "looked"}, {"two", "problem", "2 findings"}, {"three", "ok", "well"}, {"four", "skipped", "not here"}},
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("got -, want +:\n%s", d)
	}
	if r := reportOf([]examined{{"one", one}}); !r.OK {
		t.Error("a note alone is no reason to fail")
	}
	many := seen{}
	for range 20 {
		many.add(gradeProblem, "p", "the path")
	}
	var out strings.Builder
	newProgram(nil, &out, &out).doctorText(&out, reportOf([]examined{{"one", one}, {"paths", many}}))
	if shown := strings.Count(out.String(), "problem: the path"); shown != mostTold || !strings.Contains(out.String(), "all: meshvpc doctor -o json") {
		t.Errorf("%d are shown:\n%s", shown, &out)
	}
}

func TestDoctorPaths(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	peer4, peer6 := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")
	state := watcher.State{Node: "a",
		Underlay: cluster.Underlay{IPv4: &cluster.UnderlayAddress{Bind: v4}, IPv6: &cluster.UnderlayAddress{Bind: v6}},
		VPCs: map[string]watcher.VPCDetail{
			"vpc1": {VPCStatus: cluster.VPCStatus{MTU: 1430}, Members: map[string]*cluster.Member{
				"a": {UnderlayIPv6: v6}, "b": {UnderlayIPv4: peer4}, "c": {UnderlayIPv4: peer4, UnderlayIPv6: peer6}}},
			"vpc2": {VPCStatus: cluster.VPCStatus{MTU: 1300}, Members: map[string]*cluster.Member{"a": {UnderlayIPv6: v6}, "c": {UnderlayIPv6: peer6}}},
			"vpc3": {Members: map[string]*cluster.Member{"c": {UnderlayIPv6: peer6}}}, // not yet here
		}}
	ways := waysOf(state)
	want := []way{{"vpc1", "b", v4, peer4, 1430}, {"vpc1", "c", v6, peer6, 1430}, {"vpc2", "c", v6, peer6, 1300}}
	if !slices.Equal(ways, want) {
		t.Fatalf("ways %v, want %v", ways, want)
	}
	for name, tt := range map[string]struct {
		found map[netip.Addr]passage
		want  []string
		mend  string
	}{
		"all passes": {found: map[netip.Addr]passage{peer4: {size: 1480}, peer6: {size: 1500}}},
		"one path is narrow": {map[netip.Addr]passage{peer4: {size: 1480}, peer6: {size: 1400}},
			[]string{"problem: the path to c (2001:db8::2) passes packets of 1400 bytes, and VPC vpc1 needs 1500 (its MTU 1430 + 70): larger frames are lost"},
			"meshvpc vpc set vpc1 --mtu 1330, or let 1500 bytes pass on all of that path"},
		"too narrow for a VPC": {map[netip.Addr]passage{peer4: {size: 1300}, peer6: {size: 1500}},
			[]string{"problem: the path to b (192.0.2.2) passes packets of 1300 bytes, and VPC vpc1 needs 1480 (its MTU 1430 + 50): larger frames are lost"},
			"let 1480 bytes pass on all of that path"},
		"no ping is answered": {map[netip.Addr]passage{peer4: {size: 1480}, peer6: {err: hostops.ErrNoAnswer}},
			[]string{"note: the MTU of the path to c is not known: 2001:db8::2 answers no ping"},
			"let ICMP echo in there, if the link is up: meshvpc vpc ping vpc1"},
		"no route": {map[netip.Addr]passage{peer4: {err: syscall.ENETUNREACH}, peer6: {size: 1500}},
			[]string{"problem: nothing can be sent to b: network is unreachable"}, "see the routes and the firewall of this host: ip route get 192.0.2.2"},
		"no time":        {found: map[netip.Addr]passage{peer4: {err: context.DeadlineExceeded}, peer6: {size: 1500}}},
		"no privilege":   {found: map[netip.Addr]passage{peer4: {err: syscall.EPERM}, peer6: {size: 1500}}},
		"another system": {found: map[netip.Addr]passage{peer4: {err: hostops.ErrUnsupported}, peer6: {size: 1500}}},
	} {
		t.Run(name, func(t *testing.T) {
			s := judgePaths(ways, tt.found)
			if d := cmp.Diff(said(s), tt.want); d != "" {
				t.Errorf("got -, want +:\n%s", d)
			}
			if len(s.found) > 0 && s.found[0].Mend != tt.mend {
				t.Errorf("mend: %s", s.found[0].Mend)
			}
		})
	}
}

func TestDoctorUnderlay(t *testing.T) {
	a, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9")
	v6 := netip.MustParseAddr("2001:db8::1")
	at := func(a netip.Addr) *cluster.UnderlayAddress {
		return &cluster.UnderlayAddress{Bind: a, Advertise: a, Device: "u0", MTU: 1500}
	}
	state := watcher.State{Node: "b", Underlay: cluster.Underlay{IPv4: at(a)}, VPCs: map[string]watcher.VPCDetail{}}
	as := func(v4, v6 netip.Addr) {
		state.VPCs["blue"] = watcher.VPCDetail{Members: map[string]*cluster.Member{"b": {UnderlayIPv4: v4, UnderlayIPv6: v6}, "c": {UnderlayIPv4: other}}}
	}
	check := func(what string, got seen, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, said(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	check("in no VPC", judgeUnderlay(state, nil))
	as(a, netip.Addr{})
	check("all is well", judgeUnderlay(state, map[netip.Addr]bool{a: false}))
	check("silent", judgeUnderlay(state, map[netip.Addr]bool{a: true}),
		"problem: the agent does not answer at 192.0.2.1, UDP port 4788, where the servers ask whether this host is there")
	as(other, netip.Addr{})
	check("the old address", judgeUnderlay(state, nil),
		"problem: this host says that it is at 192.0.2.1, which is not confirmed, or another node's: peers send to 192.0.2.9")
	state.Underlay.IPv6 = at(v6)
	as(a, netip.Addr{})
	check("a second family", judgeUnderlay(state, nil),
		"note: this host says that it is at 2001:db8::1, which is not confirmed, or another node's: peers do without it")
}

func TestDoctorOthers(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	dir := &fstest.MapFile{Mode: fs.ModeDir}
	told := fstest.MapFS{"run/NetworkManager": dir, "run/systemd/netif": dir, "run/udev/control": file("")}
	for _, m := range managers {
		b, err := os.ReadFile(filepath.Join("../../deployments", m.file))
		if err != nil {
			t.Fatal(err)
		}
		told[path.Join(m.dirs[0], filepath.Base(m.file))] = file(string(b))
	}
	both := []dropper{{"ip filter FORWARD", false, []string{"vpc1", "vpc2"}}, {"inet firewalld filter_FORWARD", true, []string{"vpc1"}}}
	for name, tt := range map[string]struct {
		root    fstest.MapFS
		tunnels []tunnel
		drops   []dropper
		want    []string
	}{
		"nothing there": {},
		"all were told": {root: told},
		"networkd was not": {root: fstest.MapFS{"run/systemd/netif": dir, "etc/systemd/network/10-eth.network": file("[Match]\nName=eth0")},
			want: []string{"note: systemd-networkd runs, and no file of /etc/systemd/network tells it to leave our devices alone"}},
		"other overlays": {tunnels: []tunnel{{"mv6-10000", 10000, 4790, true}, {"flannel.1", 1, 8472, false}, {"vx0", 7, 4790, false}, {"vx1", 8, 4789, false}},
			want: []string{"note: vxlan device vx0 is not ours and has our UDP port 4790: no VPC can have its VNI 7 on this host, and devices with other flags cannot come up"}},
		"bridges pass iptables": {root: fstest.MapFS{"proc/sys/net/bridge/bridge-nf-call-iptables": file("1\n")}, drops: both,
			want: []string{"problem: IPv4 within VPC vpc1, vpc2 is dropped: net.bridge.bridge-nf-call-iptables has it pass this host's packet filter, where no rule of chain ip filter FORWARD accepts it"}},
		"and ip6tables": {root: fstest.MapFS{"proc/sys/net/bridge/bridge-nf-call-ip6tables": file("1\n")}, drops: both,
			want: []string{"problem: IPv6 within VPC vpc1 is dropped: net.bridge.bridge-nf-call-ip6tables has it pass this host's packet filter, where no rule of chain inet firewalld filter_FORWARD accepts it"}},
		"they pass, and nothing drops":   {root: fstest.MapFS{"proc/sys/net/bridge/bridge-nf-call-iptables": file("1\n")}},
		"it drops, and they do not pass": {root: fstest.MapFS{"proc/sys/net/bridge/bridge-nf-call-iptables": file("0\n")}, drops: both},
		"it drops, and nothing can pass": {drops: both},
	} {
		t.Run(name, func(t *testing.T) {
			var s seen
			judgeManagers(&s, tt.root)
			judgeTunnels(&s, tt.tunnels)
			judgeForward(&s, tt.root, tt.drops)
			if d := cmp.Diff(said(s), tt.want); d != "" {
				t.Errorf("got -, want +:\n%s", d)
			}
		})
	}
}

// TestDoctorEnds: a look that hangs is left behind.
func TestDoctorEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung := make(chan struct{})
		defer close(hung)
		ctx, cancel := context.WithTimeout(t.Context(), doctorLook)
		defer cancel()
		start := time.Now()
		got := examine(ctx, []look{
			{"hangs", func(context.Context) seen { <-hung; return seen{} }},
			{"waits", func(ctx context.Context) seen { <-ctx.Done(); return seen{good: "heard"} }},
		})
		if took := time.Since(start); took != doctorLook+doctorGrace {
			t.Errorf("it took %s", took)
		}
		if got[0].seen.skipped == "" || got[1].seen.good != "heard" {
			t.Errorf("got %+v", got)
		}
	})
}
