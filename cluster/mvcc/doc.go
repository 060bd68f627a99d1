// Package mvcc is etcd's key-value model without etcd: the contract KV that
// everything above speaks, and a state machine with the same semantics.
//
//   - State is pure: a command goes in (Txn, Compact, Grant, Revoke), an answer
//     comes out, and Events tells what changed. No goroutine, clock or I/O. A
//     replicated engine feeds it from a log; the same commands give the same
//     state everywhere.
//   - Lessor holds the deadlines of leases, which are no part of the replicated
//     state: like etcd, a new leader starts every lease afresh.
//   - Memory is a KV over both, in one process: the store of tests and of
//     simulations, with the faults that a real store has.
//
// What holds, as in etcd 3.7: the empty store is at revision 1; a transaction
// that changes something takes the next revision, one that changes nothing
// (a delete of nothing, a failed guard without Else) takes none; an operation
// sees what the operations before it in its transaction did; history reaches
// back to the compacted revision, inclusive; a lease's end deletes its keys in
// one revision. The differential test in cluster/engine/enginetest holds this
// package against an embedded etcd.
//
// Out of scope: nested transactions, sorting, compares over ranges, previous
// values, quotas and authorization. Values that are handed out share memory
// with the store and must not be written to.
package mvcc
