// Package hostops makes one host's network equal to a desired state.
//
// The work has four steps, and only the outer two touch a kernel: observe what
// carries our mark, take the desired state, plan the operations that turn one
// into the other (pure), apply them. Desired is plain values; where it comes
// from is not this package's business: hostops knows nothing of the store.
//
// A peer is reached by a tunnel that all peers share, one device for each
// underlay family, or by one of its own. When it changes between the two, both
// are there and receive for a while, and only one sends: TestHandover holds that
// no broadcast is lost on the way, and that one arrives twice only between the
// two operations that hand over, one right after the other. What was learned behind
// a shared tunnel goes by it still, until the host sends to nobody by it: then its
// port is silent, too, before it goes.
//
// A plan is applied in batches: of one, no operation needs another, and a driver
// that is a Batcher gives all to its kernel at once. Entries of tables go
// together, and the tunnels of pairs step by step: all are made, then all are
// ports, isolated, up. So what fails keeps only what follows on it from being done.
//
// Drivers live in sub-packages: linux, and fake for tests and simulation. Both
// pass hosttest.
package hostops
