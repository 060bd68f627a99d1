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

// Check lists what this host lacks, as Driver.Check does, also while another
// process drives the host.
func Check(ctx context.Context) []hostops.Problem { return new(Driver).Check(ctx) }

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
	buf := make([]byte, readSize)
	c, err := dial(buf, &d.requests)
	if err != nil {
		return []hostops.Problem{{Reason: fmt.Sprintf("rtnetlink cannot be used (%v): run the agent as root", err)}}
	}
	defer c.close()
	create := func(name string, info *nl.RtAttr) func() error {
		return func() error {
			return c.set(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nl.NewIfInfomsg(unix.AF_UNSPEC), attr(unix.IFLA_IFNAME, zstr(name)), info)
		}
	}
	peer := attr(nl.VETH_INFO_PEER, nl.NewIfInfomsg(unix.AF_UNSPEC).Serialize())
	peer.AddRtAttr(unix.IFLA_IFNAME, zstr("q"))
	t := trials{
		bridge: create("b", quietBridge()),
		vxlan:  create("x", linkInfo("vxlan", attr(nl.IFLA_VXLAN_ID, u32(1)), attr(nl.IFLA_VXLAN_PORT, u16be(4789)))),
		veth:   create("p", linkInfo("veth", peer)),
		probe:  tryPinger,
	}
	if f, err := openFilter(0, buf, &d.requests); err != nil {
		t.filter = func() error { return err }
	} else {
		defer f.close()
		t.filter = func() error { return f.create(4789) }
		t.seal = func() error { return f.setSeal("b") }
		t.shield = func() error { return f.setShield(1, netip.MustParsePrefix("10.100.0.0/16")) }
	}
	return t.problems()
}

// trials are what a host must be able to do; nil is not tried.
type trials struct {
	bridge, vxlan, veth, filter, seal, shield func() error
	probe                                     func(v6 bool) error
}

// problems makes all trials and words those that fail.
func (t trials) problems() (out []hostops.Problem) {
	const admin = "CAP_NET_ADMIN"
	for _, x := range []struct {
		what, do, privilege string
		try                 func() error
	}{
		{"bridge", "load the module: modprobe bridge", admin, t.bridge},
		{"vxlan", "load the module: modprobe vxlan", admin, t.vxlan},
		{"veth", "load the module: modprobe veth", admin, t.veth},
		{"ICMP", "without it no link is known to be up; give the agent CAP_NET_RAW", "CAP_NET_RAW", t.probes},
		{"nf_tables", "load the module: modprobe nf_tables, and use a kernel with CONFIG_NF_TABLES_INET", admin, t.filter},
		{"nf_tables for devices", "without it tenants reach the host, so there is no VPC; use a kernel with CONFIG_NF_TABLES_NETDEV", admin, t.seal},
		{"nf_tables for bridges", "without it a tenant can pass for a VTEP within its own VPC, and reach the host by frames to 01:80:c2:00:00:02; use a kernel with CONFIG_NF_TABLES_BRIDGE", admin, t.shield},
	} {
		if x.try == nil {
			continue
		}
		err := x.try()
		if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("%w, %s is missing", err, x.privilege)
		}
		if err != nil {
			out = append(out, hostops.Problem{Reason: fmt.Sprintf("%s cannot be used (%v): %s", x.what, err, x.do)})
		}
	}
	return out
}

// probes tries both families. A host without IPv6 does without.
func (t trials) probes() error {
	if t.probe == nil {
		return nil
	}
	err := t.probe(true)
	if err == nil || errors.Is(err, unix.EAFNOSUPPORT) {
		err = t.probe(false)
	}
	return err
}

// tryPinger opens and closes a socket for probes.
func tryPinger(v6 bool) error {
	p, err := openPinger(v6)
	if err == nil {
		p.close()
	}
	return err
}
