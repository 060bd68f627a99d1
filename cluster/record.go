package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Version is what this build understands; a record that needs more is left
// alone.
const Version = 5

// The first versions that know of LearnStatic, of a Gateway, of LearnPublish, of workloads
// (an older agent would let frames pass to one that does not run), and of GatewayActive
// and Routes.
const (
	versionStatic   = 2
	versionGateway  = 3
	versionPublish  = 4
	versionWorkload = 4
	versionActive   = 5
)

// Record is what every record type does. Validate wraps ErrInvalid and says
// which field breaks which rule.
type Record interface {
	Validate() error
}

// Time is a moment in UTC with milliseconds, as records hold it.
type Time struct{ time.Time }

// At rounds t to what a record holds.
func At(t time.Time) Time { return Time{t.UTC().Truncate(time.Millisecond)} }

const timeLayout = "2006-01-02T15:04:05.000Z"

// MarshalText writes RFC 3339 UTC with milliseconds; the zero time is empty.
func (t Time) MarshalText() ([]byte, error) {
	if t.IsZero() {
		return nil, nil
	}
	return []byte(t.UTC().Format(timeLayout)), nil
}

// UnmarshalText reads RFC 3339.
func (t *Time) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*t = Time{}
		return nil
	}
	v, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil {
		return fmt.Errorf("%w time %q: want RFC 3339", ErrInvalid, b)
	}
	if v.UTC().Year() > 9999 {
		return fmt.Errorf("%w time %q: want a year of four digits", ErrInvalid, b)
	}
	*t = At(v)
	return nil
}

// MarshalJSON writes MarshalText's form: the one of the embedded time.Time would
// be taken otherwise.
func (t Time) MarshalJSON() ([]byte, error) {
	b, err := t.MarshalText()
	return slices.Concat([]byte{'"'}, b, []byte{'"'}), err
}

// UnmarshalJSON reads a string as UnmarshalText does; null is the zero time.
func (t *Time) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("%w time %s: want a string", ErrInvalid, CleanText(string(b)))
	}
	return t.UnmarshalText([]byte(s))
}

// MaxRecord is the largest record in bytes; larger ones are refused unread.
const MaxRecord = 1 << 20

// Decode reads and validates the record at key. Errors wrap ErrUnknownKey,
// ErrNewer or ErrInvalid.
func Decode(key string, value []byte) (Record, error) {
	k, err := ParseKey(key)
	if err != nil {
		return nil, err
	}
	r := newRecord(k.Kind)
	if r == nil {
		return nil, fmt.Errorf("%w %q", ErrUnknownKey, key)
	}
	if err := decodeInto(r, value); err != nil {
		return nil, fmt.Errorf("record %s: %w", key, err)
	}
	return r, nil
}

func decodeInto(r Record, value []byte) error {
	if len(value) > MaxRecord {
		return tooLarge(len(value))
	}
	n, err := needs(value)
	switch {
	case err != nil:
		return err
	case n > Version:
		return newer(n)
	}
	if err := json.Unmarshal(value, r); err != nil {
		if errors.Is(err, ErrInvalid) {
			return err
		}
		return fmt.Errorf("%w JSON: %v", ErrInvalid, err)
	}
	return r.Validate()
}

// asksForNone reports whether a look is enough to see that value, an object if
// it is JSON at all, has no member "needs" in any spelling that encoding/json
// takes. So it is with nearly all records, and parsing each twice would be half
// of the cost of reading many.
func asksForNone(value []byte) bool {
	if !bytes.HasPrefix(value, []byte("{")) {
		return false
	}
	for i, c := range value {
		switch {
		case c == '\\', c >= 0x80: // another spelling
			return false
		case c == '"' && i+5 < len(value) && strings.EqualFold(string(value[i+1:i+6]), "needs"):
			return false
		}
	}
	return true
}

// needs reads the version that a record asks for; it must be a JSON object.
func needs(value []byte) (int64, error) {
	if asksForNone(value) {
		return 0, nil
	}
	var head *struct {
		Needs int64 `json:"needs"`
	}
	if err := json.Unmarshal(value, &head); err != nil {
		return 0, fmt.Errorf("%w JSON: %v", ErrInvalid, err)
	}
	if head == nil || head.Needs < 0 {
		return 0, fmt.Errorf("%w record: want a JSON object, needs 0 or more", ErrInvalid)
	}
	return head.Needs, nil
}

func newer(n int64) error {
	return fmt.Errorf("%w: version %d, this is version %d", ErrNewer, n, Version)
}

func tooLarge(n int) error {
	return fmt.Errorf("%w record: %d bytes, at most %d", ErrInvalid, n, MaxRecord)
}

func newRecord(k Kind) Record {
	switch k {
	case KindConfig:
		return new(Config)
	case KindNode:
		return new(Node)
	case KindLive:
		return new(Live)
	case KindVPCSpec:
		return new(VPCSpec)
	case KindVPCNet:
		return new(VPCNet)
	case KindVPCPing:
		return new(PingRequest)
	case KindVPCFind:
		return new(FindRequest)
	case KindMember:
		return new(Member)
	case KindHostVPC:
		return new(HostVPC)
	case KindHostLink:
		return new(HostLink)
	case KindNodeStatus:
		return new(NodeStatus)
	case KindVPCStatus:
		return new(VPCStatus)
	case KindPingResult:
		return new(PingResult)
	case KindFindResult:
		return new(FindResult)
	case KindEndpoint:
		return new(EndpointSpec)
	case KindOwn:
		return new(EndpointOwn)
	case KindPort:
		return new(EndpointStatus)
	case KindRequest:
		return new(Request)
	case KindHold:
		return new(Hold)
	case KindJudgement:
		return new(Judgement)
	case KindDrill:
		return new(Drill)
	case KindFence:
		return new(Fence)
	case KindVerdicts:
		return new(Verdicts)
	case KindFenced:
		return new(FenceStatus)
	case KindMACStatus:
		return new(MACStatus)
	case KindPublished:
		return new(PublishedMAC)
	case KindAllocVNI, KindAllocVTEP, KindAllocIP, KindAllocMAC:
		return new(Allocation)
	case KindServer:
		return new(Server)
	case KindToken:
		return new(Token)
	case KindTrust:
		return &Trusting{}
	case KindUser:
		return new(User)
	case KindLeader:
		return new(Leader)
	case KindEvent:
		return new(Event)
	}
	return nil
}

// Encode cleans r's free text (see CleanText), validates r and writes it as
// JSON. Fields of prior, the bytes that it
// replaces, that r's type does not know are kept, in nested objects too, so
// that an old version does not strip what a newer one wrote. Prior may be nil
// or garbage, of which nothing is kept; one that needs a newer version is
// ErrNewer, since nobody here knows what its fields mean together. Other
// errors wrap ErrInvalid.
func Encode(r Record, prior []byte) ([]byte, error) {
	if c, ok := r.(cleaner); ok {
		c.clean()
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	out, err := marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	if n, err := needs(prior); err == nil && n > Version {
		return nil, newer(n)
	}
	out = keepUnknown(out, prior, reflect.TypeOf(r))
	if len(out) > MaxRecord {
		return nil, tooLarge(len(out))
	}
	return out, nil
}

// keepUnknown adds to the object out those members of prior that t has no
// field for, and does the same inside members that are structs. Elements of
// lists have no identity, so those are replaced whole.
func keepUnknown(out, prior []byte, t reflect.Type) []byte {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var was, is map[string]json.RawMessage
	if t.Kind() != reflect.Struct || json.Unmarshal(prior, &was) != nil || json.Unmarshal(out, &is) != nil {
		return out
	}
	known := fields(t)
	changed := false
	for name, old := range was {
		field, ok := known.named(name)
		if !ok {
			is[name] = old
			changed = true
			continue
		}
		if now, ok := is[field.name]; ok {
			if merged := keepUnknown(now, old, field.of); !bytes.Equal(merged, now) {
				is[field.name] = merged
				changed = true
			}
		}
	}
	if !changed {
		return out
	}
	merged, err := marshal(is)
	if err != nil {
		return out // cannot be: every member was JSON
	}
	return merged
}

// marshal is json.Marshal that leaves <, > and & readable.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

type field struct {
	name string
	of   reflect.Type
}

type fieldList []field

// named finds a field as encoding/json does, which takes any case: another
// spelling of a known name is not an unknown field.
func (fs fieldList) named(name string) (field, bool) {
	for _, f := range fs {
		if strings.EqualFold(f.name, name) {
			return f, true
		}
	}
	return field{}, false
}

// fields lists the JSON names of t with their types, embedded structs included.
func fields(t reflect.Type) fieldList {
	var list fieldList
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			list = append(list, fields(f.Type)...)
		case name != "" && name != "-":
			list = append(list, field{name, f.Type})
		}
	}
	return list
}
