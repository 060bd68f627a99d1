package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Version is what this build understands; a record that needs more is left
// alone.
const Version = 1

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
	*t = At(v)
	return nil
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
		return fmt.Errorf("%w: %d bytes, at most %d", ErrInvalid, len(value), MaxRecord)
	}
	var head struct {
		Needs int `json:"needs"`
	}
	if err := json.Unmarshal(value, &head); err != nil {
		return fmt.Errorf("%w JSON: %v", ErrInvalid, err)
	}
	if head.Needs > Version {
		return fmt.Errorf("%w: version %d, this is version %d", ErrNewer, head.Needs, Version)
	}
	if err := json.Unmarshal(value, r); err != nil {
		if errors.Is(err, ErrInvalid) {
			return err
		}
		return fmt.Errorf("%w JSON: %v", ErrInvalid, err)
	}
	return r.Validate()
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
	case KindMember:
		return new(Member)
	case KindHostVPC:
		return new(HostVPC)
	case KindNodeStatus:
		return new(NodeStatus)
	case KindVPCStatus:
		return new(VPCStatus)
	case KindPingResult:
		return new(PingResult)
	case KindAllocVNI, KindAllocVTEP:
		return new(Allocation)
	case KindServer:
		return new(Server)
	case KindLeader:
		return new(Leader)
	}
	return nil
}

// Encode validates r and writes it as JSON. Fields of prior, the bytes that it
// replaces, that r's type does not know are kept, in nested objects too, so
// that an old version does not strip what a newer one wrote. Prior may be nil.
func Encode(r Record, prior []byte) ([]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	out, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	if len(prior) == 0 || !json.Valid(prior) {
		return out, nil
	}
	return keepUnknown(out, prior, reflect.TypeOf(r))
}

// keepUnknown adds to the object out those members of prior that t has no
// field for, and does the same inside members that are structs.
func keepUnknown(out, prior []byte, t reflect.Type) ([]byte, error) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var was, is map[string]json.RawMessage
	if t.Kind() != reflect.Struct || json.Unmarshal(prior, &was) != nil || json.Unmarshal(out, &is) != nil {
		return out, nil
	}
	known := fields(t)
	changed := false
	for name, old := range was {
		ft, ok := known[name]
		now, set := is[name]
		switch {
		case !ok:
			is[name] = old
		case set && ft.Kind() == reflect.Struct:
			merged, err := keepUnknown(now, old, ft)
			if err != nil {
				return nil, err
			}
			if bytes.Equal(merged, now) {
				continue
			}
			is[name] = merged
		default:
			continue
		}
		changed = true
	}
	if !changed {
		return out, nil
	}
	return json.Marshal(is)
}

// fields maps JSON names of t to field types, embedded structs included.
func fields(t reflect.Type) map[string]reflect.Type {
	m := map[string]reflect.Type{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			for n, ft := range fields(f.Type) {
				m[n] = ft
			}
		case name != "" && name != "-":
			m[name] = f.Type
		}
	}
	return m
}
