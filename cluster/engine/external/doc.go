// Package external is the engine that we do not run: an etcd of the operator's.
// Everything speaks to it as to the embedded one. What is ours to do there is in
// this package: to see that it can be used, to keep its users and roles, and to
// save our records from it.
//
// # Trust
//
// The etcd shows a certificate of its own CA, which clients are told of. It lets
// nobody in without one of a client CA, ours among them (--client-cert-auth,
// --trusted-ca-file), and takes the common name for the user. So who has our CA's
// key can be anybody there, "root" too: an etcd for this cluster alone is best.
//
// # Guarantees
//
// Only users of the names of our subjects and roles that begin with "meshvpc-"
// are touched, and of those users only such roles. A user is never deleted: its
// name would open anew for the certificates that are out. Authentication is
// switched on only where all keys are ours and no client gets in without a
// certificate, and never off.
//
// # Trap
//
// etcd does not end an open watch when its user loses a role. It goes on until
// its connection is cut.
package external
