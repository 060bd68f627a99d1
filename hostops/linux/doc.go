// Package linux is the hostops driver for Linux: rtnetlink and nftables, no
// tools of the host are run.
//
// What is where: the bridge "<vpc>", the tunnels "mv4-<vni>" and "mv6-<vni>"
// and the port "mn-<vni>" are in the host's namespace; the inner end "vtep0"
// with the VTEP address is in the namespace pinned at /run/netns/vpc-<vpc>,
// whose loopback carries the VPC's link group as the mark. The filter is the
// nftables table "inet meshvpc", the shields are in "bridge meshvpc".
//
// The driver reads everything once and from then on follows kernel events:
// links, addresses, FDB entries, the namespaces' content and our nftables
// tables. Events are applied in order, those of our own writes before Apply
// returns; so what Observe returns is what the kernel has, without a dump. An
// overrun event socket makes the next Observe read everything again.
//
// What is bounded: each bridge learns at most hostops.MaxLearnedBridge MACs
// (kernels before 6.7 cannot bound it), each tunnel MaxLearnedTunnel. Events of
// learned MACs are dropped by a socket filter in the kernel, so that a tenant's
// flood does not reach this process.
//
// What the shields reach. A tenant cannot send, to other hosts or to the VPC's
// namespace, any frame with a VTEP's MAC, with a sender address of the peer
// network (IPv4, IPv6, ARP), or with a neighbour advertisement for one. The
// namespace's own MAC is pinned to its port, so that the bridge never learns it
// elsewhere. Not reached: a tenant that sends with the MAC of another host's
// VTEP makes its own bridge look for that VTEP behind the tenant until the VTEP
// speaks again; this host's probes of that one peer suffer, those of other
// hosts do not. Ending this needs the bridge's name in a rule before the bridge
// learns (NFT_BRIDGE_META), which not every kernel has.
package linux
