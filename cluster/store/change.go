package store

import (
	"bytes"
	"context"
	"fmt"
	"iter"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// Change is a set of writes that commit together or not at all. Each write is
// guarded by the revision it was decided from. The zero Change is empty.
type Change struct {
	Why    string // for the log: what decided it
	guards []mvcc.Compare
	ops    []mvcc.Op
	check  []write
	err    error
}

type write struct {
	key      string
	deleting bool
}

// Put writes r in place of item: it must not have changed, and fields that
// this build does not know are kept. The zero Item (with Key set) means the
// record must not exist yet. A record that needs a newer version is not
// overwritten: Commit returns cluster.ErrNewer.
func Put[T cluster.Record](c *Change, item Item[T], r T) { put(c, item, r, item.lease) }

// PutLeased is Put of a record that goes when the lease ends.
func PutLeased[T cluster.Record](c *Change, item Item[T], r T, lease mvcc.LeaseID) {
	put(c, item, r, lease)
}

func put[T cluster.Record](c *Change, item Item[T], r T, lease mvcc.LeaseID) {
	value, err := cluster.Encode(r, item.raw)
	if err != nil {
		c.fail(item.Key, err)
		return
	}
	c.Require(item.Key, item.Mod)
	c.ops = append(c.ops, mvcc.Op{Kind: mvcc.OpPut, Key: item.Key, Value: value, Lease: lease})
	c.check = append(c.check, write{key: item.Key})
}

// Set writes r at key whatever is there; unknown fields of prior are kept. Only
// for records whose one writer keeps their whole content, such as a node's
// status: that one passes nil, and thus also replaces what a newer version
// wrote before it was downgraded.
func Set(c *Change, key string, r cluster.Record, prior []byte, lease mvcc.LeaseID) {
	value, err := cluster.Encode(r, prior)
	if err != nil {
		c.fail(key, err)
		return
	}
	c.ops = append(c.ops, mvcc.Op{Kind: mvcc.OpPut, Key: key, Value: value, Lease: lease})
	c.check = append(c.check, write{key: key})
}

// Create writes r at key, which must not exist.
func Create(c *Change, key string, r cluster.Record) {
	Put(c, Item[cluster.Record]{Key: key}, r)
}

// Remove deletes key, which must not have changed since mod. Mod 0 deletes
// whatever is there.
func (c *Change) Remove(key string, mod int64) {
	if mod != 0 {
		c.Require(key, mod)
	}
	c.ops = append(c.ops, mvcc.Delete(key))
	c.check = append(c.check, write{key: key, deleting: true})
}

// Require adds a guard: key must still be at mod; 0 means it must not exist.
// The same guard twice counts once.
func (c *Change) Require(key string, mod int64) {
	for _, g := range c.guards {
		if g.Key == key && g.Number == mod {
			return
		}
	}
	c.guards = append(c.guards, mvcc.Unchanged(key, mod))
}

// Ops counts the change's writes. A transaction holds mvcc.MaxTxnOps of them,
// and as many guards, of which a fence takes one.
func (c *Change) Ops() int { return len(c.ops) }

// Fits reports whether c and o together are still one transaction.
func (c *Change) Fits(o Change) bool {
	return len(c.ops)+len(o.ops) <= mvcc.MaxTxnOps && len(c.guards)+len(o.guards) < mvcc.MaxTxnOps
}

// Keys lists the keys that the change writes.
func (c *Change) Keys() []string {
	keys := make([]string, len(c.check))
	for i, w := range c.check {
		keys[i] = w.key
	}
	return keys
}

// Writes yields each key that the change writes with its value, nil for a deletion.
func (c *Change) Writes() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for _, op := range c.ops {
			if !yield(op.Key, op.Value) {
				return
			}
		}
	}
}

// Add appends another change to c. One key can be written once in a change.
func (c *Change) Add(o Change) {
	for _, g := range o.guards {
		c.Require(g.Key, g.Number)
	}
	c.ops = append(c.ops, o.ops...)
	c.check = append(c.check, o.check...)
	if c.err == nil {
		c.err = o.err
	}
}

// String lists the keys that c writes, for logs and golden files.
func (c *Change) String() string {
	var b bytes.Buffer
	for _, op := range c.ops {
		if op.Kind == mvcc.OpDelete {
			fmt.Fprintf(&b, "delete %s\n", op.Key)
		} else {
			fmt.Fprintf(&b, "put %s %s\n", op.Key, op.Value)
		}
	}
	return b.String()
}

func (c *Change) fail(key string, err error) {
	if c.err == nil {
		c.err = fmt.Errorf("write %s: %w", key, err)
	}
}

// Commit applies c and returns the revision that it made; an empty change makes
// none. ErrConflict means a guard did not hold, ErrFenced that s is no longer
// the leader's, ErrTooLarge that c holds too many operations,
// mvcc.ErrDuplicateKey that it writes a key twice, mvcc.ErrLeaseNotFound that
// a lease is gone; errors of cluster that a record or its writer is wrong.
// Nothing was written then. Any other error is the connection's and leaves
// open whether c was applied: read, then decide.
func (s *Store) Commit(ctx context.Context, c Change) (int64, error) {
	if c.err != nil {
		return 0, c.err
	}
	for _, w := range c.check {
		if err := cluster.MayWrite(s.as, w.key, w.deleting); err != nil {
			return 0, err
		}
	}
	txn := mvcc.TxnRequest{If: c.guards, Then: c.ops}
	if s.fence != nil {
		txn.If = append([]mvcc.Compare{*s.fence}, txn.If...)
		txn.Else = []mvcc.Op{mvcc.Get(s.fence.Key)}
	}
	if len(txn.If) > mvcc.MaxTxnOps || len(txn.Then) > mvcc.MaxTxnOps {
		return 0, fmt.Errorf("commit %d writes: %w of %d operations", len(txn.Then), ErrTooLarge, mvcc.MaxTxnOps)
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	r, err := s.kv.Txn(ctx, txn)
	switch {
	case err != nil:
		return 0, fmt.Errorf("commit: %w", err)
	case r.Succeeded:
		return r.Revision, nil
	case s.fence != nil && !stillLeads(r, s.fence):
		return 0, ErrFenced
	}
	return 0, ErrConflict
}

func stillLeads(r mvcc.TxnResponse, fence *mvcc.Compare) bool {
	return len(r.Responses) == 1 && len(r.Responses[0].Keys) == 1 &&
		r.Responses[0].Keys[0].CreateRevision == fence.Number
}
