package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Written is one write of a record, for Describe.
type Written struct {
	Key string
	Old []byte // what was there; nil: nothing
	New []byte // what is now; nil: it was deleted
	// Blind says that nobody knows what was there.
	Blind bool
}

// Intent reports whether records of a kind are what people want, so that each
// change of one is an event.
func Intent(k Kind) bool {
	switch k {
	case KindConfig, KindNode, KindVPCSpec, KindEndpoint, KindToken, KindUser, KindServer:
		return true
	}
	return false
}

// IntentKey is Intent of a key's kind, and quick: most keys are of others.
func IntentKey(key string) bool {
	if strings.HasPrefix(key, PrefixVPCs) && !strings.HasSuffix(key, "/spec") {
		return false
	}
	if !slices.ContainsFunc(intents, func(family string) bool { return strings.HasPrefix(key, family) }) {
		return false
	}
	k, err := ParseKey(key)
	return err == nil && Intent(k.Kind)
}

var intents = []string{KeyConfig, PrefixNodes, PrefixVPCs, PrefixToks, PrefixUsers, PrefixSrvs}

// Intents are the families of records that hold what people want, and others;
// ParseKey tells those of one apart.
func Intents() []string { return slices.Clone(intents) }

// Describe says what a write does to a record of what people want; false for a
// record of another kind, and for a write that changes nothing. It is pure.
func Describe(w Written) (Change, bool) {
	k, err := ParseKey(w.Key)
	if err != nil || !Intent(k.Kind) {
		return Change{}, false
	}
	c := Change{Key: Short(w.Key)}
	switch {
	case w.New == nil:
		c.Verb = deletion(k.Kind)
		return c, w.Blind || w.Old != nil
	case w.Blind:
		c.Verb = VerbChanged
	case w.Old == nil:
		c.Verb, c.Detail = VerbCreated, fieldsOf(w.New)
	default:
		c.Verb, c.Detail = VerbChanged, differences(w.Old, w.New)
	}
	if _, err := Decode(w.Key, w.New); err != nil {
		c.Detail = "what was written cannot be read"
		return c, true
	}
	if v := stateVerb(k.Kind, w); v != "" {
		c.Verb = v
	}
	return c, w.Blind || w.Old == nil || c.Detail != ""
}

func deletion(k Kind) Verb {
	if k == KindToken || k == KindUser {
		return VerbRevoked
	}
	return VerbDeleted
}

// stateVerb is the word for a change of a state, "" if there is none.
func stateVerb(k Kind, w Written) Verb {
	var was, is struct {
		State   string   `json:"state"`
		GivenUp *GivenUp `json:"given_up"`
	}
	if json.Unmarshal(w.New, &is) != nil || w.Old == nil && !w.Blind || w.Old != nil && json.Unmarshal(w.Old, &was) != nil {
		return ""
	}
	given := k == KindNode && is.GivenUp != nil && (was.GivenUp == nil || *was.GivenUp != *is.GivenUp)
	switch {
	case given:
		return VerbGaveUp
	case was.State == is.State:
		return ""
	case k == KindNode && is.State == string(NodeLeft):
		return VerbRemoved
	case k == KindNode && is.State == string(NodeDraining):
		return VerbDrained
	case k == KindNode && is.State == string(NodeActive) && was.State == string(NodeDraining):
		return VerbResumed
	case k == KindVPCSpec && is.State == string(VPCDeleting), k == KindEndpoint && is.State == string(EndpointDeleting):
		return VerbAsked
	}
	return ""
}

// Fields that an event leaves out, or does not show the value of.
var (
	unsaid = []string{"needs", "created", "joined", "by"}
	hidden = []string{"hash", "key", "trust"}
)

// fieldsOf lists the fields of a new record.
func fieldsOf(value []byte) string {
	fields := members(value)
	var list []string
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(hidden, name) && name != "id" {
			list = append(list, spoken(name)+" "+short(fields[name]))
		}
	}
	return strings.Join(list, ", ")
}

// differences lists the fields that are not what they were.
func differences(old, new []byte) string {
	was, is := members(old), members(new)
	names := maps.Clone(was)
	maps.Copy(names, is)
	var list []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		a, had := was[name]
		b, has := is[name]
		switch {
		case had && has && bytes.Equal(a, b):
		case slices.Contains(hidden, name):
			list = append(list, "another "+name)
		case !had:
			list = append(list, spoken(name)+" "+short(b))
		case !has:
			list = append(list, "no "+spoken(name)+" ("+short(a)+" before)")
		default:
			list = append(list, fmt.Sprintf("%s %s → %s", spoken(name), short(a), short(b)))
		}
	}
	return strings.Join(list, ", ")
}

// members are the fields of a record, in their compact form.
func members(value []byte) map[string]json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(value, &fields) != nil || fields == nil {
		return map[string]json.RawMessage{}
	}
	plain := make(map[string]json.RawMessage, len(fields))
	for name, v := range fields {
		var b bytes.Buffer
		if name = strings.ToLower(name); !slices.Contains(unsaid, name) && json.Compact(&b, v) == nil { // JSON takes any case
			plain[name] = b.Bytes()
		}
	}
	return plain
}

func spoken(name string) string { return strings.ReplaceAll(name, "_", " ") }

const longestValue = 60 // bytes of one field's value in an event

// short is a value without the quotes of a plain string, cut if it is long.
func short(v json.RawMessage) string {
	s := string(v)
	var text string
	if json.Unmarshal(v, &text) == nil && text != "" && s[0] == '"' {
		s = text
	}
	if len(s) > longestValue {
		s = strings.ToValidUTF8(s[:longestValue], "") + "…"
	}
	return s
}
