package watcher

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/watcher/local"
)

var webMAC = cluster.MAC{0x0a, 0x6d, 0xaa, 0, 0, 1}

// attachWorld is mesh with a network for workloads, and the endpoint web1.
func attachWorld(t *testing.T) *world {
	w := mesh(t)
	w.put(cluster.Operator, cluster.KeyVPCSpec("vpc1"), &cluster.VPCSpec{State: cluster.VPCActive, PeerNetwork: netip.MustParsePrefix("10.100.0.0/24"),
		Network: cluster.Networks{IPv4: netip.MustParsePrefix("10.10.11.0/24"), IPv6: netip.MustParsePrefix("fd00:11::/64")}, Members: "all"})
	w.spec("web1", "")
	w.owner("web1", "", 1)
	w.settle(time.Second)
	return w
}

// spec asks for an endpoint, at a node if that is not "".
func (w *world) spec(endpoint, node string) {
	w.t.Helper()
	w.put(cluster.Operator, cluster.KeyEndpointSpec("vpc1", endpoint), &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true, Node: node, Created: cluster.At(time.Unix(1, 0))})
}

// own makes a node the owner of an endpoint, "": none.
func (w *world) owner(endpoint, node string, epoch int64) { w.ownerIn(endpoint, node, 1, epoch) }

func (w *world) ownerIn(endpoint, node string, era, epoch int64) {
	w.t.Helper()
	state := cluster.OwnUnplaced
	if node != "" {
		state = cluster.OwnAssigned
	}
	w.put(cluster.Controller, cluster.KeyEndpointOwn("vpc1", endpoint), &cluster.EndpointOwn{State: state, MAC: webMAC, Node: node, Era: era, Epoch: epoch,
		IPs: []netip.Addr{netip.MustParseAddr("10.10.11.1"), netip.MustParseAddr("fd00:11::1")}})
}

// room makes a workload's namespace on a node's host.
func (w *world) room(node, name string) string {
	w.t.Helper()
	path, err := w.hosts[node].NewRoom(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return path
}

// ask puts a question to the agent of a node. The answer comes when it does.
func (w *world) ask(node string, attach *local.AttachRequest, detach *local.DetachRequest) (id int64, answer chan Answer) {
	d := w.agents[node].desk
	c := call{Question{ID: d.last.Add(1), Attach: attach, Detach: detach}, make(chan Answer, 1)}
	d.calls <- c
	return c.q.ID, c.answer
}

// attach asks for web1 to be attached, and settles.
func (w *world) attach(node string, q local.AttachRequest) chan Answer {
	w.t.Helper()
	if q.Endpoint == "" {
		q.Endpoint = "web1"
	}
	_, c := w.ask(node, &q, nil)
	w.settle(time.Second)
	return c
}

// answered is the answer that has come by now.
func (w *world) answered(c chan Answer) Answer {
	w.t.Helper()
	select {
	case a := <-c:
		return a
	default:
		w.t.Fatal("not answered")
		return Answer{}
	}
}

// attached is attach with the controller's part played, and the answer.
func (w *world) attached(node string, q local.AttachRequest, epoch int64) local.Attached {
	w.t.Helper()
	c := w.attach(node, q)
	w.owner("web1", node, epoch)
	w.raw(cluster.KeyRequest(node, "vpc1", "web1"), "")
	w.settle(time.Second)
	a := w.answered(c)
	if a.Attached == nil {
		w.t.Fatalf("refused: %+v", a.Refusal)
	}
	return *a.Attached
}

func (w *world) detach(node string, q local.DetachRequest) *local.Refusal {
	w.t.Helper()
	_, c := w.ask(node, nil, &q)
	w.settle(10 * time.Second)
	return w.answered(c).Refusal
}

// port is a node's report about web1, nil if there is none.
func (w *world) port(node string) *cluster.EndpointStatus {
	it, err := store.Get[*cluster.EndpointStatus](w.t.Context(), store.New(w.kv, cluster.Identity{Role: cluster.Operator}), cluster.KeyEndpointStatus(node, "vpc1", "web1"))
	if err != nil {
		return nil
	}
	return it.Value
}

// wantPort compares the state and term of a node's report; "": none.
func (w *world) wantPort(node string, state cluster.PortState, epoch int64) {
	w.t.Helper()
	switch s := w.port(node); {
	case s == nil && state != "":
		w.t.Errorf("%s reports nothing of web1; want %s", node, state)
	case s != nil && (s.State != state || s.Epoch != epoch):
		w.t.Errorf("%s reports web1 %s (%s) in epoch %d; want %q in %d", node, s.State, s.Reason, s.Epoch, state, epoch)
	}
}

// request is what a node asks for of web1, nil if nothing.
func (w *world) request(node string) *cluster.Request {
	it, err := store.Get[*cluster.Request](w.t.Context(), store.New(w.kv, cluster.Identity{Role: cluster.Operator}), cluster.KeyRequest(node, "vpc1", "web1"))
	if err != nil {
		return nil
	}
	return it.Value
}

// device is web1's port on a node's host, if it is there.
func (w *world) device(node string) (hostops.Device, bool) {
	d, ok := w.hosts[node].State().Devices[hostops.EndpointPortOf("vpc1", "web1")]
	return d, ok
}

func (w *world) wantDevice(node string, there, up bool) {
	w.t.Helper()
	if d, ok := w.device(node); ok != there || d.Up != up {
		w.t.Errorf("web1's port on %s: there %t, up %t; want %t, %t", node, ok, d.Up, there, up)
	}
}

func TestAttachAndDetach(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		c := w.attach("n1", local.AttachRequest{Netns: w.room("n1", "web1")})
		if r := w.request("n1"); r == nil || r.Want != cluster.WantAttach || r.Create || r.NodeID != "id-n1" {
			t.Errorf("request = %+v; want an attach", r)
		}
		w.wantPort("n1", "", 0)
		w.owner("web1", "n1", 2)
		w.raw(cluster.KeyRequest("n1", "vpc1", "web1"), "")
		w.settle(time.Second)
		want := &local.Attached{VPC: "vpc1", Endpoint: "web1", State: cluster.PortReady, Device: hostops.EndpointPortOf("vpc1", "web1"), Netns: "/run/rooms/web1", Inner: "eth0",
			MAC: webMAC, Addresses: []netip.Prefix{netip.MustParsePrefix("10.10.11.1/24"), netip.MustParsePrefix("fd00:11::1/64")}, MTU: 1430, Epoch: 2}
		got := w.answered(c)
		if d := cmp.Diff(got.Attached, want, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" || got.Refusal != nil {
			t.Errorf("answer: %s, %+v", d, got.Refusal)
		}
		inner, err := w.hosts["n1"].InRoom("/run/rooms/web1", "eth0")
		if err != nil || !inner.Up || inner.MAC != webMAC || inner.MTU != 1430 || !slices.Equal(inner.Addresses, want.Addresses) {
			t.Errorf("inside: %+v, %v", inner, err)
		}
		w.wantDevice("n1", true, true)
		w.wantPort("n1", cluster.PortReady, 2)
		before := w.revision()
		again := w.answered(w.attach("n1", local.AttachRequest{VPC: "vpc1", Netns: "/run/rooms/web1", Inner: "eth0"}))
		if d := cmp.Diff(again.Attached, want, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
			t.Errorf("answer the second time: %s, %+v", d, again.Refusal)
		}
		w.settle(10 * time.Minute)
		if n := w.revision() - before; n != 0 {
			t.Errorf("%d revisions while it is attached; want none", n)
		}
		if r := w.detach("n1", local.DetachRequest{Endpoint: "web1"}); r != nil {
			t.Errorf("detach: %+v", r)
		}
		w.wantDevice("n1", false, false)
		w.wantPort("n1", cluster.PortReleased, 2)
		w.owner("web1", "", 3)
		w.settle(time.Second)
		w.wantPort("n1", "", 0)
		if r := w.detach("n1", local.DetachRequest{Endpoint: "web1"}); r != nil {
			t.Errorf("detach of what is not attached: %+v", r)
		}
	})
}

// TestDetachWaitsUntilAnotherMayHaveIt but not for ever.
func TestDetachWaitsUntilAnotherMayHaveIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		w.attached("n1", local.AttachRequest{Netns: w.room("n1", "web1")}, 2)
		_, c := w.ask("n1", nil, &local.DetachRequest{Endpoint: "web1"})
		w.settle(time.Second)
		if len(c) != 0 {
			t.Error("detached before the controller heard of it")
		}
		w.owner("web1", "", 3)
		w.settle(100 * time.Millisecond)
		if a := w.answered(c); a.Refusal != nil {
			t.Errorf("detach: %+v", a.Refusal)
		}
	})
}

// TestRefusals: nothing is done, and the words say what is wrong and what to do.
func TestRefusals(t *testing.T) {
	type request = local.AttachRequest
	for name, tt := range map[string]struct {
		prepare func(w *world)
		q       request
		code    local.Code
		text    string
		hint    string
	}{
		"no target":     {nil, request{}, local.CodeInvalid, "want exactly one of", ""},
		"two targets":   {nil, request{Netns: "/run/rooms/a", Tap: "tap0"}, local.CodeInvalid, "want exactly one of", ""},
		"relative path": {nil, request{Netns: "a"}, local.CodeInvalid, "want a clean, absolute path", ""},
		"inner name":    {nil, request{Netns: "/run/rooms/a", Inner: "a/b"}, local.CodeInvalid, `device name "a/b"`, ""},
		"tap's inner":   {nil, request{Tap: "tap0", Inner: "eth0"}, local.CodeInvalid, "only a device in a namespace", ""},
		"endpoint name": {nil, request{Endpoint: "A", Tap: "tap0"}, local.CodeInvalid, `"A"`, ""},
		"tap's owner":   {nil, request{Tap: "tap0", TapOwner: new(-7)}, local.CodeInvalid, "owner -7", ""},
		"VPC":           {nil, request{VPC: "red", Tap: "tap0"}, local.CodeNotFound, `VPC "red" has no part on this host`, "meshvpc vpc list"},
		"endpoint":      {nil, request{Endpoint: "web9", Tap: "tap0"}, local.CodeNotFound, "there is no such endpoint", "endpoint create web9"},
		"endpoint of the VPC": {nil, request{Endpoint: "web9", VPC: "vpc1", Tap: "tap0"}, local.CodeNotFound, "there is no such endpoint",
			"endpoint create web9 --vpc vpc1"},
		"create without VPC": {nil, request{Endpoint: "web9", Create: true, Tap: "tap0"}, local.CodeInvalid, "the VPC has to be named", ""},
		"bound":              {func(w *world) { w.spec("web1", "n2") }, request{Tap: "tap0"}, local.CodeElsewhere, "it is bound to the node n2", "meshvpc endpoint move web1 --node n1"},
		"owned":              {func(w *world) { w.owner("web1", "n2", 2) }, request{Tap: "tap0"}, local.CodeElsewhere, "it is the node n2 that has it", "move web1 --node n1, or attach it here with --standby"},
		"namespace":          {nil, request{Netns: "/run/rooms/none"}, local.CodeTarget, "there is no network namespace /run/rooms/none", ""},
		"no namespace":       {nil, request{Netns: "/dev/null"}, local.CodeTarget, "/dev/null is no network namespace", ""},
		"device":             {nil, request{Device: "eth7"}, local.CodeTarget, "device eth7 is not there", ""},
		"underlay":           {nil, request{Device: "u0"}, local.CodeTarget, "u0 has the address 2001:db8:1::10/64", ""},
		"tap's name":         {nil, request{Tap: "u0"}, local.CodeTarget, "device u0 is there", ""},
		"our own device":     {nil, request{Tap: "mn-10000"}, local.CodeTarget, "mn-10000 is meshvpc's own", ""},
		"pool": {func(w *world) {
			w.put(cluster.Controller, cluster.KeyEndpointOwn("vpc1", "web1"), &cluster.EndpointOwn{State: cluster.OwnPending, Reason: "10.10.11.0/24 is full", Era: 1, Epoch: 1})
		}, request{Tap: "tap0"}, local.CodeExhausted, "10.10.11.0/24 is full", ""},
		"deleting": {func(w *world) {
			w.put(cluster.Operator, cluster.KeyEndpointSpec("vpc1", "web1"), &cluster.EndpointSpec{State: cluster.EndpointDeleting})
		}, request{Tap: "tap0"}, local.CodeNotFound, "it is being deleted", ""},
		"not up": {func(w *world) {
			if err := w.hosts["n1"].SetAddresses("u0"); err != nil {
				w.t.Fatal(err)
			}
		}, request{Tap: "tap0"}, local.CodeUnavailable, "VPC vpc1 is not up on this host: ", "meshvpc vpc status vpc1"},
		"restored": {func(w *world) {
			w.put(cluster.Operator, cluster.KeyConfig, &cluster.Config{Cluster: "c", ID: "c2", Era: 1, UnderlayPort: 4789, VNIs: cluster.DefaultVNIRange, Encryption: "none"})
		}, request{Tap: "tap0"}, local.CodeUnavailable, "the store belongs to another cluster", ""},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := attachWorld(t)
				defer w.close()
				if tt.prepare != nil {
					tt.prepare(w)
					w.settle(5 * time.Second)
				}
				r := w.answered(w.attach("n1", tt.q)).Refusal
				if r == nil || r.Code != tt.code || !strings.Contains(r.Text, tt.text) || !strings.Contains(r.Hint, tt.hint) {
					t.Errorf("refusal = %+v; want %q with %q, hint %q", r, tt.code, tt.text, tt.hint)
				}
				w.settle(time.Second)
				w.nothingLeft("n1")
			})
		})
	}
}

// nothingLeft wants no trace of web1 on a node.
func (w *world) nothingLeft(node string) {
	w.t.Helper()
	w.wantDevice(node, false, false)
	w.wantPort(node, "", 0)
	if r := w.request(node); r != nil {
		w.t.Errorf("%s still asks: %+v", node, r)
	}
	if b, err := os.ReadFile(filepath.Join(w.caches, node)); err != nil || strings.Contains(string(b), `"attachments"`) {
		w.t.Errorf("the cache has an attachment: %v", err)
	}
}

func TestTakenTargets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		w.spec("web2", "")
		path := w.room("n1", "web1")
		w.attached("n1", local.AttachRequest{Netns: path}, 2)
		for name, tt := range map[string]struct {
			q    local.AttachRequest
			text string
			hint string
		}{
			"elsewhere":       {local.AttachRequest{Tap: "tap0"}, "it is attached already, to eth0 in the network namespace " + path, "meshvpc endpoint detach web1"},
			"another inner":   {local.AttachRequest{Netns: path, Inner: "eth1"}, "it is attached already", ""},
			"trusted":         {local.AttachRequest{Netns: path, Trust: true}, "it is attached already", ""},
			"by another name": {local.AttachRequest{Endpoint: "web2", Netns: path}, "is attached to the endpoint web1 of VPC vpc1", "detach web1 --vpc vpc1"},
		} {
			r := w.answered(w.attach("n1", tt.q)).Refusal
			if r == nil || r.Code != local.CodeTaken || !strings.Contains(r.Text, tt.text) || !strings.Contains(r.Hint, tt.hint) {
				t.Errorf("%s: %+v; want taken, with %q, hint %q", name, r, tt.text, tt.hint)
			}
		}
		w.wantPort("n1", cluster.PortReady, 2)
	})
}

// TestAttachWithoutAnswer: one that nobody waits for any more, or that no controller
// answers, leaves nothing; and what a controller grants too late is given back.
func TestAttachWithoutAnswer(t *testing.T) {
	for name, gone := range map[string]bool{"the client goes": true, "no controller": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := attachWorld(t)
				defer w.close()
				id, c := w.ask("n1", &local.AttachRequest{Endpoint: "web1", Netns: w.room("n1", "web1")}, nil)
				w.settle(time.Second)
				w.wantDevice("n1", true, false) // in place, and no frame passes
				if w.request("n1") == nil {
					t.Error("nothing was asked for")
				}
				if gone {
					w.agents["n1"].desk.gone <- id
				}
				w.settle(2 * attachPatience)
				if gone != (len(c) == 0) {
					t.Errorf("%d answers", len(c))
				}
				if !gone {
					if r := w.answered(c).Refusal; r == nil || r.Code != local.CodeUnavailable || !strings.Contains(r.Text, "waiting for the controller") {
						t.Errorf("refusal = %+v", r)
					}
				}
				w.nothingLeft("n1")
				w.owner("web1", "n1", 2)
				w.settle(time.Second)
				w.wantDevice("n1", false, false)
				w.wantPort("n1", cluster.PortReleased, 2)
			})
		})
	}
}

// TestTwoWaitForOneAttach: the second goes on when the first gives up.
func TestTwoWaitForOneAttach(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		q := &local.AttachRequest{Endpoint: "web1", Netns: w.room("n1", "web1")}
		id, _ := w.ask("n1", q, nil)
		_, second := w.ask("n1", q, nil)
		w.settle(time.Second)
		w.agents["n1"].desk.gone <- id
		w.settle(time.Second)
		w.owner("web1", "n1", 2)
		w.settle(time.Second)
		if a := w.answered(second); a.Attached == nil {
			t.Errorf("refused: %+v", a.Refusal)
		}
		w.wantPort("n1", cluster.PortReady, 2)
	})
}

// TestAnAttachOutlivesARestart is said only when it does.
func TestAnAttachOutlivesARestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		w.stop["n1"]()
		saves := make(chan struct{})
		w.save = func(path string, b []byte) error { <-saves; return saveCache(path, b) }
		w.start("n1")
		w.settle(time.Second)
		close(saves)
		w.settle(time.Second)
		saves = make(chan struct{})
		c := w.attach("n1", local.AttachRequest{Netns: w.room("n1", "web1")})
		w.owner("web1", "n1", 2)
		w.settle(10 * time.Second)
		if len(c) != 0 {
			t.Error("attached before the cache file has it")
		}
		w.wantDevice("n1", true, true)
		w.wantPort("n1", "", 0)
		close(saves)
		w.settle(time.Second)
		if a := w.answered(c); a.Attached == nil {
			t.Errorf("refused: %+v", a.Refusal)
		}
		w.wantPort("n1", cluster.PortReady, 2)
	})
}
