package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/watcher"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// Without a store, status answers within 2 s from what the agent knows.
func TestStatusWithoutStore(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("MESHVPC_RUN_DIR", dir)
	t.Setenv("MESHVPC_CONFIG", filepath.Join(dir, "client.yaml"))
	if err := writeConfig(filepath.Join(dir, "client.yaml"), clientConfig{Endpoints: []string{freeAddress(t)}}); err != nil {
		t.Fatal(err)
	}
	state := watcher.State{Node: "a", StaleSince: cluster.At(time.Now().Add(-time.Hour)), StaleError: "gone\x1b[2J",
		Ports:    []local.Attached{{Endpoint: "web1", VPC: "vpc1", State: cluster.PortReady, Dropped: map[string]uint64{"mac": 9, "arp": 3}}},
		Problems: []string{"disk full"}, VPCs: map[string]watcher.VPCDetail{"vpc1": {VPCStatus: cluster.VPCStatus{Ready: true,
			Links: []cluster.Link{{Peer: "b", State: cluster.LinkDown, Reason: "no answer"}}}}}}
	serveSocket(t, filepath.Join(dir, "agent.sock"), state)
	var out, errs bytes.Buffer
	start := time.Now()
	code := newProgram(strings.NewReader(""), &out, &errs).run(t.Context(), []string{"meshvpc", "status"})
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
	if code != exitNotSo {
		t.Errorf("exit %d, stderr %s", code, errs.String())
	}
	for _, want := range []string{"what follows is stale since", "this host: disk full", "VPC vpc1: the link to b is down: no answer",
		"note: this host: endpoint web1 of VPC vpc1: 12 frames dropped that it may not send: arp 3, mac 9"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Errorf("control characters in %q", out.String())
	}
}

// TestStatusOfSlowStore: that the agent has not lost the store does not mean
// that it reaches it, nor that the endpoints are wrong.
func TestStatusOfSlowStore(t *testing.T) {
	slow := &unreachable{[]string{"192.0.2.1:2379"}, statusStore, "client.yaml", mvcc.ErrUnavailable}
	lost := watcher.State{StaleSince: cluster.At(time.Unix(1800000000, 0))}
	for name, tt := range map[string]struct {
		agent watcher.State
		want  finding
	}{
		"the agent noticed nothing": {watcher.State{}, finding{
			"reach the store at 192.0.2.1:2379: no answer within 1.5s; this host's agent has not noticed that it lost the store, what follows is what it knows",
			"meshvpc status --timeout 15s, if the store is slow; if that has no answer either: meshvpc server, on the servers, and see the endpoints of " + clientPath("")}},
		"the agent lost it, too": {lost, finding{
			"reach the store at 192.0.2.1:2379: no answer within 1.5s; what follows is stale since " + stamp(lost.StaleSince),
			"meshvpc server, on the servers; traffic goes on meanwhile"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff([]finding{tt.want}, judgeLocal(tt.agent, slow).Problems); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// viewOf is a view of a store that holds records as their writers wrote them.
func viewOf(t *testing.T, records map[string]cluster.Record) *store.View {
	t.Helper()
	kv := mvcc.NewMemory(mvcc.Config{})
	for key, r := range records {
		b, err := cluster.Encode(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kv.Txn(t.Context(), mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Put(key, b)}}); err != nil {
			t.Fatal(err)
		}
	}
	v := store.NewView()
	if err := store.NewFeed(cluster.Root).Begin(t.Context(), store.New(kv, cluster.Identity{Role: cluster.Operator}), v); err != nil {
		t.Fatal(err)
	}
	return v
}

// All keys under vpcs/ and hosts/ deleted by mistake: hosts say that they hold.
func TestStatusOfVanishedRecords(t *testing.T) {
	records := map[string]cluster.Record{
		cluster.KeyConfig:    &cluster.Config{Cluster: "c", ID: "c1", Era: 1, UnderlayPort: 4789, VNIs: cluster.DefaultVNIRange},
		cluster.KeyLeader:    &cluster.Leader{Name: "a"},
		cluster.KeyNode("a"): &cluster.Node{ID: "id-a", Datacenter: "dc1", State: cluster.NodeActive, Agent: true},
		cluster.KeyLive("a"): &cluster.Live{NodeID: "id-a"},
	}
	if r := judge(viewOf(t, records)); len(r.Problems) != 0 {
		t.Fatalf("problems before: %+v", r.Problems)
	}
	records[cluster.KeyVPCStatus("a", "vpc1")] = &cluster.VPCStatus{NodeID: "id-a", State: cluster.HostHolding, VNI: 10000, MTU: 1430, Reason: "gone"}
	records[cluster.KeyVPCStatus("a", "old")] = &cluster.VPCStatus{NodeID: "id-a", State: cluster.HostLeft}
	r := judge(viewOf(t, records))
	want := []finding{{
		"VPC vpc1: all its records are gone; a keep what they have (VNI 10000)",
		"meshvpc vpc create vpc1, as it was: VNI and addresses are found again; then delete it if it is not wanted",
	}}
	if diff := cmp.Diff(want, r.Problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

// A datacenter that is off is told by its nodes, not by each of their links;
// of many links that are down between live hosts the first are told.
func TestStatusOfManyLinks(t *testing.T) {
	const n = 6
	records := map[string]cluster.Record{
		cluster.KeyConfig:          &cluster.Config{Cluster: "c", ID: "c1", Era: 1, UnderlayPort: 4789, VNIs: cluster.DefaultVNIRange},
		cluster.KeyLeader:          &cluster.Leader{Name: "n0"},
		cluster.KeyVPCSpec("vpc1"): &cluster.VPCSpec{State: cluster.VPCActive, Members: cluster.SelectAll, PeerNetwork: cluster.DefaultPeerNetwork},
		cluster.KeyVPCNet("vpc1"):  &cluster.VPCNet{Phase: cluster.PhaseActive, VNI: 10000, MTU: 1430, PeerNetwork: cluster.DefaultPeerNetwork},
	}
	for i := range n {
		name, vtep := fmt.Sprint("n", i), netip.AddrFrom4([4]byte{10, 100, 0, byte(i + 1)})
		records[cluster.KeyNode(name)] = &cluster.Node{ID: "id-" + name, Datacenter: "dc1", State: cluster.NodeActive, Agent: true}
		records[cluster.KeyMember("vpc1", name)] = &cluster.Member{NodeID: "id-" + name, Datacenter: "dc1", VTEP: vtep,
			UnderlayIPv4: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), Transport: cluster.Multipoint}
		status := &cluster.VPCStatus{NodeID: "id-" + name, State: cluster.HostMember, Ready: true, VNI: 10000, MTU: 1430, VTEP: vtep}
		for j := range n {
			if i != j {
				status.Links = append(status.Links, cluster.Link{Peer: fmt.Sprint("n", j), State: cluster.LinkDown})
			}
		}
		records[cluster.KeyVPCStatus(name, "vpc1")] = status
		if i > 0 {
			records[cluster.KeyLive(name)] = &cluster.Live{NodeID: "id-" + name}
		}
	}
	var got []string
	for _, p := range judge(viewOf(t, records)).Problems {
		got = append(got, p.What)
	}
	want := []string{"node n0: its agent is not live",
		"VPC vpc1: link n1 – n2 is down", "VPC vpc1: link n1 – n3 is down", "VPC vpc1: link n1 – n4 is down", "VPC vpc1: link n1 – n5 is down",
		"VPC vpc1: link n2 – n3 is down", "VPC vpc1: link n2 – n4 is down", "VPC vpc1: link n2 – n5 is down", "VPC vpc1: link n3 – n4 is down",
		"VPC vpc1: 2 more links are down"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func serveSocket(t *testing.T, path string, body any) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(body); err != nil {
			t.Error(err)
		}
	})}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		<-ended
	})
}

// Plan prints what the agent says, and nothing if there is nothing.
func TestPlanFromAgent(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("MESHVPC_RUN_DIR", dir)
	serveSocket(t, filepath.Join(dir, "agent.sock"), watcher.Plan{Operations: []watcher.PlannedOp{{VPC: "vpc1", Operation: "set MTU of vpc1: 1430"}}, Problems: []string{"no\x07"}})
	var out, errs bytes.Buffer
	if code := newProgram(strings.NewReader(""), &out, &errs).run(t.Context(), []string{"meshvpc", "plan"}); code != exitDone {
		t.Fatalf("exit %d: %s", code, errs.String())
	}
	if want := "problem: no?\nvpc1: set MTU of vpc1: 1430\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
