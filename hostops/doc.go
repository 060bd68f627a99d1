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
// A static VPC learns nothing: both forwarding tables hold where its workloads are, the
// bridge answers for their addresses, and the filter passes a frame only from the peer
// that the frame's sender is at. A workload that moves is allowed at its new place
// before anything is sent there, and at its old one until then.
//
// A plan is applied in batches: of one, no operation needs another, and a driver
// that is a Batcher gives all to its kernel at once. Entries of tables go
// together, and the tunnels of pairs step by step: all are made, then all are
// ports, isolated, up. So what fails keeps only what follows on it from being done.
//
// A VPC has no way out unless it has a gateway: a further port of its namespace, with a
// MAC and addresses of its own, by which the namespace forwards, and nothing that
// concerns the VTEP's. The gateway's is one ward: the MAC and addresses of a port that
// no other port of the VPC speaks as, whether local or a tunnel, and that nobody asks
// for, or answers for, by a tunnel. It is there before the port is. A further port and
// its ward are all that any address needs that a host is to answer for in a VPC. With NAT
// an uplink leads on from the namespace to the host, which is routed there, and guarded
// before it exists: GuardUplinks says what it does not open. Whether the host forwards
// answers is not ours to decide: State.Closed names the settings, and a problem says so.
//
// A gateway that one host has at a time is such a port as a VIP has (Port.Router), which
// failover moves, and has no ward. It forwards where it is no standby; what is beside it,
// the uplink and what the namespace may forward at most, is ready on every host.
//
// A workload's port is made for it (a pair of devices into its network namespace, a
// tap) or lent by whoever made it. What is made goes with the port; a device that was
// lent is given back in no bridge, down, without our mark, with link-local addresses
// of the kernel's again, and with the VPC's MTU. It is not taken from anybody: one
// with an address, a route, a tunnel or another master is refused. While it is lent
// an address that somebody gives it is removed, as on any of our devices.
//
// A VIP is an endpoint that nothing is attached for: its port leads into the VPC's
// namespace, which answers ICMP echo for it, and lets anything in that is for it, for
// whatever an operator runs there. The inner end is ours, so it is observed and mended
// as the other ports of the namespace are. What is sent from a VIP's address leaves by
// its own port: several VIPs and a gateway are on one bridge, and the first route to
// the network is one of theirs. In standby the inner end has no address, so nothing on
// the host takes an address for its own that another host serves.
//
// A port that is not trusted is bound before it is up: it sends as its endpoint
// only, and nothing that only routers and DHCP servers send. In standby it is in
// place and down. It is announced as it goes up, just before: so a crash between the
// two announces it again, nothing announces it for ever, and it does not hear itself.
// Its MAC is pinned to it meanwhile; in standby, when the MAC is elsewhere, it is not.
//
// A port fails alone. Its problem names its endpoint, says nothing against its VPC
// (Report.Ready), and Report.Attached tells which ports are in place. How the other
// end of a pair was configured is told by the alias of ours, which is set last: the
// workload's namespace is its own, and is looked into only when the alias is not
// as desired. So what the workload changes there later stays. At full passes it is
// looked at where the paths of namespaces lead: to a new one, and the port moves; to
// none, and the problem says so (Problem.Gone).
//
// A gated port passes frames only while the host's gate is open, which the kernel shuts
// by itself at a time that Gater moves. It is gated before it is up. A filter that was
// wiped gates nothing until the next pass, as it binds nothing: that is noticed by the
// kernel's events, repaired and counted; the gate is then as it was.
//
// Drivers live in sub-packages: linux, and fake for tests and simulation. Both
// pass hosttest.
package hostops
