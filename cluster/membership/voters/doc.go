// Package voters decides which servers vote, one step at a time, and says why.
// It is pure: no clock, no I/O. The leader looks at its servers every second or
// so, calls Decide and carries out the one Step that it answers.
//
// # Who votes
//
// At rest an odd number votes, five at most by default, of the servers that
// answer; the others stand by as learners and take over. Two servers are one
// voter and one that stands by, until a third comes: with two voters none may
// fail, so that the second would only add what can fail. Of all sets that could
// vote, the best is that
//
//   - of which any one datacenter may be lost, thus any one server: three voters
//     in three datacenters are better than five of which three share one,
//   - then, which takes the vote from fewest that answer,
//   - then, of which most servers may be lost,
//   - then the smallest, spread most evenly, servers before witnesses.
//
// So a voter that answers loses its vote when an operator removes it, when the
// number is even, or when that makes the loss of any one datacenter survivable;
// never to save one datacenter instead of another. After such an exchange the
// voters are of the best kind, and nothing is exchanged until servers die or
// come: histories without events end, in at most a few steps for each server.
// A server that keeps dying for longer than Grace and coming back costs a few
// steps each time, thus has no more than those in any Grace.
//
// A voter silent for Grace is dead. It is removed if another is ready to take its
// place, or if the rest, an odd number, is as good without it: of five with two
// dead, three are left. Of three, a dead one stays, and may come back; so does one
// of five, unless three of the others would survive the loss of any datacenter.
//
// # What a step never does
//
// etcd cannot make a learner of a voter: who is to stand by is removed, empties
// its data directory and joins again. The dead leave before their successors are
// promoted, those that answer after. After each step the voters that answer are
// a quorum, even if a learner just promoted fails at once; only the second voter
// is trusted, since one voter can grow in no other way. Nothing but an operator's
// removal happens while a voter has been silent for less than Grace, so that one
// change ends before the next begins; and nothing at all when those that
// answer are no quorum. An operator's removal goes before everything else, but
// of a voter that answers only while no other's fate is open; why it waits is
// said. The last voter stays.
//
// Whoever is removed may lead: move the lead first. A step can be refused by
// etcd, which may know better who is connected; the next look decides anew.
//
// # Time
//
// For how long a server has been silent or well is what the leader itself has
// watched since its election, by Watch: not what a record or a wall clock says,
// and not what passed while the leader was frozen. A new leader starts from
// nothing, so that nobody is removed within its first Grace.
package voters
