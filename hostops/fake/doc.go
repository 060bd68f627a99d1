// Package fake is a hostops driver over hosts that exist in memory only: a
// small true implementation with the semantics and the traps of Linux, for
// tests and for the simulation of thousands of hosts.
//
// A Network is the underlay, a Host is one host's kernel on it; it outlives the
// drivers that are opened on it, as a kernel outlives its agents. Methods of
// Host other than Open tamper: they are what an administrator could do behind
// the driver's back, and drivers signal them as changes.
//
// The traps: a second tunnel with the same VNI, port and family is EEXIST, ours
// or not; a tunnel's MTU is bounded by its underlay's; a bridge's MTU follows
// its ports until somebody sets it to another value; a tunnel's port loses its
// isolation and its way of flooding with its bridge, and one that is up without
// isolation is a loop, which is recorded; the group of a tunnel takes effect as
// it comes up, and takes a place in its flood list by itself; a bridge has one
// FDB entry of a MAC and forgets those of a port that leaves; neighbours go with
// a namespace's last address; a deleted namespace takes its port along; removing
// what is not there succeeds; a wiped filter lets everything pass; a bridge hands
// to its host what its ports send there, until it is sealed, and its seal goes
// with it.
//
// A workload's namespace takes its end of a pair along, and with it the other; a name
// there is free or not; a path leads to a new namespace while the old one goes on.
//
// A ping between two hosts succeeds exactly if tunnels, FDBs (or flood lists,
// where the FDB or the namespace was told nothing), filters, bridges, ports and
// namespaces of both are right in both directions and the network does not lose
// it. It takes no time.
package fake
