// Package client speaks to an etcd API, whatever engine serves it: Dial makes a
// client that is quick to start and to notice a dead server, New gives it the
// shape of mvcc.KV.
//
// Errors that mean something to a caller are those of mvcc; all that says "no
// answer" is mvcc.ErrUnavailable, an ended context too, and leaves open whether
// a transaction was applied. A watch ends with its connection, as with all else
// that ends one, and a last answer with Err says so.
//
// A server that is frozen takes calls and answers none. Reads, and transactions that
// can be carried out once only, by their own guards, are asked of another server
// after a second; all else waits for its context, or for the connection to be found
// dead.
package client
