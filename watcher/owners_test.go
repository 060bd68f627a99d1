package watcher

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// TestHoldWhatIsAttached: no mistake in the records takes a workload's port away.
func TestHoldWhatIsAttached(t *testing.T) {
	for name, tt := range map[string]struct {
		harm   func(w *world)
		reason string // in the report
	}{
		"own vanished":       {func(w *world) { w.raw(cluster.KeyEndpointOwn("vpc1", "web1"), "") }, "its own record is gone"},
		"all of it vanished": {func(w *world) { w.raw(cluster.PrefixEndpoints("vpc1"), "") }, "its own record is gone"},
		"own unreadable":     {func(w *world) { w.raw(cluster.KeyEndpointOwn("vpc1", "web1"), "{") }, ""},
		"spec vanished":      {func(w *world) { w.raw(cluster.KeyEndpointSpec("vpc1", "web1"), "") }, ""},
		"an earlier epoch":   {func(w *world) { w.owner("web1", "n2", 2) }, "of era 1, epoch 2, and this host has seen 1, 3"},
		"an earlier era":     {func(w *world) { w.ownerIn("web1", "n2", 0, 9) }, "of era 0, epoch 9"},
		"own names no MAC": {func(w *world) {
			w.put(cluster.Controller, cluster.KeyEndpointOwn("vpc1", "web1"), &cluster.EndpointOwn{State: cluster.OwnPending, Era: 1, Epoch: 9})
		}, "names no MAC"},
		"restored and unconfirmed": {func(w *world) {
			w.put(cluster.Operator, cluster.KeyConfig, &cluster.Config{Cluster: "c", ID: "c1", Era: 2, ConfirmedEra: 1, UnderlayPort: 4789, VNIs: cluster.DefaultVNIRange, Encryption: "none"})
			w.settle(time.Second)
			w.owner("web1", "n2", 9)
		}, ""},
		"another cluster's store": {func(w *world) {
			w.put(cluster.Operator, cluster.KeyConfig, &cluster.Config{Cluster: "c", ID: "c2", Era: 1, UnderlayPort: 4789, VNIs: cluster.DefaultVNIRange, Encryption: "none"})
			w.settle(time.Second)
			w.owner("web1", "n2", 9)
		}, ""},
		"the assignment vanished": {func(w *world) {
			w.raw(cluster.KeyHostVPC("n1", "vpc1"), "")
			w.settle(time.Second)
			w.owner("web1", "n2", 9)
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := attachWorld(t)
				defer w.close()
				w.attached("n1", local.AttachRequest{Netns: w.room("n1", "web1")}, 3)
				writes := w.hosts["n1"].Writes()
				tt.harm(w)
				w.settle(5 * time.Minute)
				w.wantDevice("n1", true, true)
				w.wantPort("n1", cluster.PortReady, 3)
				if s := w.port("n1"); !strings.Contains(s.Reason, tt.reason) {
					t.Errorf("reason = %q; want %q in it", s.Reason, tt.reason)
				}
				w.stop["n1"]()
				w.start("n1")
				w.settle(5 * time.Minute)
				w.wantDevice("n1", true, true)
				if n := w.hosts["n1"].Writes() - writes; n != 0 {
					t.Errorf("%d writes to the host", n)
				}
			})
		})
	}
}

// TestWordsThatTakeAPortAway: an operator's, and this host's own end.
func TestWordsThatTakeAPortAway(t *testing.T) {
	for name, tt := range map[string]struct {
		word  func(w *world)
		state cluster.PortState
	}{
		"the endpoint is deleted": {func(w *world) {
			w.put(cluster.Operator, cluster.KeyEndpointSpec("vpc1", "web1"), &cluster.EndpointSpec{State: cluster.EndpointDeleting, Created: cluster.At(time.Unix(1, 0))})
		}, cluster.PortReleased},
		"the VPC leaves": {func(w *world) {
			w.put(cluster.Controller, cluster.KeyHostVPC("n1", "vpc1"), &cluster.HostVPC{State: cluster.AssignedLeaving})
		}, ""},
		"the node left": {func(w *world) {
			w.put(cluster.Operator, cluster.KeyNode("n1"), &cluster.Node{ID: "id-n1", Datacenter: "dc1", State: cluster.NodeLeft, Agent: true})
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := attachWorld(t)
				defer w.close()
				w.attached("n1", local.AttachRequest{Netns: w.room("n1", "web1")}, 3)
				tt.word(w)
				w.settle(10 * time.Second)
				w.wantDevice("n1", false, false)
				w.wantPort("n1", tt.state, 3)
				b, err := os.ReadFile(filepath.Join(w.caches, "n1"))
				if err != nil || strings.Contains(string(b), `"attachments"`) {
					t.Errorf("the cache has it still: %v", err)
				}
			})
		})
	}
}

// TestMoveToStandby hands an endpoint over to a workload that stands by, and back.
func TestMoveToStandby(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		w.attached("n1", local.AttachRequest{Netns: w.room("n1", "web1")}, 2)
		a := w.answered(w.attach("n2", local.AttachRequest{Netns: w.room("n2", "web1"), Standby: true}))
		if a.Attached == nil || a.Attached.State != cluster.PortStandby || a.Attached.MAC != webMAC {
			t.Fatalf("standby: %+v, %+v", a.Attached, a.Refusal)
		}
		if w.request("n2") != nil {
			t.Error("a standby asks to be the owner")
		}
		w.wantDevice("n2", true, false)
		w.wantPort("n2", cluster.PortStandby, 2)
		device := hostops.EndpointPortOf("vpc1", "web1")
		for i, to := range []string{"n2", "n1", "n2"} {
			from := map[string]string{"n1": "n2", "n2": "n1"}[to]
			epoch, announced := int64(3+i), w.hosts[to].Announced(device)
			w.owner("web1", to, epoch)
			w.settle(5 * time.Second)
			w.wantDevice(to, true, true)
			w.wantPort(to, cluster.PortReady, epoch)
			w.wantDevice(from, true, false)
			w.wantPort(from, cluster.PortStandby, epoch)
			if n := w.hosts[to].Announced(device) - announced; n != 1+len(announceAfter()) {
				t.Errorf("announced %d times on %s; want %d", n, to, 1+len(announceAfter()))
			}
		}
		w.owner("web1", "", 6) // nobody's: who attached it asks for it, and a standby does not
		w.settle(5 * time.Second)
		if w.request("n1") == nil || w.request("n2") != nil {
			t.Errorf("requests: %+v, %+v; want the first's alone", w.request("n1"), w.request("n2"))
		}
	})
}

// TestReleasedTermsAreOver: what was detached is served only in a greater epoch,
// also by the next agent.
func TestReleasedTermsAreOver(t *testing.T) {
	for name, restart := range map[string]bool{"the same agent": false, "the next agent": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := attachWorld(t)
				defer w.close()
				w.spec("web1", "n1")
				w.owner("web1", "n1", 1)
				w.settle(time.Second)
				path := w.room("n1", "web1")
				if a := w.answered(w.attach("n1", local.AttachRequest{Netns: path})); a.Attached == nil || a.Attached.Epoch != 1 {
					t.Fatalf("what is this node's is attached at once: %+v", a)
				}
				if r := w.detach("n1", local.DetachRequest{Endpoint: "web1"}); r != nil {
					t.Fatal(r)
				}
				if restart {
					w.stop["n1"]()
					w.start("n1")
					w.settle(5 * time.Second)
				}
				w.wantPort("n1", cluster.PortReleased, 1)
				c := w.attach("n1", local.AttachRequest{Netns: path})
				if len(c) != 0 || w.request("n1") == nil {
					t.Fatalf("answers %d, request %+v; want it to ask", len(c), w.request("n1"))
				}
				w.wantDevice("n1", true, false)
				w.wantPort("n1", cluster.PortReleased, 1)
				w.owner("web1", "n1", 2)
				w.settle(time.Second)
				if a := w.answered(c); a.Attached == nil || a.Attached.Epoch != 2 {
					t.Errorf("answer %+v", a)
				}
				w.wantPort("n1", cluster.PortReady, 2)
			})
		})
	}
}

// TestAnotherEndpointOfThatName begins anew: its epochs are no continuation.
func TestAnotherEndpointOfThatName(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		path := w.room("n1", "web1")
		w.attached("n1", local.AttachRequest{Netns: path}, 7)
		if r := w.detach("n1", local.DetachRequest{Endpoint: "web1"}); r != nil {
			t.Fatal(r)
		}
		w.put(cluster.Operator, cluster.KeyEndpointSpec("vpc1", "web1"), &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true, Created: cluster.At(time.Unix(2, 0))})
		w.owner("web1", "", 1)
		w.settle(time.Second)
		w.wantPort("n1", "", 0)
		if a := w.attached("n1", local.AttachRequest{Netns: path}, 2); a.Epoch != 2 {
			t.Errorf("attached in epoch %d", a.Epoch)
		}
	})
}

// TestNamespaceComesAndGoes: a namespace that has a name of its own is waited for.
func TestNamespaceComesAndGoes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		path := w.room("n1", "web1")
		w.attached("n1", local.AttachRequest{Netns: path}, 2)
		if err := w.hosts["n1"].EndRoom(path); err != nil {
			t.Fatal(err)
		}
		w.settle(time.Second)
		w.wantDevice("n1", false, false)
		w.wantPort("n1", cluster.PortFailed, 2)
		if r := w.answered(w.attach("n1", local.AttachRequest{Netns: path})).Refusal; r == nil || r.Code != local.CodeTarget {
			t.Errorf("attach to what is gone: %+v", r)
		}
		w.room("n1", "web1")
		w.settle(2 * targetEvery)
		w.wantDevice("n1", true, true)
		w.wantPort("n1", cluster.PortReady, 2)

		w.stop["n1"]()
		w.hosts["n1"].PowerCycle()
		w.start("n1")
		w.settle(10 * time.Second)
		w.wantPort("n1", cluster.PortFailed, 2)
		w.room("n1", "web1")
		w.settle(2 * targetEvery)
		w.wantDevice("n1", true, true)
		w.wantPort("n1", cluster.PortReady, 2)
		if in, err := w.hosts["n1"].InRoom(path, "eth0"); err != nil || in.MAC != webMAC {
			t.Errorf("after a reboot: %+v, %v", in, err)
		}
	})
}

// TestProcessEnds: what is below /proc is another process's later.
func TestProcessEnds(t *testing.T) {
	link := func(t *testing.T, to string) string {
		path := filepath.Join(t.TempDir(), "web1")
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const process = "/proc/999999999/ns/net"
	for name, path := range map[string]string{"a process": process, "a link to it": link(t, process), "a link to a link": link(t, link(t, process))} {
		if !ofProcess(path) {
			t.Errorf("%s is not taken for one", name)
		}
	}
	if ofProcess(link(t, "/run/netns/web1")) {
		t.Error("a link to a name is taken for a process")
	}
	for name, after := range map[string]func(at *attachment) (hostops.Space, string){
		"it ends":                  func(*attachment) (hostops.Space, string) { return hostops.Space{}, "b1" },
		"another has its number":   func(*attachment) (hostops.Space, string) { return hostops.Space{Inode: 8}, "b1" },
		"the same inode in a boot": func(*attachment) (hostops.Space, string) { return hostops.Space{Inode: 7}, "b2" },
	} {
		at := attachment{Kind: hostops.PortNetns, Target: process, Inner: "eth0", Inode: 7, BootID: "b1"}
		if at.look(hostops.Space{Inode: 7}, "b1") {
			t.Errorf("%s: it has ended before", name)
		}
		if now, boot := after(&at); !at.look(now, boot) {
			t.Errorf("%s: it goes on", name)
		}
	}
}

// TestWithoutStore: what is attached goes on by the cache, and nothing new begins.
func TestWithoutStore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		path := w.room("n1", "web1")
		w.attached("n1", local.AttachRequest{Netns: path}, 2)
		writes := w.hosts["n1"].Writes()
		w.stop["n1"]()
		w.away = true
		w.start("n1")
		w.settle(5 * time.Minute)
		w.wantDevice("n1", true, true)
		if n := w.hosts["n1"].Writes() - writes; n != 0 {
			t.Errorf("%d writes to the host", n)
		}
		a := w.answered(w.attach("n1", local.AttachRequest{Netns: path}))
		if a.Attached == nil || a.Attached.State != cluster.PortReady {
			t.Errorf("attached again: %+v, %+v", a.Attached, a.Refusal)
		}
		r := w.answered(w.attach("n1", local.AttachRequest{Endpoint: "web2", VPC: "vpc1", Tap: "tap0"})).Refusal
		if r == nil || r.Code != local.CodeUnavailable || !strings.Contains(r.Text, "no store since 2000-01-01T") {
			t.Errorf("refusal %+v; want it unavailable, and since when", r)
		}
		if r := w.detach("n1", local.DetachRequest{Endpoint: "web1"}); r != nil {
			t.Errorf("detach: %+v", r)
		}
		w.wantDevice("n1", false, false)
	})
}

// TestCreateAndDelete: the endpoint that a request made goes with it, and only that.
func TestCreateAndDelete(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		made := func(requester string, state cluster.EndpointState) {
			w.put(cluster.Operator, cluster.KeyEndpointSpec("vpc1", "web1"), &cluster.EndpointSpec{State: state, Auto: true, Requester: requester, Created: cluster.At(time.Unix(3, 0))})
		}
		w.raw(cluster.PrefixEndpoints("vpc1")+"web1/", "")
		w.settle(time.Second)
		c := w.attach("n1", local.AttachRequest{VPC: "vpc1", Create: true, For: "pod 1", Netns: w.room("n1", "web1")})
		if r := w.request("n1"); r == nil || !r.Create {
			t.Fatalf("request %+v; want one that creates", r)
		}
		made("n1", cluster.EndpointActive)
		w.owner("web1", "n1", 1)
		w.raw(cluster.KeyRequest("n1", "vpc1", "web1"), "")
		w.settle(time.Second)
		if a := w.answered(c); a.Attached == nil || !a.Attached.Created || a.Attached.For != "pod 1" {
			t.Fatalf("answer %+v, %+v", a.Attached, a.Refusal)
		}
		if r := w.detach("n1", local.DetachRequest{VPC: "vpc1", Endpoint: "web1", Delete: true}); r != nil {
			t.Fatal(r)
		}
		w.wantPort("n1", cluster.PortReleased, 1)
		w.stop["n1"]()
		w.start("n1")
		w.settle(3 * time.Minute)
		if r := w.request("n1"); r == nil || r.Want != cluster.WantDelete {
			t.Fatalf("request %+v; want a deletion, for as long as it takes", r)
		}
		made("n1", cluster.EndpointDeleting)
		w.raw(cluster.KeyRequest("n1", "vpc1", "web1"), "")
		w.settle(3 * time.Minute)
		w.raw(cluster.PrefixEndpoints("vpc1")+"web1/", "")
		w.settle(3 * time.Minute)
		w.nothingLeft("n1")

		made("", cluster.EndpointActive) // an operator's
		w.owner("web1", "", 1)
		w.settle(time.Second)
		w.attached("n1", local.AttachRequest{VPC: "vpc1", Create: true, Netns: "/run/rooms/web1"}, 2)
		if r := w.detach("n1", local.DetachRequest{VPC: "vpc1", Endpoint: "web1", Delete: true}); r != nil {
			t.Fatal(r)
		}
		if r := w.request("n1"); r != nil {
			t.Errorf("request %+v for what an operator made", r)
		}
	})
}

// TestForgottenOwnersAreReleased: what is this host's by a request, and nothing is
// attached to, is another's to have; what is bound to it stays.
func TestForgottenOwnersAreReleased(t *testing.T) {
	for name, node := range map[string]string{"anywhere": "", "bound": "n1"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := attachWorld(t)
				defer w.close()
				w.spec("web1", node)
				w.owner("web1", "n1", 4)
				w.settle(3 * time.Minute)
				if node == "" {
					w.wantPort("n1", cluster.PortReleased, 4)
				} else {
					w.wantPort("n1", "", 0)
				}
			})
		})
	}
}

// TestOwnRecordsOfEndpoints: what somebody spoils is mended, and what is left of an
// earlier run goes.
func TestOwnRecordsOfEndpoints(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		w.attached("n1", local.AttachRequest{Netns: w.room("n1", "web1")}, 2)
		w.raw(cluster.KeyEndpointStatus("n1", "vpc1", "web1"), `{}`)
		w.raw(cluster.KeyEndpointStatus("n1", "vpc1", "old"), `{}`)
		w.raw(cluster.KeyRequest("n1", "vpc1", "old"), `{}`)
		w.settle(3 * time.Minute)
		w.wantPort("n1", cluster.PortReady, 2)
		if list := strings.Join(w.own("n1"), " "); strings.Contains(list, "old") {
			t.Errorf("own records: %s", list)
		}
		w.stop["n1"]()
		w.raw(cluster.KeyRequest("n1", "vpc1", "old"), `{"node_id":"id-n1","want":"attach","at":"2026-01-01T00:00:00.000Z"}`)
		w.start("n1")
		w.settle(2 * time.Minute)
		if list := strings.Join(w.own("n1"), " "); strings.Contains(list, "old") {
			t.Errorf("own records after a restart: %s", list)
		}
	})
}

// away is a store that answers nothing.
type away struct{ *mvcc.Memory }

func (away) Range(context.Context, mvcc.RangeRequest) (mvcc.RangeResponse, error) {
	return mvcc.RangeResponse{}, mvcc.ErrUnavailable
}

func (away) Txn(context.Context, mvcc.TxnRequest) (mvcc.TxnResponse, error) {
	return mvcc.TxnResponse{}, mvcc.ErrUnavailable
}
