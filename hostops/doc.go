// Package hostops makes one host's network equal to a desired state.
//
// The work has four steps, and only the outer two touch a kernel: observe what
// carries our mark, take the desired state, plan the operations that turn one
// into the other (pure), apply them. Desired is plain values; where it comes
// from is not this package's business: hostops knows nothing of the store.
//
// Drivers live in sub-packages: linux, and fake for tests and simulation. Both
// pass hosttest.
package hostops
