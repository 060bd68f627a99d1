// Package allocator gives out VNIs, VTEP addresses, and the addresses and MACs of
// endpoints: the lowest free first, a MAC by its holder's name, each to one holder.
//
// What makes a double impossible is the store, not this package: each value has
// a reverse key under alloc/, and a claim adds it to the transaction of the
// record that needs it, guarded by its absence. The pools in memory only make
// that cheap: they know what is taken, so that a claim costs O(log n), needs no
// read, and does not collide as long as there is one allocator, the elected
// controller.
//
// A claim goes: Claim…, AddTo the change, commit, Settle with the outcome.
//
//   - A holder that holds a value gets the same one again: what vanished by
//     mistake is rebuilt as it was, also after a crash between any two steps.
//   - A lost race frees the claim. Whoever cannot wait for the view to tell who
//     won asks with Learn.
//   - After an unknown outcome the value stays claimed until it was read: by
//     Learn, or by a view that has reached Barrier.
//   - Giving back is Release: it marks the reverse key, which still keeps the
//     value taken. Quarantine says when it may be deleted. Free is only what has
//     no reverse key.
//
// An Allocator is safe for concurrent use. With several goroutines the lowest
// free value is the lowest that none of them is claiming.
package allocator
