package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// lookOthers looks for what other programs do to our devices, or may.
func (t *patient) lookOthers(context.Context) seen {
	if t.agent == nil {
		return skip("this host is no node with an agent")
	}
	var s seen
	judgeManagers(&s, os.DirFS("/"))
	tunnels, drops, err := foreign()
	if err != nil {
		if len(s.found) == 0 {
			return skip("not checked here: %v", err)
		}
		return s
	}
	judgeTunnels(&s, tunnels)
	judgeForward(&s, os.DirFS("/"), drops)
	s.good = fmt.Sprintf("%d vxlan devices, networkd, NetworkManager, udev, bridge-nf-call-iptables", len(tunnels))
	return s
}

// configurer is a program that configures devices unless told to leave them.
type configurer struct {
	name, runs string   // runs: a path that is there while it does
	dirs       []string // of its configuration
	ext, file  string   // of a file of it, and ours below deployments
}

var managers = []configurer{
	{"NetworkManager", "run/NetworkManager", []string{"etc/NetworkManager/conf.d", "usr/lib/NetworkManager/conf.d", "run/NetworkManager/conf.d"}, ".conf", "networkmanager/meshvpc.conf"},
	{"systemd-networkd", "run/systemd/netif", []string{"etc/systemd/network", "usr/lib/systemd/network", "run/systemd/network"}, ".network", "networkd/10-meshvpc.network"},
	{"udev", "run/udev/control", []string{"etc/systemd/network", "usr/lib/systemd/network", "run/systemd/network"}, ".link", "udev/10-meshvpc.link"},
}

// ourPattern is in each of the files of deployments that keep others off.
const ourPattern = "mv4-*"

// judgeManagers wants each of them that runs to have been told. root is the
// host's file system.
func judgeManagers(s *seen, root fs.FS) {
	for _, m := range managers {
		if _, err := fs.Stat(root, m.runs); err != nil || m.told(root) {
			continue
		}
		s.add(gradeNote, fmt.Sprintf("copy deployments/%s to /%s and have %s read it", m.file, m.dirs[0], m.name),
			"%s runs, and no file of /%s tells it to leave our devices alone", m.name, m.dirs[0])
	}
}

func (m configurer) told(root fs.FS) bool {
	for _, dir := range m.dirs {
		files, _ := fs.ReadDir(root, dir) // what is not there tells nothing
		for _, f := range files {
			if !strings.HasSuffix(f.Name(), m.ext) {
				continue
			}
			if b, err := fs.ReadFile(root, path.Join(dir, f.Name())); err == nil && bytes.Contains(b, []byte(ourPattern)) {
				return true
			}
		}
	}
	return false
}

// tunnel is a vxlan device of this host.
type tunnel struct {
	name string
	vni  cluster.VNI
	port uint16
	ours bool
}

// defaultPort is that of tunnels, unless our own say another.
const defaultPort = 4789

// judgeTunnels tells of other overlays on our UDP port. They may live beside
// ours, but no VPC can have their VNIs here.
func judgeTunnels(s *seen, all []tunnel) {
	port := uint16(defaultPort)
	for _, t := range all {
		if t.ours && t.port != 0 {
			port = t.port
		}
	}
	for _, t := range all {
		if !t.ours && t.port == port {
			s.add(gradeNote, "ip link delete "+t.name+", if it is left over; else keep its VNI out of the cluster's: meshvpc cluster init --vni-range",
				"vxlan device %s is not ours and has our UDP port %d: no VPC can have its VNI %d on this host, and devices with other flags cannot come up", printable(t.name), port, t.vni)
		}
	}
}

// dropper is a chain of the packet filter that drops what bridges of ours forward
// within themselves, if the kernel hands it over: br_netfilter, which Docker and
// Kubernetes load.
type dropper struct {
	chain   string // as nft says it
	ipv6    bool
	bridges []string
}

// handing names what hands them over to the filter, below net/bridge of /proc/sys.
func (d dropper) handing() string {
	if d.ipv6 {
		return "bridge-nf-call-ip6tables"
	}
	return "bridge-nf-call-iptables"
}

func judgeForward(s *seen, root fs.FS, drops []dropper) {
	for _, d := range drops {
		b, err := fs.ReadFile(root, "proc/sys/net/bridge/"+d.handing())
		if err != nil || strings.TrimSpace(string(b)) != "1" {
			continue // not loaded, or told not to
		}
		of, tables := "IPv4", "iptables"
		if d.ipv6 {
			of, tables = "IPv6", "ip6tables"
		}
		one := d.bridges[0]
		s.add(gradeProblem, fmt.Sprintf("sysctl -w net.bridge.%s=0 # or, if other bridges need it: %s -I FORWARD -i %s -o %s -j ACCEPT", d.handing(), tables, one, one),
			"%s within VPC %s is dropped: net.bridge.%s has it pass this host's packet filter, where no rule of chain %s accepts it", of, strings.Join(d.bridges, ", "), d.handing(), printable(d.chain))
	}
}
