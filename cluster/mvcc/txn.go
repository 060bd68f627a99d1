package mvcc

import (
	"bytes"
	"cmp"
	"slices"
)

// Validate finds what a transaction has wrong whatever the store holds, in
// etcd's order: ErrTooManyOps, ErrEmptyKey, then ErrDuplicateKey when a list
// puts a key twice or both puts and deletes it.
func (t TxnRequest) Validate() error {
	if max(len(t.If), len(t.Then), len(t.Else)) > MaxTxnOps {
		return ErrTooManyOps
	}
	if slices.ContainsFunc(t.If, func(c Compare) bool { return c.Key == "" }) {
		return ErrEmptyKey
	}
	for _, op := range slices.Concat(t.Then, t.Else) {
		if op.Key == "" {
			return ErrEmptyKey
		}
	}
	if overlaps(t.Then) || overlaps(t.Else) {
		return ErrDuplicateKey
	}
	return nil
}

// overlaps is etcd's check. It compares the ends of deletes as they are
// written, so "\x00" (no end) overlaps nothing; such a put and delete run in
// the order given.
func overlaps(ops []Op) bool {
	puts := make(map[string]bool)
	for _, op := range ops {
		if op.Kind == OpPut {
			if puts[op.Key] {
				return true
			}
			puts[op.Key] = true
		}
	}
	for _, op := range ops {
		if op.Kind != OpDelete {
			continue
		}
		for k := range puts {
			if k == op.Key && op.End == "" || op.Key <= k && k < op.End {
				return true
			}
		}
	}
	return false
}

// Txn applies a transaction whole or not at all. Errors: those of
// TxnRequest.Validate, and ErrLeaseNotFound when a put of the list that would
// run names a lease that is gone.
func (s *State) Txn(t TxnRequest) (TxnResponse, error) {
	if err := t.Validate(); err != nil {
		return TxnResponse{}, err
	}
	resp := TxnResponse{Succeeded: true}
	ops := t.Then
	for _, c := range t.If {
		if !s.holds(c) {
			resp.Succeeded, ops = false, t.Else
			break
		}
	}
	for _, op := range ops {
		if op.Kind == OpPut && op.Lease != 0 {
			if _, ok := s.leases.Get(op.Lease); !ok {
				return TxnResponse{}, ErrLeaseNotFound
			}
		}
	}
	w := writer{State: s, revision: s.revision + 1}
	for _, op := range ops {
		resp.Responses = append(resp.Responses, w.apply(op))
	}
	w.commit()
	resp.Revision = s.revision
	return resp, nil
}

func (s *State) holds(c Compare) bool {
	kv, ok := s.current.Get(c.Key)
	var order int
	switch c.Target {
	case TargetVersion:
		order = cmp.Compare(kv.Version, c.Number)
	case TargetCreate:
		order = cmp.Compare(kv.CreateRevision, c.Number)
	case TargetMod:
		order = cmp.Compare(kv.ModRevision, c.Number)
	case TargetLease:
		order = cmp.Compare(int64(kv.Lease), c.Number)
	case TargetValue:
		if !ok {
			return false
		}
		order = bytes.Compare(kv.Value, c.Value)
	default:
		return false
	}
	switch c.Relation {
	case Equal:
		return order == 0
	case NotEqual:
		return order != 0
	case Greater:
		return order > 0
	case Less:
		return order < 0
	}
	return false
}

// writer gathers the events of the revision that a command may make.
type writer struct {
	*State
	revision int64
	events   []Event
}

func (w *writer) apply(op Op) OpResponse {
	switch op.Kind {
	case OpPut:
		w.put(op)
		return OpResponse{}
	case OpDelete:
		var keys []string
		w.scan(op.Key, op.End, 0, func(kv KeyValue) { keys = append(keys, kv.Key) })
		for _, k := range keys {
			w.remove(k)
		}
		return OpResponse{Deleted: int64(len(keys))}
	}
	// Validate has seen the key, and the current revision can always be read.
	r, _ := w.Range(RangeRequest{Key: op.Key, End: op.End, Limit: op.Limit, KeysOnly: op.KeysOnly})
	return OpResponse{Keys: r.Keys, Count: r.Count, More: r.More}
}

func (w *writer) put(op Op) {
	kv, ok := w.current.Get(op.Key)
	if !ok {
		kv = KeyValue{Key: op.Key, CreateRevision: w.revision}
	}
	w.detach(kv)
	kv.ModRevision, kv.Lease = w.revision, op.Lease
	kv.Version++
	kv.Value = nil // etcd does not tell empty from absent
	if len(op.Value) > 0 {
		kv.Value = bytes.Clone(op.Value)
	}
	if kv.Lease != 0 {
		w.attached.Set(attachment{kv.Lease, kv.Key})
	}
	w.current.Set(kv.Key, kv)
	w.record(Event{KV: kv})
}

func (w *writer) remove(key string) {
	kv, _ := w.current.Delete(key)
	w.detach(kv)
	w.record(Event{Deleted: true, KV: KeyValue{Key: key, ModRevision: w.revision}})
}

func (w *writer) detach(kv KeyValue) {
	if kv.Lease != 0 {
		w.attached.Delete(attachment{kv.Lease, kv.Key})
	}
}

func (w *writer) record(e Event) {
	w.versions.Set(e)
	w.events = append(w.events, e)
}

// commit makes the revision, unless nothing changed.
func (w *writer) commit() {
	if len(w.events) > 0 {
		w.State.revision = w.revision
		w.log = append(w.log, change{w.revision, w.events})
	}
}
