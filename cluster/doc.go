// Package cluster says what is true: the records that the parts of meshvpc
// share, their names, validation and keys, and who may write them.
//
// Everything here is a plain value over the standard library. A record is JSON
// under one key of the store (see Key), one Go type each, with Validate and
// documented units. Records are the only interface between machines, so this
// package is the contract between the command line, the controller and the
// hosts, whatever their versions:
//
//   - Unknown fields survive a rewrite (Encode takes the bytes that it replaces).
//   - A record with "needs": N is refused by readers below version N with
//     ErrNewer; they keep their last good state and say so.
//   - Every key has one writer (WriterOf), and MayWrite holds each identity to
//     its own keys.
//   - No record holds a secret.
//   - Each change of what people want (Intent) is told by an Event, in words that
//     Describe makes of what was there and what is now.
//
// Who may do what is Allowed; AccountsOf is as much of it as the users and roles of
// an external etcd can say.
//
// Times are RFC 3339 UTC with milliseconds, durations Go duration strings,
// addresses as net/netip prints them, MACs lower case with colons.
package cluster
