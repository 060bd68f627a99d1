// Package observe watches other nodes from where this one is, and writes what it sees
// of them to status/<node>/verdicts: one of the two signs by which the controller
// tells that a node is lost (the other is its keepalive).
//
// # Whom
//
// A node is observed by a few (cluster.ObserversOf) while it is a place, or the owner,
// of an endpoint with failover in a VPC that both are members of; a node without an
// agent, a witness, observes those of all VPCs. So where nobody uses failover nothing
// is sent and nothing written. TargetsOf is that rule.
//
// # How
//
// In each round, a probe period of the profile, a target gets two questions at each of
// its underlay addresses, and any answer counts: one that its agent answers, signed by
// its key, with a nonce of its own (cluster/membership/reach), and one that its kernel
// answers, an ICMP echo. What is not answered until the next round is a miss. After as
// many misses in a row as the profile says the agent is silent: the target is a
// suspect, with or without its kernel. A kernel alone that is silent suspects nobody:
// that is a filter.
//
// A kernel is not held to be silent without reason: where this host may not send echo
// requests, or where the agent has answered and the kernel never, Suspect says so
// (KernelUnknown, beside Kernel), and the log does, once.
//
// # Who distrusts itself
//
// An observer is unsure, and counts as absent, when its loop came more than a period
// late, by the monotonic clock or by the wall clock: then it forgets all misses, and
// stays unsure until it has looked for as long as a verdict takes. A process that was
// stopped thus says nothing of what it saw before; what it was about to write then ends
// by its deadline, a period after it was decided.
//
// It is unsure, too, when more than half of its targets are silent, agents and kernels,
// for then it may be its own network. Targets of one datacenter, another than its own,
// are left out of that count, whichever makes it sure: the loss of a whole datacenter
// is what it is there to report, and it looks the same from all sites. What is left must
// not be silent by more than half. With one or two targets in all there is no such
// majority: it reports what it sees, and others contradict it or not; no single
// observer's word is enough.
//
// # What is written
//
// While there are suspects: in each round, with a greater counter. Else once, when
// something changed. Nothing is written late: what could not be is dropped for what the
// next round brings.
//
// The decisions (TargetsOf, judge) know no clock and no socket.
package observe
