// Package bench measures what meshvpc promises about speed, beside the least
// that any agent of this kind can do, on one machine and in one run:
//
//	go test -run '^$' -bench . -timeout 60m ./integration/bench
//	go test -run '^$' -bench . ./integration/bench -args -hosts 10 -joins 9 -rounds 3
//
// It needs root and a Linux kernel with vxlan, bridge and nf_tables. The figures
// are only as good as the machine is quiet, so they say how busy it was; what
// counts is the ratio between the two sides.
//
// # The two sides
//
// Both run on the hosts of one lab (N members and one more, the store's host),
// over IPv4 and mTLS, against two servers of the same program: what `meshvpc
// server` embeds serves the ideal agent too, which shows that server's own
// certificate: its records are none of ours, and none but a server may have such;
// so it is not asked what it may do, as ours is. They take turns in rounds, and the side
// that has no turn has no agent running.
//
//   - ideal is this test's binary, run again (ideal_test.go): dial; grant a
//     lease; one transaction that puts its own key and reads the others; for each
//     peer one neighbour, one FDB entry, one route; watch from there. It repairs
//     nothing, renews nothing and checks nothing.
//   - ours is `meshvpc agent`. Before the clock starts its host has run
//     `meshvpc cluster join`, so its node record is there, and nothing else of
//     it: no member record, no assignment, no cache, no device.
//
// What ours does in the same time and ideal does not: check the kernel, keep
// config, node and its assignment followed, report its underlay address to the
// controller, which claims a VTEP address and writes the member record
// and the assignment (one hop and one transaction more); make a bridge and the
// VPC's namespace with its port, a filter by (source, VNI) of which each peer
// makes an entry before the FDB entry, each peer's VTEP address in the
// namespace's neighbours and its MAC in the FDB; probe every link; keep a cache on disk,
// a lease, a status. Its background probes (one of every link each 10 s) go on
// while it is measured.
//
// # The figures
//
//   - join: from the start of the last host's agent process until the kernel of
//     every other member has told of its FDB entry for it (RTM_NEWNEIGH, taken
//     when it is received), and until the first echo reply from the first member
//     comes back, sent each millisecond from the joining host: ideal from its
//     overlay address, ours from the VPC's namespace.
//   - put: from just before the put of a member record, of a member that does
//     not exist, until the kernels of all members have told of the entry.
//   - CPU: user and system time, of all agents at rest (ours probes), and of each
//     for an event (a put or a delete of such a record; a join of another host),
//     beside what it needs at rest: what a busy machine does not change much.
//   - store: revisions that one join makes, and calls that the server counts
//     until a second after the first ping, less those of an equal time without a
//     join.
//   - memory: the resident memory of the agents of the mesh.
package bench
