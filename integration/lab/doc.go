// Package lab makes hosts as network namespaces on this machine, for tests and
// for "meshvpc lab". It needs a Linux kernel and no tool; it works as root and,
// in a user namespace, as anybody.
//
// # What it is made of
//
// Start runs the calling program again as a supervisor: the init of a PID
// namespace, in network and mount namespaces of its own. The kernel kills a PID
// namespace with its init, so however a lab ends, also by SIGKILL, no process,
// namespace or mount outlives it; only its directory may stay, which Down or
// the next Start of that name removes. Unless Detached, the supervisor ends when
// the socket to its starter closes, so the lab ends with the starter.
//
// The supervisor's network namespace is the internet: a router with one link to
// each host, each host on a subnet of its own out of the documentation prefixes,
// no uplink, no layer 2 between hosts. Cuts are a set in the router's filter; what is
// delayed or lossy comes by a TUN device of the supervisor's, which keeps each packet
// for its time: many kernels have no netem. The
// router forwards no multicast. With Config.Segment the links are ports of one
// bridge, so that multicast reaches all; all else goes by the router as before.
//
// Each host is a process again, init of PID, network, mount and UTS namespaces
// of its own: its /run (so its /run/netns), /sys and host name are its own, and
// its disk is four directories (Disk) that survive a power cycle. It starts the
// host's services and commands, makes workloads, and sends and receives packets
// in their namespaces. Power off is a SIGKILL to it.
//
// # Commands
//
// Every method is one request on the supervisor's socket, in a directory that
// only the user can enter, so any process of that user can command a lab. A
// request is one packet of JSON. For a host, the supervisor hands the connection
// itself on to the host's init, with the descriptors that came along: a
// command's stdio is the caller's own, and a host that goes off ends its
// connections. Changes to the lab are made one at a time; the rest runs side by
// side.
//
// # Guarantees
//
// A method that makes something returns when it works: hosts and workloads can
// be reached (duplicate address detection is off, carriers are waited for),
// killed services are gone, sniffers see every later frame. Addresses on the
// underlay survive a power cycle and change only by Readdress.
//
// # Limits
//
// A command in a workload sees the host's /sys. Services are not restarted when
// they end: what a test kills stays dead until it is started. A machine without
// nf_tables, veth, bridge or vxlan is ErrRefused at Start; whatever else a kernel
// refuses is an error of the method that needs it. Off Linux, Start is
// errors.ErrUnsupported.
package lab
