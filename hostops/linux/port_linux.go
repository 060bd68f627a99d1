package linux

import (
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

// portFlags are how a bridge treats a port: a bit for each attribute that is on.
type portFlags uint64

// The flags of a new port, and those that would change who hears whom.
const (
	plainFlags = portFlags(1<<nl.IFLA_BRPORT_LEARNING | 1<<nl.IFLA_BRPORT_UNICAST_FLOOD |
		1<<nl.IFLA_BRPORT_MCAST_FLOOD | 1<<nl.IFLA_BRPORT_BCAST_FLOOD)
	isolatedFlag = portFlags(1 << nl.IFLA_BRPORT_ISOLATED)
	oddFlags     = portFlags(1<<nl.IFLA_BRPORT_MODE | 1<<nl.IFLA_BRPORT_GUARD | 1<<nl.IFLA_BRPORT_PROTECT |
		1<<nl.IFLA_BRPORT_PROXYARP | 1<<nl.IFLA_BRPORT_PROXYARP_WIFI | 1<<nl.IFLA_BRPORT_MCAST_TO_UCAST |
		1<<nl.IFLA_BRPORT_VLAN_TUNNEL | 1<<nl.IFLA_BRPORT_NEIGH_SUPPRESS | 1<<nl.IFLA_BRPORT_LOCKED | 1<<nl.IFLA_BRPORT_MAB)
)

func parseFlags(b []byte) (on portFlags) {
	attrs(b, func(kind int, v []byte) {
		if kind < 64 && len(v) == 1 && v[0] != 0 {
			on |= 1 << kind
		}
	})
	return on & (plainFlags | isolatedFlag | oddFlags)
}

// odd are the flags of a port of ours that are not as they should be. Those of a
// tunnel that say what it sends have operations of their own.
func (l *link) odd() portFlags {
	switch {
	case l.master == 0:
		return 0
	case l.static():
		return l.flags & (oddFlags &^ suppressFlag)
	case hostops.Kind(l.kind) == hostops.KindTunnel:
		return l.flags & oddFlags
	}
	return l.flags ^ plainFlags
}

// sends reports whether all is on that makes a tunnel's port send.
func (l *link) sends() bool {
	return hostops.Kind(l.kind) == hostops.KindTunnel && l.flags&(plainFlags|suppressFlag) == plainFlags
}

// silent reports whether all is off that makes a tunnel's port send.
func (l *link) silent() bool {
	return hostops.Kind(l.kind) == hostops.KindTunnel && l.master != 0 && l.flags&plainFlags == 0
}

// resetPort sets only what is odd: a kernel need not know the rest.
func (d *Driver) resetPort(v *device) error {
	var settings []*nl.RtAttr
	odd := v.odd()
	for kind := range 64 {
		if odd&(1<<kind) == 0 {
			continue
		}
		value := byte(0)
		if plainFlags&(1<<kind) != 0 {
			value = 1
		}
		settings = append(settings, attr(kind, []byte{value}))
	}
	if len(settings) == 0 {
		return nil
	}
	return d.conn.alone(portStep(v.index, settings...))
}

// portStep sets how a bridge treats a port.
func portStep(index int32, settings ...*nl.RtAttr) *step {
	m := nl.NewIfInfomsg(unix.AF_BRIDGE)
	m.Index = index
	info := attr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	for _, a := range settings {
		info.AddChild(a)
	}
	return ask(unix.RTM_SETLINK, 0, m, info)
}
