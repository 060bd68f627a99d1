package membership_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// silence is a network in which some addresses are nobody's.
type silence struct {
	mu    sync.Mutex
	at    map[string]bool // who answers
	asked []string
}

func (s *silence) ask(_ context.Context, key string, at netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(key) != 64 {
		return fmt.Errorf("asked for the key %q", key)
	}
	s.asked = append(s.asked, at.String())
	if s.at[at.String()] {
		return nil
	}
	return errors.New("no answer")
}

// TestAskBack: a joiner is at one of its underlay addresses at least, and no
// other node is at any; what is refused takes no use of the token and makes no
// node.
func TestAskBack(t *testing.T) {
	net := &silence{at: map[string]bool{"192.0.2.7": true, "192.0.2.9": true, "2001:db8::9": true}}
	h := newHouse(t, func(c *membership.ServiceConfig) { c.Ask, c.Version = net.ask, "0.5.0" })
	report := func(node, addr string) *cluster.NodeStatus {
		a := netip.MustParseAddr(addr)
		return &cluster.NodeStatus{NodeID: "id-" + node, OS: "linux", Version: "test",
			Underlay: cluster.Underlay{IPv4: &cluster.UnderlayAddress{Bind: a, Advertise: a, Device: "u0", MTU: 1500}}}
	}
	put := func(who cluster.Identity, key string, r cluster.Record) {
		t.Helper()
		var c store.Change
		store.Create(&c, key, r)
		if _, err := store.New(h.kv, who).Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	operator, controller := cluster.Identity{Role: cluster.Operator}, cluster.Identity{Role: cluster.Controller}
	for node, addr := range map[string]string{"known": "192.0.2.7", "liar": "192.0.2.9", "lost": "198.51.100.3"} {
		put(operator, cluster.KeyNode(node), &cluster.Node{ID: "id-" + node, Datacenter: "dc1", State: cluster.NodeActive})
		put(cluster.Identity{Role: cluster.Agent, Name: node}, cluster.KeyNodeStatus(node), report(node, addr))
		put(controller, cluster.KeyHostVPC(node, "blue"), &cluster.HostVPC{State: cluster.AssignedMember})
	}
	put(controller, cluster.KeyMember("blue", "known"), &cluster.Member{NodeID: "id-known", VTEP: netip.MustParseAddr("10.1.0.1"),
		UnderlayIPv4: netip.MustParseAddr("192.0.2.7"), Transport: cluster.Multipoint})
	good := h.token(1000, soon())
	for name, tt := range map[string]struct {
		change func(*membership.JoinRequest)
		code   membership.Code // "": let in
		words  []string        // of the reason, or the silent addresses
		asked  string
	}{
		"as before":    {func(r *membership.JoinRequest) { r.Underlay = nil }, "", nil, ""},
		"it is there":  {nil, "", nil, "192.0.2.9"}, // which a liar reports, too
		"one of two":   {underlays("198.51.100.1", "2001:db8::9"), "", []string{"198.51.100.1"}, "198.51.100.1 2001:db8::9"},
		"neither":      {underlays("198.51.100.1", "2001:db8::8"), membership.CodeUnreachable, []string{"no answer at 198.51.100.1", "no answer at 2001:db8::8", "UDP port 4788"}, "198.51.100.1 2001:db8::8"},
		"behind NAT":   {underlays("198.51.100.1"), membership.CodeUnreachable, []string{"the connection came from 127.0.0.1: behind NAT, forward UDP ports 4788 and 4789 of that address to this host and join with --underlay 198.51.100.1=127.0.0.1"}, "198.51.100.1"},
		"of another":   {underlays("192.0.2.7"), membership.CodeUnreachable, []string{"192.0.2.7 is the underlay address of node known"}, ""},
		"it says":      {underlays("198.51.100.3"), membership.CodeUnreachable, []string{"no answer at 198.51.100.3, which node lost reports, too"}, "198.51.100.3"},
		"loopback":     {underlays("127.0.0.1"), membership.CodeInvalid, []string{"no address that the others could reach"}, ""},
		"multicast":    {underlays("ff02::1"), membership.CodeInvalid, []string{"no address that the others could reach"}, ""},
		"none":         {func(r *membership.JoinRequest) { r.Underlay = []netip.Addr{{}} }, membership.CodeInvalid, nil, ""},
		"two of one":   {underlays("192.0.2.9", "192.0.2.8"), membership.CodeInvalid, []string{"one underlay address a family"}, ""},
		"three":        {underlays("192.0.2.9", "2001:db8::9", "192.0.2.8"), membership.CodeInvalid, nil, ""},
		"too new":      {func(r *membership.JoinRequest) { r.Version = "0.7.1" }, membership.CodeVersion, []string{"this host has meshvpc 0.7.1 and the server 0.5.0", "upgrade the server"}, ""},
		"too old":      {func(r *membership.JoinRequest) { r.Version = "0.3.9" }, membership.CodeVersion, []string{"upgrade this host"}, ""},
		"a neighbour":  {func(r *membership.JoinRequest) { r.Version = "0.6.0+abc" }, "", nil, "192.0.2.9"},
		"no good text": {func(r *membership.JoinRequest) { r.Version = "9.0.0\x1b[31m" }, "", nil, "192.0.2.9"}, // no release
	} {
		t.Run(name, func(t *testing.T) {
			net.asked = nil
			node := strings.ReplaceAll(strings.ToLower(name), " ", "-")
			r := newMachine(t).request(t, node, "id-"+node)
			r.Underlay = []netip.Addr{netip.MustParseAddr("192.0.2.9")}
			if tt.change != nil {
				tt.change(&r)
			}
			answer, _, err := membership.Join(t.Context(), h.address, good, r)
			refusal, refused := errors.AsType[*membership.Refusal](err)
			text := fmt.Sprint(answer.Silent)
			switch {
			case tt.code == "" && err != nil, tt.code != "" && (!refused || refusal.Code != tt.code):
				t.Fatalf("%v, want %q", err, tt.code)
			case refused:
				text = refusal.Reason
			}
			for _, w := range tt.words {
				if !strings.Contains(text, w) {
					t.Errorf("%q lacks %q", text, w)
				}
			}
			if tt.code == "" && len(tt.words) == 0 && len(answer.Silent) > 0 {
				t.Errorf("%v are silent", answer.Silent)
			}
			for _, at := range strings.Fields(tt.asked) {
				if !strings.Contains(strings.Join(net.asked, " "), at) {
					t.Errorf("%s was not asked, only %v", at, net.asked)
				}
			}
			if len(net.asked) != len(strings.Fields(tt.asked)) {
				t.Errorf("asked at %v, want %s", net.asked, tt.asked)
			}
			if _, err := store.Get[*cluster.Node](t.Context(), h.records, cluster.KeyNode(node)); errors.Is(err, store.ErrNotFound) == (tt.code == "") {
				t.Errorf("its record: %v", err)
			}
		})
	}
	it, err := store.Get[*cluster.Token](t.Context(), h.records, cluster.KeyToken(good.RecordID()))
	if err != nil || it.Value.Uses != 1000-5 {
		t.Errorf("%+v, %v: want 5 uses taken", it.Value, err)
	}
}

func underlays(list ...string) func(*membership.JoinRequest) {
	return func(r *membership.JoinRequest) {
		r.Underlay = nil
		for _, s := range list {
			r.Underlay = append(r.Underlay, netip.MustParseAddr(s))
		}
	}
}

// TestStrangersAimNothing: without a good token nobody has a server send
// anything anywhere.
func TestStrangersAimNothing(t *testing.T) {
	net := &silence{}
	h := newHouse(t, func(c *membership.ServiceConfig) { c.Ask = net.ask })
	r := newMachine(t).request(t, "n1", "id-1")
	r.Underlay = []netip.Addr{netip.MustParseAddr("198.51.100.1")}
	_, _, err := membership.Join(t.Context(), h.address, membership.NewToken(cluster.TokenNode, h.ca.Pin()), r)
	if refusal, ok := errors.AsType[*membership.Refusal](err); !ok || refusal.Code != membership.CodeToken || len(net.asked) > 0 {
		t.Errorf("%v; asked at %v", err, net.asked)
	}
}

// TestManyAreAskedOnce: joiners that wait for each other's transactions are asked
// back once each.
func TestManyAreAskedOnce(t *testing.T) {
	net := &silence{at: map[string]bool{"192.0.2.9": true}}
	h := newHouse(t, func(c *membership.ServiceConfig) { c.Ask = net.ask })
	const n = 10
	tok := h.token(n, soon())
	var wg sync.WaitGroup
	for i := range n {
		r := newMachine(t).request(t, fmt.Sprint("n", i), fmt.Sprint("id-", i))
		r.Underlay = []netip.Addr{netip.MustParseAddr("192.0.2.9")}
		wg.Go(func() {
			if _, _, err := membership.Join(t.Context(), h.address, tok, r); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(net.asked) != n {
		t.Errorf("%d questions, want %d", len(net.asked), n)
	}
}

// TestOldJoinRequest: the text of a version that knows of no underlay is a
// request as ever, and what this version sends is nothing new to an old server
// but fields that it passes over.
func TestOldJoinRequest(t *testing.T) {
	b, err := json.Marshal(membership.JoinRequest{Name: "n1"})
	if err != nil || strings.Contains(string(b), "underlay") || strings.Contains(string(b), "version") {
		t.Errorf("%s, %v", b, err)
	}
}
