package watcher

import (
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// TestNoStoreShutsAndStopsNothing: without a store no frame passes to what must not run
// twice after the time that it was granted for, and it runs on.
func TestNoStoreShutsAndStopsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := workloadWorld(t, nil)
		defer w.close()
		w.own1("n1", 2)
		w.hooks["n1"].want("start 2")
		w.wantPasses("n1", true, "granted")
		if !w.port("n1").Gated {
			t.Error("its port is not gated")
		}
		w.stop["n1"]()
		w.away = true
		w.start("n1")
		w.settle(time.Minute)
		w.wantPasses("n1", false, "no store")
		w.hooks["n1"].want()
		w.stop["n1"]()
		w.away = false
		w.start("n1")
		w.settle(time.Second)
		w.wantPasses("n1", true, "a store again")
		w.hooks["n1"].want()
		w.wantState("n1", cluster.WorkloadRunning, 2)
	})
}

// TestReleasedWithoutGate: a host whose kernel shuts no port by itself, and which owned an
// endpoint before that was asked for, still hands it over.
func TestReleasedWithoutGate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := workloadWorld(t, func(f *cluster.Failover) { f.Mode, f.MayRunTwice = cluster.ModeStateless, true })
		defer w.close()
		w.own1("n1", 2)
		w.hooks["n1"].want("start 2")
		w.hosts["n1"].CannotShut()
		w.workload(nil) // stateful, by which it is strict
		w.settle(time.Minute)
		w.wantPasses("n1", true, "it cannot be gated, and is this node's")
		w.hooks["n1"].want()
		w.handOver("n1", 2, "n2")
		w.settle(10 * time.Second)
		w.hooks["n1"].want("stop 2")
		w.wantPasses("n1", false, "handed over")
		w.wantPort("n1", cluster.PortReleased, 2)
	})
}

// TestEndIsSaidWhenShut: of what is strict, and this host's, the end of the workload is
// said when its port lets nothing pass and the next agent would know of it.
func TestEndIsSaidWhenShut(t *testing.T) {
	id := portID{"vpc1", "db"}
	device := hostops.EndpointPortOf("vpc1", "db")
	for name, tt := range map[string]struct {
		edit func(a *Agent, at *attachment, w *workload)
		want cluster.WorkloadState
	}{
		"shut, and kept":        {func(*Agent, *attachment, *workload) {}, cluster.WorkloadFailed},
		"open":                  {func(a *Agent, _ *attachment, _ *workload) { a.gate.open = []string{device} }, cluster.WorkloadStopping},
		"not gated":             {func(a *Agent, _ *attachment, _ *workload) { a.gate.closed[id] = false }, cluster.WorkloadStopping},
		"not kept":              {func(_ *Agent, _ *attachment, w *workload) { w.kept = false }, cluster.WorkloadStopping},
		"open, and not strict":  {func(a *Agent, at *attachment, _ *workload) { a.gate.open, at.Strict = []string{device}, false }, cluster.WorkloadFailed},
		"open, of another term": {func(a *Agent, _ *attachment, w *workload) { a.gate.open, w.Epoch = []string{device}, 1 }, cluster.WorkloadFailed},
	} {
		t.Run(name, func(t *testing.T) {
			at := attachment{Kind: hostops.PortNetns, Strict: true, Workload: workloadSpec{Name: "pg"},
				Own: &cluster.EndpointOwn{State: cluster.OwnAssigned, MAC: webMAC, Node: "n1", Era: 1, Epoch: 2}}
			wl := &workload{Spec: at.Workload, State: cluster.WorkloadFailed, term: term{1, 2}, Failed: term{1, 2}, kept: true}
			a := &Agent{cfg: Config{Node: "n1"}, gate: gate{closed: map[portID]bool{id: true}}}
			tt.edit(a, &at, wl)
			a.memory = &memory{VPCs: map[string]*vpc{"vpc1": {Attachments: map[string]attachment{"db": at}, Workloads: map[string]*workload{"db": wl}}}}
			if s := a.workloadStatus(id, at); s.State != tt.want {
				t.Errorf("it says %s, want %s", s.State, tt.want)
			}
		})
	}
}
