package linux

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

// Check implements hostops.Driver. It tries everything in a namespace that
// nobody sees and that ends with the call.
func (d *Driver) Check(ctx context.Context) []hostops.Problem {
	done := make(chan []hostops.Problem, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread and its namespace end with the goroutine
		done <- d.check()
	}()
	return <-done
}

func (d *Driver) check() []hostops.Problem {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return []hostops.Problem{{Reason: fmt.Sprintf("missing privilege: a network namespace cannot be made (%v): run the agent as root, with CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN", err)}}
	}
	var out []hostops.Problem
	report := func(what, do string, err error) {
		if err != nil {
			out = append(out, hostops.Problem{Reason: fmt.Sprintf("%s cannot be used (%v): %s", what, err, do)})
		}
	}
	c, err := dial(&d.requests)
	if err != nil {
		report("rtnetlink", "run the agent as root", err)
		return out
	}
	defer c.close()
	create := func(name string, info *nl.RtAttr) error {
		err := c.set(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nl.NewIfInfomsg(unix.AF_UNSPEC), attr(unix.IFLA_IFNAME, zstr(name)), info)
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("%w, CAP_NET_ADMIN is missing", err)
		}
		return err
	}
	report("bridge", "load the module: modprobe bridge", create("b", quietBridge()))
	report("vxlan", "load the module: modprobe vxlan", create("x", linkInfo("vxlan", attr(nl.IFLA_VXLAN_ID, u32(1)), attr(nl.IFLA_VXLAN_PORT, u16be(4789)))))
	peer := attr(nl.VETH_INFO_PEER, nl.NewIfInfomsg(unix.AF_UNSPEC).Serialize())
	peer.AddRtAttr(unix.IFLA_IFNAME, zstr("q"))
	report("veth", "load the module: modprobe veth", create("p", linkInfo("veth", peer)))

	f, err := openFilter(0, &d.requests)
	if err != nil {
		report("nf_tables", "load the module: modprobe nf_tables", err)
		return out
	}
	defer f.close()
	report("nf_tables", "load the modules: modprobe nf_tables, and use a kernel with CONFIG_NF_TABLES_INET", f.create(4789))
	report("nf_tables for devices", "without it tenants reach the host, so there is no VPC; use a kernel with CONFIG_NF_TABLES_NETDEV", f.setSeal("b"))
	report("nf_tables for bridges", "without it a tenant can pass for a VTEP within its own VPC, and reach the host by frames to 01:80:c2:00:00:02; use a kernel with CONFIG_NF_TABLES_BRIDGE",
		f.setShield(1, netip.MustParsePrefix("10.100.0.0/16")))
	return out
}
