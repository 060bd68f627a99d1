// Package controller is the elected leader: it turns what operators ask for
// into what hosts are told.
//
// Every candidate keeps a mirror of all records, and of what failover needs to have seen
// (Memory), so that a takeover costs no list and no evidence. The leader runs one loop:
//
//	records changed ─► step (view, state, now) ─► effects ─► guarded transactions
//
// step is pure. It looks at everything each time and decides what differs from
// what should be; a pass that finds nothing writes nothing and logs nothing.
// Its parts, one file each:
//
//   - vpcs: VNI and MTU in force, phases, deletion.
//   - members: who is a member, with which VTEP address and underlay; joining
//     and leaving.
//   - confirm: whether nodes are where they say.
//   - links: pairs that have a tunnel of their own.
//   - endpoints: addresses, MACs and nodes of workloads' places.
//   - published: where MACs are that no endpoint has.
//   - garbage: what is in no live record any more.
//
// The endpoint of a gateway of mode active is the controller's to ask for, too: it keeps
// the spec to the gateway in force, and what the operator says of its failover.
//
// # Guarantees
//
//   - Every write is guarded by the revision that it was decided from and by the
//     leader's key, so a frozen leader that wakes up does no harm. A conflict
//     means: look again.
//   - The next pass waits until the view shows what the last one wrote.
//   - After a write of unknown outcome, after a relist, and when a leader begins,
//     it reads the store's revision and waits until the view has reached that.
//   - Batches: a transaction holds as many nodes' or pairs' parts as fit, each
//     whole with its reverse key, so whatever happens between two batches, the
//     records say how to go on.
//
// # What vanished
//
// A record that vanished is a mistake, not a wish. The net record, members and
// assignments are rebuilt from the spec, from the reverse keys and from what
// the hosts report: the same VNI, MTU and VTEP addresses. A reverse key is
// rebuilt from the record that needs it. Without a spec nothing is done but to
// take removed nodes apart, and nothing is reclaimed while a host is assigned
// or reports that it has the VPC. Without a node record that node is left as
// it is.
//
// # Links
//
// A pair of which a member needs it has a tunnel and a VNI of its own: a
// HostLink at both ends and the VNI's reverse key, held by the pair, all three
// in one transaction. cluster.LinkUse says how a pair comes to its tunnel and
// back without losing a frame, and what the hosts report meanwhile;
// cluster.HostLink says which word removes a tunnel.
//
// A new member is written first, with the transport P2P, then its pairs in
// batches, active at once: they have no path that would have to be kept. A
// member that lives by the shared tunnel keeps its transport until all its
// pairs are active at both ends. It has the other transport again the moment it
// may, and its pairs follow. Its assignment always says which it is, in the same
// transaction. Thus the records alone say what remains to be done.
//
// A pair without a common address family has no tunnel. One that had, and lost
// the family, is left as it is.
//
// # Where it leads from
//
// Who leads is lost with its datacenter, and failover is blind until another was
// elected. Its lease would see to that late: some seconds after its last renewal, and
// anew for all of them if the store has lost its leader, too, as etcd then arms each lease
// again. So a candidate whose own judgement (package failover) is that the leader's host
// is lost deletes the leader's key, guarded by its revision, and all of them stand at
// once; at most once in 10 s each. If that was wrong, the leader's writes are fenced as
// after any election, and nothing but that election was for nothing. It asks for what
// failover asks for before it fences a host: observers in two places, and a late
// keepalive. So a leader that is frozen, or only cannot be reached by some, keeps its
// lead until its lease ends, and a candidate that is cut off itself can write nothing.
// Where nothing can move nobody is judged, and the lease alone counts.
//
// Even so an election is in the way. So a leader in whose datacenter something
// is that can move yields to a server in whose datacenter nothing is, while all is
// calm, and once in ten minutes at most. It resigns, and stands again after 2 s if
// nobody else was elected.
//
// # Endpoints
//
// An endpoint's spec says what it asks for, its own record what it has. Both
// addresses and the MAC are claimed in one transaction with the own record, or none.
// An endpoint that cannot have what it asks for keeps what it has, and its reason
// says why. A spec that vanished changes nothing, and reverse keys of what is in
// force are written again before anything new is given out.
//
// A node asks by a request, to be the owner of an endpoint, for which one may be
// made, or for the deletion of one that was made so. What is granted is done in one
// transaction with the request's deletion: spec, addresses, own record. What cannot
// be is deleted in the same pass, and the records say why; only what is being
// deleted, or a VPC that is coming up, is waited for, a minute at most by the
// leader's clock, since it first saw the request.
//
// An endpoint whose spec names a node is that one's, or nobody's. Any other is whose
// node asks for it while it has no owner, and stays until the owner reports that it
// released this epoch, or is no member any more. When the spec comes to name another
// node, the owner changes at once if the old one released or never reported it, or
// lives: its agent mutes the port as soon as it reads that, and for some ms both may
// send. An owner that had it and does not live keeps it, and the reason says so,
// unless the operator overrides it in this one epoch (EndpointSpec.ForcedFrom). Such
// a host that was not dead, or comes back, may serve the endpoint until it reads its
// records: nothing fences it.
//
// Each change of the owner has a greater epoch, also after an own record was lost,
// which is made again by what nodes report, or its endpoint was deleted and made
// anew.
//
// # MACs that no endpoint has
//
// In a VPC that publishes, each node claims the MACs that its bridge knows at ports of
// its own. The first claim makes a record. Another node that hears the MAC claims it
// with the next sequence, and has it from then on (RFC 7432 §15): so a frame is enough
// for a workload to move. At the fifth move within three minutes two machines have the
// MAC: it stays where it is for half an hour, or until it is not claimed there any more,
// and the record, the history and an alarm name both ports. A record goes with the last
// claim. An endpoint's MAC is never published, and the number of records is bounded, for
// a VPC and for each node: what is published stays, what is new is refused and said.
//
// # Underlay addresses
//
// A node reports where it is, and may be wrong, or lie. What it reports reaches
// its member records only if no other node holds that address and the holder of
// the node's key answered a question there (AskFunc). Until then the old address
// stays, or the node is not admitted, and its reason says whose the address is, or
// what was asked. The first answer is awaited without a word; it costs a round
// trip and no write. A pass only says what to ask: questions run beside the loop,
// asksAtOnce at most, and one without an answer is put again after 1 s, then at
// growing distances up to 30 s.
//
// What stands in a member record is believed until the node reports another
// address, so that a new leader, and a restored store, need no host's answer to
// keep a mesh as it is. Of nodes in no VPC a new leader asks anew.
// # History
//
// What the leader does and a person would want to read (it was elected; a VPC came
// up, cannot, or only in part; nodes were admitted, refused, taken out, or have
// another address; a record that nobody could read was reclaimed) is told in a
// digest: at most one event in 10 s, in 1 s where an alarm is in it (a node judged or
// fenced, an endpoint moved by failover), each of at most 128 changes with 16 names
// each, what has no room only counted. A thousand nodes that join at once are a handful of
// events. A digest comes after the changes, and one that was not written when the
// leader ends is lost: the records say what is.
//
// The leader also keeps the history bounded: 30 days, and 10,000 events, of which
// the oldest of whoever has most go first. So nobody pushes out what is about
// others while that is less than a fair share. Age is by the leader's clock.
//
// # Leaving
//
// A node leaves a VPC in one direction: its assignment says "leaving", the host
// reports "left", then assignment, member and report are deleted and the VTEP
// address is released. Selected again meanwhile, it joins anew afterwards. A
// removed node's member goes at once. With force, a deletion does not wait for
// a node without a live record, but its assignment stays as the word to clean
// up for when it comes back.
package controller
