// Package linux is the hostops driver for Linux: rtnetlink and nftables, no
// tools of the host are run.
//
// What is where: the bridge "<vpc>", the shared tunnels "mv4-<vni>" and
// "mv6-<vni>", the pairs' own "mp-<pair>" the ports "mn-<vni>" and "mg-<vni>" and the uplink "mu-<vni>" are in the host's namespace, workloads'
// ports "me-<hash of VPC and endpoint>", taps and lent devices too; the inner end "vtep0"
// with the VTEP address is in the namespace pinned at /run/netns/vpc-<vpc>,
// whose loopback carries the VPC's link group as the mark. The filter is the
// nftables table "inet meshvpc", the shields, bindings and flood budgets are in "bridge meshvpc",
// the seals in "netdev meshvpc".
//
// The driver reads everything once and from then on follows kernel events:
// links, addresses, FDB entries, the namespaces' content and our nftables
// tables. Events are applied in order, those of our own writes before Apply
// returns; so what Observe returns is what the kernel has, without a dump. An
// overrun event socket makes the next Observe read everything again.
//
// Operations that are one request each go together, by messages of up to 128
// requests (see conn.setAll): the kernel performs them in order, answers each,
// and goes on after one that it refuses. Answers that are lost are the
// operation's error; the next plan sees what was done.
//
// What is bounded: each bridge learns at most hostops.MaxLearnedBridge MACs
// (kernels before 6.7 cannot bound it), each tunnel MaxLearnedTunnel. Events of
// learned MACs are dropped by a socket filter in the kernel, so that a tenant's
// flood does not reach this process.
//
// Where VTEPs are. The MAC of a VTEP follows from its address, so for each peer
// the namespace has a permanent neighbour, and the tunnel and the bridge a static,
// sticky FDB entry (one request sets both). A probe is one unicast frame, also to
// a peer that is silent or gone, and never a broadcast to all peers; the
// namespace asks nobody for addresses that it was not told. Learned entries alone
// would do that only while peers speak: they age, and a question for a peer that
// is off is then sent to all, again and again. It costs two requests more for a
// join, some 0.06 ms, and permanent neighbours do not count for the neighbour
// table's limit, which all namespaces of a host share. What a tunnel was told it
// does not learn otherwise: a frame with a VTEP's MAC from elsewhere is dropped.
// If learned MACs have filled the tunnel's table, it forgets them to take a
// peer's (kernel 6.7; before, the VPC says that there is no room).
//
// An entry that yields is extern_learn in the bridge instead, as EVPN daemons set it: it
// does not age, and learning may take it. What bridges have learned comes by a socket of
// its own, with a buffer of some hundred events: more are lost, and then the bridges are
// read again, once a second at most. All bridges of the host pass it.
//
// What the seals reach. A bridge is a device of the host, address or not, and the
// host answers for all its addresses on every device: a tenant's frame to the
// bridge's MAC or to all would go up the host's stack, to its programs and, as
// VXLAN, into other VPCs. A chain at the bridge's ingress drops all that, of every
// protocol, before the bridge is up; what is stacked on the bridge (a VLAN or
// macvlan device) gets nothing either: workloads are ports. Frames to 01:80:c2:00:00:0X
// would go around it, up from the port that they came in by: the bridge forwards
// them as any others, and those of X = 2, which it may not, a rule in "bridge
// meshvpc" drops on all bridges unless they are slow protocols (IEEE 802.3 57A).
// While a firewall's reload has wiped the tables, the bridge's own settings still
// answer no ARP and let no IPv4 in; IPv6 waits for the repair. A kernel without
// the netdev family has no VPCs; one without the bridge family has them, and
// leaves its host open to frames for 01:80:c2:00:00:02: Check says so.
//
// What fences reach. Of a fenced address nothing passes to the tunnels' port, whatever
// its VNI, before all that says who may send by which; and nothing of this host's own
// goes to that port there: tunnels stay as they are and need not know. A frame that is
// flooded to a multicast group still reaches a fenced member, whose answers do not come
// back. One set holds for all VPCs and tunnels: a fence is one element in one
// transaction. All else that the address sends, probes and the store's clients among
// it, is not touched.
//
// What the shields reach. A tenant cannot send, to other hosts or to the VPC's
// namespace, any frame with a VTEP's MAC, with a sender address of the peer
// network (IPv4, IPv6, ARP), or with a neighbour advertisement for one. The MACs
// of the namespace and of its peers' VTEPs are pinned to their ports, so that the
// bridge never learns them elsewhere.
//
// What flood budgets reach. One chain for each VPC at the bridges' forwarding judges
// what goes from its ports into a tunnel; frames beyond the budget are dropped before
// the tunnel sends one to each peer. nftables cannot ask whether a bridge knows a MAC,
// and a frame that floods for want of a place looks as any other: so a set of the chain
// holds the MACs that were heard from behind the tunnels in the last 300 s, which is
// what the bridge remembers, and what is for one of those passes. The budget is for all
// else: broadcasts, multicasts, unknown unicasts; each tunnel has its own. It costs a
// look into a set for each frame. The set begins with what the bridge knows; a tenant
// elsewhere that makes up MACs may fill it, as it fills the bridge's table, and then new
// MACs of the same VPC count as unknown. A static VPC floods no unicast and has no such
// set. While a firewall's reload has wiped the tables nothing is bounded, until the
// repair; a kernel without nft_limit or the bridge family bounds nothing.
//
// What the wards reach. The gateway's port "mg-<vni>", with "gw0" in the namespace, has a
// chain of its own, "ward-mg-<vni>", that judges what bridges forward between two ports
// of which one has a link group of the VPC: frames with its MAC, and ARP, IPv4, IPv6 and
// neighbour advertisements with its addresses, from any other port (counted); what is
// for its MAC, and questions for its addresses, to a tunnel; all that it sends to a
// tunnel, if it is anycast. Its MAC is pinned to the port. Two ports on one host that
// are both not ours are not kept from lying to one another: not every kernel tells
// their bridge. In the namespace IPv4 that comes in by gw0 alone is forwarded, by that
// device's own setting, IPv6 by that of all devices; a chain drops what does not go from
// gw0 to gw0, and each device answers ARP only for its own addresses. A gateway that one
// host has at a time is a VIP's port with the inner end "gw1", of which the same holds, but
// that it has no ward: other hosts' workloads ask for it, and a VPC whose hosts learn from
// frames cannot tell it from who lies.
//
// A VIP's port has an inner end "vip…" in the namespace. For each of its addresses there
// is a routing rule with priority 1000 to a table that holds the way to the network by
// that device, numbered 0x6d000000 and its index. What comes in by it is not filtered.
//
// What the uplinks reach. "mu-<vni>", with "up0" in the namespace, is no port of a bridge and
// has a link group of its own. Both ends have addresses that follow from the VNI, of
// 240.0.0.0/4 and fd6d:6573:6800::/40. The namespace masquerades to its end's, so that
// VPCs may overlap, and the host from there to its own. The table "inet meshvpc-uplinks"
// drops what comes in by an uplink for the host (but neighbour discovery), for another
// uplink, or for the UDP port of tunnels anywhere: the other end takes this host's
// address for a peer's. What goes out by an uplink is answers only. IPv4 is forwarded by
// the uplink's own setting, IPv6 too from kernel 6.17 on; answers come in by another
// device, whose setting is the administrator's.
//
// What the bindings reach. One chain at the bridges' prerouting judges what comes in
// by a bound port, by sets whose keys begin with the port's name: a port more is a
// few elements more, never a rule. It comes before the bridge learns. Judged are the
// source MAC; in ARP the sender's MAC and address (a probe has none); the sources of
// IPv4 and IPv6, but for what a host sends that has none yet (a DHCP client; DAD, MLD
// and router solicitation) and link-local ones; the target of neighbour
// advertisements; and by what is behind all extension headers: router advertisements,
// redirects, and UDP from the ports of DHCP servers. Everything else, frames in VLANs
// and those for the bridge itself among it, is dropped. Not judged are inner packets
// of tunnels that a workload makes, the link-layer options of its own neighbour
// discovery, which concern its own addresses, and a router advertisement whose type is
// in a later fragment: receivers ignore those (RFC 6980). A port without addresses is
// held to its MAC, and to be neither router nor DHCP server. While a firewall's reload
// has wiped the tables nothing is judged, until the repair. A kernel without the
// bridge family has trusted ports only. What is dropped is counted by reason, and, in a
// set that the kernel fills, by port; a frame that the set has no room for is dropped
// all the same.
//
// A namespace of a workload is opened by its path, anew for each operation: without
// following what is no network namespace, and neither the host's nor one of a VPC.
// The other end of a pair is made there, not moved there. A tap is marked before it
// stays, so that one of a crash goes with the process.
package linux
