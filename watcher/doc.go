// Package watcher is the host agent: it watches the records that concern this
// host, makes the kernel equal to them, proves the links and reports.
//
// An Agent decides and does nothing but to its host; Run is the loop around it.
// On every wake (records changed, host changed, a probe came back, a timer) it
// runs the same pass:
//
//	records ─ absorb ─► memory ─ desire ─► hostops.Desired ─► kernel
//	                      │                                     │
//	                    cache               probes ◄─ links ────┤
//	                                           └─► status records
//
// A pass reads anew only the records that changed, and looks at the host only if
// that did. An answer that brings no news, or a timer, runs the end of a pass
// alone: it looks at no VPC whose time has not come.
//
// Store writes, probes, `vpc ping` and the cache file are effects that a pass returns: Run
// carries them out, what takes time in goroutines of its own, so that it never
// holds up the next pass; a simulation carries them out when its seed says so.
//
// # Probes
//
// Each link is probed every 10 s, whether its peer answers or not; sooner only
// while it is new, after a loss, and every 2 s while few links are down. To wake a
// process costs more than to send a probe: each host has one moment a second, not
// the same as others, in which it sends all that are about due. Then it also
// probes a peer that has come to a mesh, once the mesh has taken it in. In
// any second the host sends at most 200, and a probe that is not answered
// within a second is lost: so at most 200 are in flight, and none has a
// goroutine. With more than 2,000 links the period stretches, and the node's
// status notes it. What an operator asks for by `vpc ping` is apart: 64
// requests in flight for a VPC, each peer 20 times at most.
//
// # Memory
//
// What the agent has accepted from the records is its memory: last known good,
// kept in the cache file (a peer that came or went within 8 s, all else at
// once), and the only thing the kernel is made equal to. The
// rules by which records change it are the product's promise to a working
// network:
//
//   - A VPC is taken down on an explicit word only: its assignment says
//     leaving, or the node's own record (same id) says left.
//     Then all goes that the host carries for it, whether or not memory knew,
//     and "left" is said when the host has been seen without it.
//
//   - What is found on the host and no record tells of is held and reported.
//
//   - A peer is dropped by absence only from a members list that was read whole
//     and holds this node's own record.
//
//   - A record that vanished, cannot be decoded or needs a newer version, a
//     lower era, one that nobody confirmed (see cluster.Config), another
//     cluster's config: hold, and say so.
//
//   - A link's own tunnel goes when its record vanished after retiring, or with
//     the peer (see cluster.HostLink); a record that vanished otherwise stays in
//     force, until records give its VNI to another VPC or link.
//
//   - Where the endpoints of a static VPC are follows their own records. One that
//     vanished, or says less than was known (an older era or epoch), changes nothing;
//     an endpoint is forgotten when nothing of it is left in a list that holds this
//     node's own record.
//
// # Multicast
//
// A host of a VPC with a multicast group is in the group from the start, and
// floods to it only while it hears, by greetings to the group, every peer whose
// link is up: what it hears is taken for what hears it. Else it floods to each
// peer. So each broadcast arrives once, whether the underlay carries multicast
// or not; what it costs are greetings of all to all, one every five seconds a
// host. While one peer is not in the group, or has a tunnel of its own though it
// is, the others flood to each peer, too. A host that leaves the group, because
// the VPC's transport changed, does so at once: a broadcast of a host that has
// not heard of it yet does not reach it.
//
// # What is learned
//
// Where bridges have learned MACs is in no record, unless the VPC publishes (see below):
// it changes as often as tenants like.
// Who looks for one asks by a record, and each member answers once, by one of its own,
// from its bridge's table at that moment: one request to the kernel, two if a tunnel has
// learned it, and a write. A later question takes the place of an earlier one.
//
// # What is published
//
// In a VPC that publishes, the agent claims what the bridge has learned at ports that
// are not its own: a record a MAC, with the sequence of RFC 7432 §15. The controller
// says where a MAC is; hosts then send there, and take frames from there alone, as with
// endpoints of a static VPC. But an entry for it yields to the bridge's own ears: who
// hears a MAC has it, and claims it with the next sequence. A record of another node
// with a sequence not less takes it away again: from then on what was heard before
// counts no more. So does what a bridge knew before the agent began, if a record says
// otherwise. A frozen record yields to nothing.
//
// Frames from a MAC that is nowhere published are dropped at a tunnel's far end, the
// first ones of a workload among them: letting them pass would help little, for the
// answer would find nowhere to go, and would let any member speak as anybody. ARP and
// neighbour solicitations for what is published are asked as ever: of its addresses
// nobody knows.
//
// A MAC that the bridge has forgotten is claimed for five minutes more, unless its port
// is gone. A host claims a thousand of a VPC at most, and ten new ones a second after a
// first rush, whatever tenants send; its status counts the others.
//
// # What is dropped
//
// With the full passes, once a minute, the kernel's counts of dropped frames are read:
// the reports tell them as they were then. So whatever is sent costs a record a minute
// at most. So are those of frames over a VPC's flood limit, which is the spec's: one
// that vanished leaves it as it was.
//
// # Workloads
//
// What is attached by the socket is memory, too: it survives the agent, the store
// and a reboot, and is forgotten by a detach, when the endpoint or this host's part
// in the VPC is deleted, or when a namespace below /proc has ended (a path leads
// there by a process, and another may have its number later). So is what a container
// runtime asked for (it says for which of its workloads) when nothing is at the
// namespace's path any more, for no runtime brings the same one back: and what the
// request made is deleted. Any other target that is gone is waited for.
//
// The port is made, down, as soon as the endpoint has addresses, and up while the
// own record in force names this node: in an (era, epoch) not lower than what was
// last in force here, and greater than the last that this host reported to be
// released. Another node's name in it mutes the port: at once, or, of an endpoint that
// moves by itself and is neither strict nor started by hosts, after lingerFor, as the
// new owner may hear of it later, and has to open; at once if this node is fenced. A
// record that vanished or went back changes nothing.
//
// A VIP (cluster.ModeVIP) is attached by the agent itself, on each member at one of its
// places, to the VPC's own namespace; it goes as the spec says, and is a workload's port
// in all else.
// The endpoint of a gateway of mode active (cluster.GatewayEndpoint) is one, and forwards
// where it is served.
//
// An attach is answered when frames pass and the cache file has it, so that the
// next agent goes on with it; until then it can be refused, and a client that goes
// away takes it back: port, request and, if the request made it, the endpoint. What
// the controller grants to nobody any more is released again. An agent that ends
// between the two leaves the attachment to the next, which goes on with it.
//
// # What is started and stopped
//
// An endpoint may name a workload, for which the host has programs (package hooks).
// They are run beside the passes, one at a time for each workload, and what came of
// them is an event like any other: one that hangs holds up nothing but its own.
//
//   - The owner starts it, then lets frames pass. A node that is one no more mutes the
//     port, then stops it. Both are reported, with the epoch of the start.
//   - That it is being started is in the cache file before, and so is its end before
//     that is reported, if it must not run twice. The next agent goes on from there: what
//     runs in this boot is not started again, and no agent's end stops anything.
//   - After a boot, and when an endpoint is attached, nobody knows whether it runs: it is
//     started where the endpoint is, and stopped elsewhere. Until that is done a node
//     is no candidate, and its fence is not lifted.
//   - One that fails to start, or its checks, is stopped and reported as failed. It is
//     started again in a greater epoch only.
//   - An owner that is to hand over (EndpointOwn.To), and a stateful one whose
//     node is fenced, stop and then report the epoch as released: in that they start
//     nothing any more. So does one that is detached. A stop that fails is tried again,
//     and nothing is released meanwhile; nor is it while the port of a strict one, as all
//     that is stateful is, lets anything pass.
//   - No mistake in the records, and no store that is away, stops anything.
//
// # Fences
//
// A record below fences/ says that nothing may be taken from a node. Each agent
// follows them all, has its kernel drop what comes from that node's addresses and what
// goes there, and says up to which revision of the store that is so: when one came or
// went, before all else of that pass. They are memory as all else is: a store that is
// away, another cluster's, restored or unreadable lifts none; a record that is gone
// from a list read whole does. What an agent without memory finds fenced on its host
// stays so until it has read them.
//
// A node that is fenced itself serves no endpoint that has failover: its ports are
// mute as a standby's, whatever its own records say, until a moment after the fence
// went. After a start such a port opens only when its own record and the fences have
// been read; one that the kernel has open stays open, so that an agent's end or
// upgrade loses no frame, and after a reboot none is. Endpoints without failover know
// nothing of all that.
//
// # Signs of life
//
// A node that owns an endpoint with failover writes live/<node> with a greater counter
// every few seconds (cluster.FailoverTimings), in one transaction that wants no fence
// of it to stand: so no counter moves after a fence. What cannot be written in time is
// left. Other nodes have their lease alone, and write nothing.
//
// What it sees of other nodes, it says by package observe.
//
// # Grants
//
// A strict endpoint's port is gated: frames pass, in either direction, while the
// kernel's gate is open, and the kernel shuts that by itself. A renewal of the live
// record that has compared the own records of all strict endpoints of this node is a
// grant of them: the gate is open for cluster.FailoverTimings.OwnGrant from when the
// renewal was sent, by a clock that goes on while the host is suspended. Who gives one to
// another node changes its own record, and has seen no renewal for longer than that.
//
// A port opens only after a renewal that compared its own record; a record is left out
// of the comparison only after its port was seen shut. So there is no rule for what to
// do after a pause: whatever an agent that was stopped does first, the next renewal
// fails if something became another's meanwhile, and the gate's time is over. A gated
// port that is open and is not this node's to serve shuts the gate, for all.
//
// What own.To names another node of is shut, and then reported as released. A port that
// was gated stays so for its term, whatever the spec says by then.
//
// What is not covered: a host that is suspended between the kernel's being told a time
// and its end counts less, and shuts within gateLook after it runs again; a virtual
// machine whose clock stands, too, does not know. What its peers receive is fenced.
//
// # Guarantees
//
// The data plane outlives the agent: SIGTERM and kill -9 leave devices as they
// are, and the next agent adopts them. A host says that it is ready when a reboot
// would bring the VPC back, or cannot: then it says why not. Without a store the
// agent repairs from memory. A peer's join makes a host write nothing (see
// reports.go).
package watcher
