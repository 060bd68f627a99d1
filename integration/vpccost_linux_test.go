package integration

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// TestVPCCost measures, if MESHVPC_MEASURE=1, what each of up to 200 VPCs of
// three peers takes of a host: the agent's memory, the kernel's (of the whole
// machine, so roughly), and the agent's processor time when nothing changes. As
// TestAgentCost it has the built program on a kernel of its own; it reports, and
// judges nothing.
func TestVPCCost(t *testing.T) {
	measured(t, func() { measureVPCs(t, 1, 10, 50, 100, 200) })
}

func measureVPCs(t *testing.T, stages ...int) {
	const peers = 3
	host := costWire(t)
	records := costStore(t, peers)
	costAnswers(t)
	agent, _ := costAgent(t, host)
	costSettled(t, records, peers, cluster.LinkUp)
	var rss, kernel, had int
	for _, n := range stages {
		start := time.Now()
		for i := max(had, 1) + 1; i <= n; i++ { // the first is there
			costVPC(t, records, i, peers)
		}
		for i := max(had, 1) + 1; i <= n; i++ {
			for !costApplied(t, records, i, peers) {
				if time.Since(start) > 2*time.Minute {
					t.Fatalf("VPC %d is not there", i)
				}
				pause(100 * time.Millisecond)
			}
		}
		took := time.Since(start)
		pause(15 * time.Second) // what the start has mapped is given back
		busy, idle := costRun(t, agent), time.Now()
		pause(time.Minute) // one full look at the host is in it
		busy = costRun(t, agent) - busy
		m, k := costMemory(t, agent, "VmRSS"), costKernel(t)
		line := fmt.Sprintf("%d VPCs: RSS %d kB, peak %d kB, CPU %.2f %%, threads %d", n, m, costMemory(t, agent, "VmHWM"),
			100*busy.Seconds()/time.Since(idle).Seconds(), costMemory(t, agent, "Threads"))
		if had > 0 {
			more := float64(n - had)
			line += fmt.Sprintf("; each more: RSS %.0f kB, kernel %.0f kB, %.0f ms", float64(m-rss)/more, float64(k-kernel)/more,
				took.Seconds()*1000/more)
		}
		t.Log(line)
		rss, kernel, had = m, k, n
	}
}

// costVPC writes the records of another VPC with the first one's members.
func costVPC(t *testing.T, records *store.Store, i, peers int) {
	vpc := fmt.Sprint("vpc", i)
	var c store.Change
	store.Set(&c, cluster.KeyVPCNet(vpc), &cluster.VPCNet{Phase: cluster.PhaseActive, VNI: cluster.VNI(10000 + i), MTU: 1430,
		PeerNetwork: netip.MustParsePrefix("10.100.0.0/16")}, nil, 0)
	for m := 1; m <= peers+1; m++ {
		name, underlay := fmt.Sprintf("n%d", m), costPeer(m)
		if m == 1 {
			underlay = costHost.Addr()
		}
		store.Set(&c, cluster.KeyMember(vpc, name), &cluster.Member{NodeID: "id-" + name, Datacenter: "dc1",
			VTEP: costVTEP(m), UnderlayIPv4: underlay, Transport: cluster.Multipoint}, nil, 0)
	}
	store.Set(&c, cluster.KeyHostVPC("n1", vpc), &cluster.HostVPC{State: cluster.AssignedMember}, nil, 0)
	_, err := records.Commit(t.Context(), c)
	must(t, err)
}

// costApplied reports whether the agent has said that a VPC and its links are up.
func costApplied(t *testing.T, records *store.Store, i, peers int) bool {
	it, err := store.Get[*cluster.VPCStatus](t.Context(), records, cluster.KeyVPCStatus("n1", fmt.Sprint("vpc", i)))
	if err != nil || len(it.Value.Links) != peers {
		return false
	}
	for _, l := range it.Value.Links {
		if l.State != cluster.LinkUp {
			return false
		}
	}
	return true
}

// costKernel is what the kernel has taken for itself, kB: objects, larger
// tables, what is for each processor, stacks.
func costKernel(t *testing.T) (kB int) {
	b, err := os.ReadFile("/proc/meminfo")
	must(t, err)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch f[0] {
		case "Slab:", "VmallocUsed:", "Percpu:", "KernelStack:":
			n, err := strconv.Atoi(f[1])
			must(t, err)
			kB += n
		}
	}
	return kB
}
