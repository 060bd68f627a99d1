package linux

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// Attributes that the netlink library does not name.
const (
	iflaBrFDBMaxLearned  = 49   // IFLA_BR_FDB_MAX_LEARNED, kernel 6.7
	iflaInet6AddrGenMode = 8    // IFLA_INET6_ADDR_GEN_MODE
	addrGenNone          = 1    // IN6_ADDR_GEN_MODE_NONE
	iflaInetConf         = 1    // IFLA_INET_CONF
	devconfRPFilter      = 8    // IPV4_DEVCONF_RP_FILTER
	devconfArpIgnore     = 19   // IPV4_DEVCONF_ARP_IGNORE
	arpIgnoreAll         = 8    // answer for no address at all
	skipStats            = 8    // RTEXT_FILTER_SKIP_STATS
	ntfSticky            = 0x40 // NTF_STICKY
	nlaTypeMask          = 0x3fff
	nlmBulk              = 0x200 // NLM_F_BULK
	iflaTunOwner         = 1     // IFLA_TUN_OWNER
	addrGenEUI64         = 0     // IN6_ADDR_GEN_MODE_EUI64
	ndaStateMask         = 16    // NDA_NDM_STATE_MASK
)

// forwardReserved are the groups 01-80-C2-00-00-0X that a bridge of ours forwards
// like any other: bit X. Those it does not it hands to the host by the port that
// they came in by, around the seal: all but 0 (forwarded without STP), 1 (never
// let through) and 2, which kernels refuse here and filter.reserve drops.
const forwardReserved = 0xfff8

// link is what the driver tracks of a device; it is compared with ==.
type link struct {
	index, master, peer int32 // peer of a veth: its index in the other namespace
	name, kind, alias   string
	group               uint32
	mtu                 int
	up                  bool
	mac                 cluster.MAC
	noAddrGen           bool
	deaf                bool // see deafAndQuiet
	isolated            bool
	flags               portFlags
	space               int // of a veth: the number of its peer's namespace, -1 is this one
	user                int // of a tap

	snooping   bool   // bridge
	maxLearned uint32 // bridge
	forwards   uint16 // bridge
	stp        bool   // bridge

	vni      cluster.VNI // vxlan
	local    netip.Addr
	joined   netip.Addr // group
	v6       bool
	underlay int32
	port     uint16
	learning bool
}

// attrs calls f for each attribute of b.
func attrs(b []byte, f func(kind int, data []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		n := int(binary.NativeEndian.Uint16(b))
		kind := int(binary.NativeEndian.Uint16(b[2:])) & nlaTypeMask
		if n < unix.SizeofRtAttr || n > len(b) {
			return
		}
		f(kind, b[unix.SizeofRtAttr:n])
		b = b[min(len(b), (n+3)&^3):]
	}
}

func cstr(b []byte) string { return strings.TrimRight(string(b), "\x00") }

func native32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

// parseLink reads a full (not AF_BRIDGE) link message.
func parseLink(b []byte) (link, bool) {
	if len(b) < unix.SizeofIfInfomsg || b[0] != unix.AF_UNSPEC {
		return link{}, false
	}
	l := link{
		index: int32(native32(b[4:])),
		up:    native32(b[8:])&unix.IFF_UP != 0,
		space: -1,
	}
	attrs(b[unix.SizeofIfInfomsg:], func(kind int, data []byte) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.name = cstr(data)
		case unix.IFLA_IFALIAS:
			l.alias = cstr(data)
		case unix.IFLA_MTU:
			l.mtu = int(native32(data))
		case unix.IFLA_MASTER:
			l.master = int32(native32(data))
		case unix.IFLA_GROUP:
			l.group = native32(data)
		case unix.IFLA_LINK:
			l.peer = int32(native32(data))
		case unix.IFLA_LINK_NETNSID:
			l.space = int(int32(native32(data)))
		case unix.IFLA_ADDRESS:
			if len(data) == 6 {
				l.mac = cluster.MAC(data)
			}
		case unix.IFLA_AF_SPEC:
			l.noAddrGen = addrGenMode(data) == addrGenNone
			l.deaf = deaf(data)
		case unix.IFLA_LINKINFO:
			l.parseInfo(data)
		}
	})
	return l, l.name != ""
}

func addrGenMode(b []byte) byte {
	mode := byte(addrGenNone) // without IPv6 there is nothing to make
	attrs(b, func(family int, data []byte) {
		if family == unix.AF_INET6 {
			attrs(data, func(kind int, v []byte) {
				if kind == iflaInet6AddrGenMode && len(v) == 1 {
					mode = v[0]
				}
			})
		}
	})
	return mode
}

// deaf reads what deafAndQuiet sets: an array of all IPv4 settings.
func deaf(b []byte) bool {
	yes := true // without IPv4 there is nobody to hear
	attrs(b, func(family int, data []byte) {
		if family == unix.AF_INET {
			attrs(data, func(kind int, v []byte) {
				if kind == iflaInetConf && len(v) >= 4*devconfArpIgnore {
					yes = native32(v[4*(devconfArpIgnore-1):]) == arpIgnoreAll && native32(v[4*(devconfRPFilter-1):]) != 0
				}
			})
		}
	})
	return yes
}

func (l *link) parseInfo(b []byte) {
	attrs(b, func(kind int, data []byte) {
		switch kind {
		case nl.IFLA_INFO_KIND:
			l.kind = cstr(data)
		case nl.IFLA_INFO_DATA:
			switch l.kind {
			case "vxlan":
				l.parseVXLAN(data)
			case "tun":
				attrs(data, func(kind int, v []byte) {
					if kind == iflaTunOwner {
						l.user = int(native32(v))
					}
				})
			case "bridge":
				attrs(data, func(kind int, v []byte) {
					switch kind {
					case nl.IFLA_BR_MCAST_SNOOPING:
						l.snooping = len(v) == 1 && v[0] != 0
					case nl.IFLA_BR_STP_STATE:
						l.stp = native32(v) != 0
					case iflaBrFDBMaxLearned:
						l.maxLearned = native32(v)
					case nl.IFLA_BR_GROUP_FWD_MASK:
						if len(v) == 2 {
							l.forwards = binary.NativeEndian.Uint16(v)
						}
					}
				})
			}
		case nl.IFLA_INFO_SLAVE_DATA:
			l.isolated, l.flags = isolated(data), parseFlags(data)
		}
	})
}

func isolated(b []byte) bool {
	yes := false
	attrs(b, func(kind int, v []byte) {
		if kind == nl.IFLA_BRPORT_ISOLATED && len(v) == 1 {
			yes = v[0] != 0
		}
	})
	return yes
}

func (l *link) parseVXLAN(b []byte) {
	attrs(b, func(kind int, v []byte) {
		switch kind {
		case nl.IFLA_VXLAN_ID:
			l.vni = cluster.VNI(native32(v))
		case nl.IFLA_VXLAN_LOCAL:
			l.local = addr(v)
		case nl.IFLA_VXLAN_LOCAL6:
			l.local, l.v6 = addr(v), true
		case nl.IFLA_VXLAN_GROUP:
			l.joined = addr(v)
		case nl.IFLA_VXLAN_GROUP6:
			l.joined, l.v6 = addr(v), true
		case nl.IFLA_VXLAN_LINK:
			l.underlay = int32(native32(v))
		case nl.IFLA_VXLAN_PORT:
			if len(v) == 2 {
				l.port = binary.BigEndian.Uint16(v)
			}
		case nl.IFLA_VXLAN_LEARNING:
			l.learning = len(v) == 1 && v[0] != 0
		}
	})
}

// use is what the device is to its VPC, if it is ours.
func (l *link) use() hostops.Use {
	if _, ours := l.ours(); !ours {
		return hostops.UseVPC
	}
	return hostops.UseOf(l.group)
}

// room is the number of the namespace that the other end of a workload's port is in.
func (l *link) room() int {
	if l.kind != "veth" || hostops.UseOf(l.group) != hostops.UseMade {
		return 0
	}
	return l.space
}

// ours reports whether the device carries our mark, and for which VPC.
func (l *link) ours() (cluster.VNI, bool) {
	return hostops.OwnDevice(l.name, hostops.Kind(l.kind), l.group)
}

type fdbEntry struct {
	mac                  cluster.MAC
	dst                  netip.Addr
	self, static, sticky bool
	extern               bool  // somebody set it, and learning may take it
	master               int32 // the bridge
	permanent            bool  // of a bridge: its own MAC
}

func parseNeigh(b []byte) (index int32, e fdbEntry, ok bool) {
	if len(b) < unix.SizeofNdMsg || b[0] != unix.AF_BRIDGE {
		return 0, e, false
	}
	e.self = b[10]&unix.NTF_SELF != 0
	e.static = binary.NativeEndian.Uint16(b[8:])&unix.NUD_NOARP != 0
	e.permanent = binary.NativeEndian.Uint16(b[8:])&unix.NUD_PERMANENT != 0
	e.sticky = b[10]&ntfSticky != 0
	e.extern = b[10]&unix.NTF_EXT_LEARNED != 0
	attrs(b[unix.SizeofNdMsg:], func(kind int, data []byte) {
		switch kind {
		case unix.NDA_LLADDR:
			if len(data) == 6 {
				e.mac, ok = cluster.MAC(data), true
			}
		case unix.NDA_DST:
			e.dst = addr(data)
		case unix.NDA_MASTER:
			if len(data) == 4 {
				e.master = int32(native32(data))
			}
		}
	})
	return int32(native32(b[4:])), e, ok
}

func parseAddr(b []byte) (index int32, p netip.Prefix, ok bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return 0, p, false
	}
	var local, address netip.Addr
	attrs(b[unix.SizeofIfAddrmsg:], func(kind int, data []byte) {
		switch kind {
		case unix.IFA_LOCAL:
			local = addr(data)
		case unix.IFA_ADDRESS:
			address = addr(data)
		}
	})
	if !local.IsValid() {
		local = address
	}
	return int32(native32(b[4:])), netip.PrefixFrom(local, int(b[1])), local.IsValid()
}
