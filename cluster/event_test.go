package cluster

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const (
	hashA = "0000000000000000000000000000000000000000000000000000000000000aaa"
	hashB = "0000000000000000000000000000000000000000000000000000000000000bbb"
)

// TestDescribe: from a write to the words of its event, without a secret or a
// hash in them.
func TestDescribe(t *testing.T) {
	node := func(state, more string) string {
		return `{"id":"x1","datacenter":"hetzner","state":"` + state + `","agent":true,"key":"` + hashA + `"` + more + `,"joined":"2026-01-01T00:00:00.000Z"}`
	}
	vpc := func(state, more string) string {
		return `{"state":"` + state + `","members":"all","peer_network":"10.100.0.0/16"` + more + `,"created":"2026-01-01T00:00:00.000Z"}`
	}
	token := func(uses int) string {
		return fmt.Sprintf(`{"role":"node","hash":"%s","uses":%d,"created":"2026-01-01T00:00:00.000Z","expires":"2026-01-01T01:00:00.000Z","by":"user:adm"}`, hashA, uses)
	}
	user := func(role, key string) string {
		return `{"role":"` + role + `","key":"` + key + `","created":"2026-01-01T00:00:00.000Z"}`
	}
	config := func(era int) string {
		return fmt.Sprintf(`{"cluster":"c","id":"i","era":%d,"underlay_port":4789,"vni_range":{"first":1,"last":100},"encryption":"none"}`, era)
	}
	const none, gone = "-", "-"
	for name, tt := range map[string]struct{ key, old, new, want string }{
		"a new VPC":           {KeyVPCSpec("blue"), none, vpc("active", `,"mtu":1400`), "created VPC blue: members all, mtu 1400, peer network 10.100.0.0/16, state active"},
		"another MTU":         {KeyVPCSpec("blue"), vpc("active", `,"mtu":1400`), vpc("active", `,"mtu":1450`), "changed VPC blue: mtu 1400 → 1450"},
		"a field less":        {KeyVPCSpec("blue"), vpc("active", `,"protect":true`), vpc("active", ""), "changed VPC blue: no protect (true before)"},
		"a field more":        {KeyVPCSpec("blue"), vpc("active", ""), vpc("active", `,"protect":true`), "changed VPC blue: protect true"},
		"spaces are nothing":  {KeyVPCSpec("blue"), strings.ReplaceAll(vpc("active", ""), ":", " : "), vpc("active", ""), ""},
		"asked to go":         {KeyVPCSpec("blue"), vpc("active", ""), vpc("deleting", `,"force":true`), "asked to delete VPC blue: force true, state active → deleting"},
		"a VPC gone":          {KeyVPCSpec("blue"), vpc("deleting", ""), gone, "deleted VPC blue"},
		"nothing gone":        {KeyVPCSpec("blue"), none, gone, ""},
		"who knows":           {KeyVPCSpec("blue"), "?", vpc("active", ""), "changed VPC blue"},
		"who knows, going":    {KeyVPCSpec("blue"), "?", vpc("deleting", ""), "asked to delete VPC blue"},
		"who knows, gone":     {KeyVPCSpec("blue"), "?", gone, "deleted VPC blue"},
		"garbage":             {KeyVPCSpec("blue"), none, "{]", "created VPC blue: what was written cannot be read"},
		"an invalid record":   {KeyVPCSpec("blue"), vpc("active", ""), vpc("odd", ""), "changed VPC blue: what was written cannot be read"},
		"mended":              {KeyVPCSpec("blue"), "{]", vpc("active", ""), "changed VPC blue: members all, peer network 10.100.0.0/16, state active"},
		"nothing for a value": {KeyVPCSpec("blue"), vpc("active", ""), "", "changed VPC blue: what was written cannot be read"},
		"a node by hand":      {KeyNode("n1"), none, node("active", ""), "created node n1: agent true, datacenter hetzner, state active"},
		"a label":             {KeyNode("n1"), node("active", ""), node("active", `,"labels":{"rack":"7"}`), `changed node n1: labels {"rack":"7"}`},
		"drained":             {KeyNode("n1"), node("active", ""), node("draining", ""), "drained node n1: state active → draining"},
		"resumed":             {KeyNode("n1"), node("draining", ""), node("active", ""), "resumed node n1: state draining → active"},
		"given up":            {KeyNode("n1"), node("active", ""), node("active", `,"given_up":{"at":"2026-01-01T00:00:00.000Z"}`), `gave up node n1: given up {"at":"2026-01-01T00:00:00.000Z"}`},
		"not any more":        {KeyNode("n1"), node("active", `,"given_up":{"at":"2026-01-01T00:00:00.000Z"}`), node("active", ""), `changed node n1: no given up ({"at":"2026-01-01T00:00:00.000Z"} before)`},
		"removed":             {KeyNode("n1"), node("draining", ""), node("left", ""), "removed node n1: state draining → left"},
		"back again":          {KeyNode("n1"), node("left", ""), node("active", ""), "changed node n1: state left → active"},
		"another key":         {KeyNode("n1"), strings.Replace(node("active", ""), hashA, hashB, 1), node("active", ""), "changed node n1: another key"},
		"a token":             {KeyToken("t1"), none, token(5), "created token t1: expires 2026-01-01T01:00:00.000Z, role node, uses 5"},
		"a use of it":         {KeyToken("t1"), token(5), token(4), "changed token t1: uses 5 → 4"},
		"no token":            {KeyToken("t1"), token(5), gone, "revoked token t1"},
		"a user":              {KeyUser("vera"), none, user("viewer", hashA), "created user vera: role viewer"},
		"another role":        {KeyUser("vera"), user("viewer", hashA), user("admin", hashB), "changed user vera: another key, role viewer → admin"},
		"no user":             {KeyUser("vera"), user("viewer", hashA), gone, "revoked user vera"},
		"an era":              {KeyConfig, config(1), config(2), "changed the cluster's config: era 1 → 2"},
		"a server":            {KeyServer("s1"), none, `{"address":"192.0.2.1:2379","voter":true}`, "created server s1: address 192.0.2.1:2379, voter true"},
		"a status":            {KeyNodeStatus("n1"), none, "{}", ""},
		"a live record":       {KeyLive("n1"), none, "{}", ""},
		"an allocation":       {KeyAllocVNI(7), none, "{}", ""},
		"what is in force":    {KeyVPCNet("blue"), none, "{}", ""},
		"a ping":              {KeyVPCPing("blue"), none, "{}", ""},
		"an event":            {KeyEvent(time.Unix(1, 0), 1), none, "{}", ""},
		"no record":           {Root + "zzz", none, "{}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := Written{Key: tt.key, Blind: tt.old == "?"}
			if tt.old != none && tt.old != "?" {
				w.Old = []byte(tt.old)
			}
			if tt.new != gone {
				w.New = []byte(tt.new)
			}
			c, ok := Describe(w)
			got := ""
			if ok {
				got = c.String()
			}
			if got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			if strings.Contains(got, hashA) || strings.Contains(got, hashB) {
				t.Errorf("a hash is in %q", got)
			}
			if ok != (tt.want != "") || ok && !IntentKey(tt.key) {
				t.Errorf("described %v, an intent's key: %v", ok, IntentKey(tt.key))
			}
		})
	}
}

// TestDescribeAnything: what anybody may write is described, with no word that an
// event may not hold.
func TestDescribeAnything(t *testing.T) {
	value := rapid.OneOf(rapid.SliceOf(rapid.Byte()), rapid.Map(rapid.SampledFrom([]string{"null", "[]", "7", `""`, `{"state":7}`, `{"":""}`, `{"state":"left"}`,
		`{"a":{"b":[1]}}`, "{\"\u001b\":\"\u001b\"}", `{"key":"` + hashA + `","Hash":"` + hashA + `"}`}), func(s string) []byte { return []byte(s) }))
	rapid.Check(t, func(t *rapid.T) {
		w := Written{Key: rapid.SampledFrom([]string{KeyConfig, KeyNode("n"), KeyVPCSpec("v"), KeyToken("t"), KeyUser("u"), KeyServer("s")}).Draw(t, "key"),
			Old: rapid.OneOf(rapid.Just([]byte(nil)), value).Draw(t, "old"), New: value.Draw(t, "new"), Blind: rapid.Bool().Draw(t, "blind")}
		if c, ok := Describe(w); ok {
			e := &Event{Time: At(time.Unix(1, 0)), By: "user:alice", Changes: []Change{c}}
			if b, err := Encode(e, nil); err != nil || strings.Contains(string(b), hashA) {
				t.Fatalf("%s, %v", b, err)
			}
		}
	})
}

// TestIntentKey: the quick look says what the kind says.
func TestIntentKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.OneOf(rapid.String(), rapid.Map(rapid.SampledFrom([]string{"config", "config/", "nodes/a", "nodes/a/b", "vpcs/v/spec", "vpcs/v/net", "vpcs/spec",
			"vpcs/v/members/spec", "vpcs/v/endpoints/e/spec", "tokens/t", "users/u", "servers/s", "status/a/node", "events/1", "live/a"}), func(s string) string { return Root + s })).Draw(t, "key")
		k, err := ParseKey(key)
		if want := err == nil && Intent(k.Kind); IntentKey(key) != want {
			t.Errorf("IntentKey(%q) = %v, want %v", key, !want, want)
		}
	})
}

// TestChangeString is about what the controller tells.
func TestChangeString(t *testing.T) {
	for want, c := range map[string]Change{
		"joined the cluster: datacenter hetzner":    {Verb: VerbJoined, Key: "nodes/n1", Detail: "datacenter hetzner"},
		"was elected the controller":                {Verb: VerbElected, Key: "leader/controller"},
		"admitted n1, n2 to VPC blue":               {Verb: VerbAdmitted, Key: "vpcs/blue/net", Nodes: []string{"n1", "n2"}},
		"took n1 and 7 more out of VPC blue":        {Verb: VerbTookOut, Key: "vpcs/blue/net", Nodes: []string{"n1"}, More: 7},
		"refused n1 in VPC blue: no common family":  {Verb: VerbRefused, Key: "vpcs/blue/net", Nodes: []string{"n1"}, Detail: "no common family"},
		"repointed VPC blue to n1":                  {Verb: VerbRepointed, Key: "vpcs/blue/net", Nodes: []string{"n1"}},
		"brought up VPC blue: VNI 7, MTU 1430":      {Verb: VerbReady, Key: "vpcs/blue/net", Detail: "VNI 7, MTU 1430"},
		"cannot bring up VPC blue: no members":      {Verb: VerbHeldUp, Key: "vpcs/blue/net", Detail: "no members"},
		"reclaimed the record vpcs/blue/members/n1": {Verb: VerbReclaimed, Key: "vpcs/blue/members/n1"},
		"deleted the record vpcs/: and more":        {Verb: VerbDeleted, Key: "vpcs/", Detail: "and more"},
	} {
		if got := c.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestChangeAbout(t *testing.T) {
	c := Change{Verb: VerbAdmitted, Key: "vpcs/blue/net", Nodes: []string{"n1"}}
	n := Change{Verb: VerbJoined, Key: "nodes/n1"}
	odd := Change{Verb: VerbDeleted, Key: "vpcs/"}
	for name, ok := range map[string]bool{
		"all": c.About("", "") && n.About("", "") && odd.About("", ""), "its VPC": c.About("blue", "") && !n.About("blue", "") && !odd.About("blue", ""),
		"another": !c.About("red", ""), "its node": c.About("", "n1") && n.About("", "n1") && !c.About("", "n2"), "both": c.About("blue", "n1") && !c.About("red", "n1"),
	} {
		if !ok {
			t.Error(name)
		}
	}
}

// TestEventEncode: whatever is put into an event, what comes out is clean, and
// bounded.
func TestEventEncode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.Just(strings.Repeat("long ", 300)), rapid.Just("\x1b[31m\n"))
		change := rapid.Custom(func(t *rapid.T) Change {
			return Change{Verb: VerbChanged, Key: rapid.StringN(1, 60, 60).Draw(t, "key"), Detail: text.Draw(t, "detail"),
				Nodes: rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b"}), 0, 40).Draw(t, "nodes")}
		})
		e := &Event{Time: At(time.Unix(1, 0)), By: "user:alice", Why: text.Draw(t, "why"), Changes: rapid.SliceOfN(change, 1, 200).Draw(t, "changes")}
		n := len(e.Changes)
		b, err := Encode(e, nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Decode(KeyEvent(e.Time.Time, 1), b)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.(*Event); len(got.Changes)+got.More != n || len(b) > 60<<10 {
			t.Fatalf("%d changes and %d more of %d, in %d bytes", len(got.Changes), got.More, n, len(b))
		}
	})
}

func TestEventRefuses(t *testing.T) {
	good := func() *Event {
		return &Event{Time: At(time.Unix(1, 0)), By: "user:alice", Changes: []Change{{Verb: VerbCreated, Key: "nodes/n1"}}}
	}
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Event){
		"nobody": func(e *Event) { e.By = "" }, "no subject": func(e *Event) { e.By = "alice" }, "no time": func(e *Event) { e.Time = Time{} },
		"nothing": func(e *Event) { e.Changes = nil }, "no verb": func(e *Event) { e.Changes[0].Verb = "" }, "no key": func(e *Event) { e.Changes[0].Key = "" },
		"a long key": func(e *Event) { e.Changes[0].Key = strings.Repeat("k", 300) }, "less than nothing": func(e *Event) { e.More = -1 },
		"an escape": func(e *Event) { e.Changes[0].Detail = "\x1b" }, "an odd node": func(e *Event) { e.Changes[0].Nodes = []string{"\x1b"} },
		"too many": func(e *Event) { e.Changes = make([]Change, 129) }, "a count": func(e *Event) { e.Changes[0].More = -1 }, "an odd reason": func(e *Event) { e.Why = "\n" },
	} {
		e := good()
		if spoil(e); !errors.Is(e.Validate(), ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, e.Validate())
		}
	}
}

// TestKeyEvent: keys sort by time, and tell it.
func TestKeyEvent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ms := rapid.Int64Range(0, 9999999999999)
		a, b := ms.Draw(t, "a"), ms.Draw(t, "b")
		x, y := KeyEvent(time.UnixMilli(a), rapid.Uint64().Draw(t, "x")), KeyEvent(time.UnixMilli(b), rapid.Uint64().Draw(t, "y"))
		if a < b && x >= y || !EventTime(x).Equal(time.UnixMilli(a)) || x < KeyEventsSince(time.UnixMilli(a)) || a < b && x >= KeyEventsSince(time.UnixMilli(b)) {
			t.Errorf("%d is %s, %d is %s", a, x, b, y)
		}
		if k, err := ParseKey(x); err != nil || k.Kind != KindEvent {
			t.Errorf("%s: %+v, %v", x, k, err)
		}
	})
	if !EventTime(KeyNode("a")).IsZero() || !EventTime(PrefixEvents+"1").IsZero() {
		t.Error("what is no event has a time")
	}
}
