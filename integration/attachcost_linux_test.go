package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// TestAttachCost measures, if MESHVPC_MEASURE=1, how long it takes to attach a
// workload on a host with one VPC, and on one with 200 of five workloads each, and
// what attaching and detaching takes of the agent's processor time. As TestAgentCost
// it has the built program on a kernel of its own; no controller is waited for: the
// endpoints are this host's before. It reports, and judges nothing.
func TestAttachCost(t *testing.T) {
	measured(t, func() {
		const peers, vpcs, each = 3, 200, 5
		host := costWire(t)
		records := costStore(t, peers)
		costAnswers(t)
		agent, dir := costAgent(t, host)
		costSettled(t, records, peers, cluster.LinkUp)
		a := attachCost{t: t, records: records, client: local.New(filepath.Join(dir, "agent.sock")), agent: agent}
		took, ran := a.measure()
		for i := 2; i <= vpcs; i++ {
			costVPC(t, records, i, peers)
		}
		for i := 1; i <= vpcs; i++ {
			for !costApplied(t, records, i, peers) {
				pause(100 * time.Millisecond)
			}
			for range each {
				a.attach(i)
			}
		}
		took200, ran200 := a.measure()
		t.Logf("%d VPCs against one: time %.2f x, processor time %.2f x", vpcs, took200.Seconds()/took.Seconds(), ran200.Seconds()/ran.Seconds())
	})
}

func pause(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // of measurements, which do not run with the tests

// attachCost attaches endpoints that it makes.
type attachCost struct {
	t       *testing.T
	records *store.Store
	client  *local.Client
	agent   int
	made    int
}

// measure attaches to the first VPC and detaches, and returns the median time of
// the one and the processor time of both.
func (a *attachCost) measure() (took, ran time.Duration) {
	const n, every = 40, 300 * time.Millisecond
	pause(10 * time.Second) // what the start has mapped is given back
	idle := costRun(a.t, a.agent)
	pause(n * every)
	idle = costRun(a.t, a.agent) - idle
	var times []time.Duration
	before := costRun(a.t, a.agent)
	for range n {
		endpoint, took := a.attach(1)
		times = append(times, took)
		must(a.t, a.client.Detach(a.t.Context(), local.DetachRequest{VPC: "vpc1", Endpoint: endpoint}))
		pause(every)
	}
	slices.Sort(times)
	ran = (costRun(a.t, a.agent) - before - idle) / n
	a.t.Logf("attach takes %v (p99 %v); with detach %v of processor time", times[n/2], times[n*99/100], ran)
	return times[n/2], ran
}

// attach makes an endpoint that is this host's and attaches it to a namespace.
func (a *attachCost) attach(vpc int) (endpoint string, took time.Duration) {
	a.t.Helper()
	a.made++
	name := fmt.Sprint("vpc", vpc)
	endpoint = fmt.Sprint("e", a.made)
	n := []byte{byte(a.made >> 8), byte(a.made)}
	var c store.Change
	store.Set(&c, cluster.KeyEndpointOwn(name, endpoint), &cluster.EndpointOwn{State: cluster.OwnAssigned, Node: "n1", Era: 1, Epoch: 1,
		MAC: cluster.MAC{2, 0, 0, 0, n[0], n[1]}, IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 20, n[0], n[1]})}}, nil, 0)
	_, err := a.records.Commit(a.t.Context(), c)
	must(a.t, err)
	c = store.Change{}
	store.Set(&c, cluster.KeyEndpointSpec(name, endpoint), &cluster.EndpointSpec{State: cluster.EndpointActive, Node: "n1", Created: cluster.At(time.Now())}, nil, 0)
	_, err = store.New(a.records.KV(), cluster.Identity{Role: cluster.Operator}).Commit(a.t.Context(), c)
	must(a.t, err)
	space := costSpace(a.t, fmt.Sprint("w", a.made))
	for {
		pause(20 * time.Millisecond)
		begun := time.Now()
		_, err = a.client.Attach(a.t.Context(), local.AttachRequest{VPC: name, Endpoint: endpoint, Netns: space})
		if refusal, is := errors.AsType[*local.Refusal](err); is && refusal.Code == local.CodeNotFound { // the agent has not read it yet
			continue
		}
		must(a.t, err)
		return endpoint, time.Since(begun)
	}
}

// costSpace pins a new network namespace.
func costSpace(t *testing.T, name string) string {
	path := filepath.Join("/run/netns", name)
	must(t, os.WriteFile(path, nil, 0o600))
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "none", unix.MS_BIND, "")
		}
		done <- err
	}()
	must(t, <-done)
	return path
}
