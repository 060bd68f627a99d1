// Package store reads, watches and writes records over an mvcc.KV, whatever
// serves it.
//
// Writing: a Change names records to put and delete; Commit turns it into one
// transaction, guarded by the revision of everything that it replaces, by the
// identity's rights (cluster.MayWrite) and, if the Store has a fence, by the
// leader's key. A lost race is ErrConflict: read again, decide again.
//
// Reading: a Mirror keeps prefixes of the store in memory. Its View is what
// level-triggered loops compute from. The guarantees of a Mirror:
//
//   - What a View holds for a prefix is the store's content at one revision.
//     No state is shown that never was, and the newest is shown at last.
//   - Compaction, lost connections, lost quorum and leader changes cost a
//     delay or a new list, never an event.
//   - A store that went back in time (a restore) is noticed by its cluster id,
//     by its revision or by an anchor key whose content differs, and is listed
//     anew.
//   - A record that cannot be decoded (garbage, or newer than this build)
//     leaves its last good value in place, and View.Problems says so.
package store
