// Package store reads, watches and writes records over an mvcc.KV, whatever
// serves it.
//
// Writing: a Change names records to put and delete; Commit turns it into one
// transaction, guarded by the revision of everything that it replaces, by the
// identity's rights (cluster.MayWrite) and, if the Store has a fence, by the
// leader's key. A lost race is ErrConflict: read again, decide again.
//
// Reading: a Mirror keeps prefixes of the store in memory. Its View is what
// level-triggered loops compute from. A Feed is the same for one prefix, step by
// step: a Mirror's goroutines take its steps, a simulation takes them by itself.
// The guarantees of both:
//
//   - What a View holds for a prefix is the store's content at one revision.
//     No state is shown that never was, and the newest is shown at last.
//   - Compaction, lost connections, lost quorum and leader changes cost a
//     delay or a new list, never an event.
//   - A store that is away is asked by one of a Mirror's feeds, with a pause that
//     grows; when it is back the others follow a little apart. A cluster's hosts
//     do not fall upon it together.
//   - A store that went back in time (a restore) is listed anew. Before a feed
//     goes on after a lost connection, and from time to time besides (Verify),
//     it reads the store's history where it had come to: the cluster's id and
//     every key must be the same. Of more keys than fit in a page, it compares
//     their number, the newest, and one page after the other, each time the
//     next; what differs elsewhere is found when its page comes. Until then a
//     watch may add the new history's events to the old one's keys. So a restore
//     raises the revision and marks the past as compacted.
//   - A record that cannot be decoded (garbage, or newer than this build)
//     leaves its last good value in place, and View.Problems says so.
//
// Leading: Campaign elects one controller by a key on a lease. Its Leadership
// gives up by its own clock before another can win; what makes two leaders
// safe nevertheless is the fence in every Commit. Lease keeps an agent's
// liveness record alive.
package store
