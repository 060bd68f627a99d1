package linux

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// budgeted is two hosts of VPC blue with a flood budget, each with a workload.
func budgeted(t *testing.T, rate int) (hosts []*host, vpcs []hostops.VPC, workloads []*tenant) {
	hosts = newUnderlay(t, 2, 1500)
	for i, h := range hosts {
		h.unfiltered()
		v := mesh(hosts, i, "blue", 10000, false)
		v.FloodLimit = rate
		h.reconcile(false, v)
		vpcs = append(vpcs, v)
		workloads = append(workloads, h.tenant("blue", "t0"))
	}
	return hosts, vpcs, workloads
}

func (h *host) floodDrops() uint64 {
	h.t.Helper()
	drops, err := h.driver.FloodDrops(h.t.Context())
	must(h.t, err)
	return drops[10000]
}

// TestFloodBudget: of a storm, of broadcasts or to a MAC that nobody has, the budget
// goes to other hosts and no more; what is for a workload that has spoken passes whole
// meanwhile, and the budget is back when it was wiped.
func TestFloodBudget(t *testing.T) {
	const rate, storm = 100, 3000
	hosts, vpcs, workloads := budgeted(t, rate)
	from, to := workloads[0], workloads[1]
	from.until("here", func() { to.send(message(to.mac, "here")) })
	stopProbes := hosts[0].probing("blue", vtep(1).Addr())
	text := append([]byte("storm"), make([]byte, 46)...)
	for name, dst := range map[string]cluster.MAC{"broadcasts": everybody, "multicasts": {1, 0, 0x5e, 9, 9, 9}, "unknown unicasts": {2, 9, 9, 9, 9, 9}} {
		for _, wiped := range []bool{false, true} {
			if wiped {
				must(t, kernel{t: t, ns: hosts[0].ns}.WipeFilter())
				hosts[0].reconcile(true, vpcs[0])
			}
			start, before := time.Now(), hosts[0].floodDrops()
			for range storm {
				from.send(frame(dst, from.mac, testType, text))
			}
			passed := storm - int(hosts[0].floodDrops()-before)
			end := fmt.Sprint("end of ", name, wiped)
			texts := to.until(end, func() { from.send(message(from.mac, end)) })
			heard := slices.DeleteFunc(texts, func(text string) bool { return text != "storm" })
			most := hostops.Budget{Rate: rate}.Burst() + int(time.Since(start).Seconds()*rate) + 1
			t.Logf("%s: %d of %d passed, %d were heard", name, passed, storm, len(heard))
			if passed > most || len(heard) > passed || len(heard) < 1 {
				t.Errorf("%s, wiped %v: %d of %d passed, %d were heard; want 1 to %d", name, wiped, passed, storm, len(heard), most)
			}
		}
	}
	before := hosts[0].floodDrops()
	for range storm {
		from.send(frame(to.mac, from.mac, testType, text))
	}
	if n := hosts[0].floodDrops() - before; n != 0 {
		t.Errorf("%d of %d frames to a workload that has spoken were dropped", n, storm)
	}
	if sent, answered := stopProbes(); answered < sent-1 || answered == 0 { // the last was cut short
		t.Errorf("%d of %d pings were answered", answered, sent)
	}
}

// TestFloodBudgetOfWorkingVPC: who has spoken before the budget was put in force, and
// says nothing since, gets all that is for it.
func TestFloodBudgetOfWorkingVPC(t *testing.T) {
	const storm = 1000
	hosts, vpcs, workloads := budgeted(t, 0)
	from, to := workloads[0], workloads[1]
	from.until("here", func() { to.send(message(to.mac, "here")) })
	vpcs[0].FloodLimit = 1
	hosts[0].reconcile(false, vpcs[0])
	for range storm {
		from.send(frame(to.mac, from.mac, testType, make([]byte, 46)))
	}
	if n := hosts[0].floodDrops(); n != 0 {
		t.Errorf("%d of %d frames to a workload that has spoken were dropped", n, storm)
	}
}

// TestFloodBudgetOfEachTunnel: two peers with tunnels of their own and two that share
// one all hear the budget, and each learns a MAC for itself.
func TestFloodBudgetOfEachTunnel(t *testing.T) {
	const rate, storm = 100, 3000
	hosts := newUnderlay(t, 4, 1500)
	var tenants []*tenant
	for i, h := range hosts {
		v := paired(hosts, i, false, [][]int{{1, 2}, {0}, {0}, nil}[i], nil, true)
		if v.FloodLimit = 0; i == 0 {
			v.FloodLimit = rate
		}
		h.reconcile(false, v)
		tenants = append(tenants, h.tenant("blue", "t0"))
	}
	from := tenants[0]
	for i, x := range tenants[1:] {
		hello := fmt.Sprint("hello from ", i)
		from.until(hello, func() { x.send(message(x.mac, hello)) })
	}
	start := time.Now()
	for range storm {
		from.send(message(from.mac, "storm"))
	}
	for i, x := range tenants[1:] {
		end := fmt.Sprint("end ", i)
		heard := len(slices.DeleteFunc(x.until(end, func() { from.send(message(from.mac, end)) }), func(text string) bool { return text != "storm" }))
		most := hostops.Budget{Rate: rate}.Burst() + int(time.Since(start).Seconds()*rate) + 1
		if heard > most || heard < rate {
			t.Errorf("host %d heard %d of %d; want %d to %d", i+1, heard, storm, rate, most)
		}
	}
	before := hosts[0].floodDrops()
	for _, x := range tenants[1:] {
		for range storm {
			from.send(frame(x.mac, from.mac, testType, make([]byte, 46)))
		}
	}
	if n := hosts[0].floodDrops() - before; n != 0 {
		t.Errorf("%d frames to workloads that have spoken were dropped", n)
	}
}
