package lab

import (
	"fmt"
	"regexp"
)

// Underlay says which address families the lab's internet routes.
type Underlay string

// The underlays. Dual gives every host one address of each family.
const (
	IPv6 Underlay = "ipv6"
	IPv4 Underlay = "ipv4"
	Dual Underlay = "dual"
)

const (
	// DefaultName is the lab's name when none is asked for.
	DefaultName = "default"
	// DefaultMTU of the underlay devices, in bytes.
	DefaultMTU = 1500
	// UnderlayDevice is the name of a host's only network device besides lo.
	UnderlayDevice = "u0"
	// WorkloadDevice is the name of a workload's network device.
	WorkloadDevice = "eth0"
	// Stranger names a namespace on the underlay that is no node. It is made
	// when first used as the host of a command, ping, frame or datagram.
	Stranger = "stranger"
)

// Config describes a lab before it starts. The zero value is the article's
// three hosts over IPv6, tied to the calling process.
type Config struct {
	Name     string       `json:"name"`     // letters, digits, dashes; "" is DefaultName
	Hosts    []HostConfig `json:"hosts"`    // nil is the article's, as Topology(3, 0, false) gives them
	Underlay Underlay     `json:"underlay"` // "" is IPv6
	MTU      int          `json:"mtu"`      // bytes, 1280 to 65535; 0 is DefaultMTU
	// Segment puts all hosts on one segment, which carries multicast from each to
	// all. They keep subnets of their own, and the router. Nothing can be cut.
	Segment bool `json:"segment,omitempty"`
	// Binary is the program that calls Stage at the start of its main. It is
	// what Services run as "meshvpc" too. "" is the running program.
	Binary string `json:"binary"`
	// Detached lets the lab outlive the calling process. Otherwise it ends
	// with it, however it ends.
	Detached bool `json:"detached"`
}

// HostConfig is one host to make.
type HostConfig struct {
	Name       string `json:"name"`
	Datacenter string `json:"datacenter"`
	// Witness marks a host that runs a server but is no VPC member. The lab
	// treats it like any other; the mark is there for whoever starts services.
	Witness bool `json:"witness,omitempty"`
	// Underlay is IPv6 or IPv4 for a host that has one family in a lab of both;
	// "" is the lab's.
	Underlay Underlay `json:"families,omitempty"`
}

var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Topology names hosts and deals them out to datacenters. Up to three hosts
// without a word about datacenters are the article's; more are host-001… in
// dc1… round-robin, three datacenters unless told otherwise. A witness is one
// host more, in a datacenter of its own.
func Topology(hosts, datacenters int, witness bool) ([]HostConfig, error) {
	if hosts < 1 || hosts > 999 {
		return nil, fmt.Errorf("make lab of %d hosts: want 1 to 999", hosts)
	}
	if datacenters < 0 || datacenters > hosts {
		return nil, fmt.Errorf("make lab of %d datacenters: want 1 to the number of hosts, %d", datacenters, hosts)
	}
	article := []HostConfig{
		{Name: "jhoster1", Datacenter: "skynet"},
		{Name: "gold-hoster-01", Datacenter: "hetzner"},
		{Name: "gold-hoster-02", Datacenter: "hetzner"},
	}
	if datacenters == 0 && hosts <= len(article) {
		list := article[:hosts]
		if witness {
			list = append(list, HostConfig{Name: "witness", Datacenter: "third", Witness: true})
		}
		return list, nil
	}
	if datacenters == 0 {
		datacenters = 3
	}
	var list []HostConfig
	for i := range hosts {
		list = append(list, HostConfig{Name: fmt.Sprintf("host-%03d", i+1), Datacenter: fmt.Sprintf("dc%d", i%datacenters+1)})
	}
	if witness {
		list = append(list, HostConfig{Name: "witness", Datacenter: fmt.Sprintf("dc%d", datacenters+1), Witness: true})
	}
	return list, nil
}

// withDefaults fills what was left out and refuses what cannot work.
func (c Config) withDefaults() (Config, error) {
	if c.Name == "" {
		c.Name = DefaultName
	}
	if c.Underlay == "" {
		c.Underlay = IPv6
	}
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	if c.Hosts == nil {
		c.Hosts, _ = Topology(3, 0, false) // a constant that cannot be refused
	}
	if err := checkName("lab", c.Name); err != nil {
		return c, err
	}
	switch c.Underlay {
	case IPv6, IPv4, Dual:
	default:
		return c, fmt.Errorf("make lab %s: underlay %q: want ipv6, ipv4 or dual", c.Name, c.Underlay)
	}
	if c.MTU < 1280 || c.MTU > 65535 {
		return c, fmt.Errorf("make lab %s: MTU %d: want 1280 to 65535", c.Name, c.MTU)
	}
	seen := map[string]bool{}
	for _, h := range c.Hosts {
		if err := h.validate(); err != nil {
			return c, err
		}
		if h.Underlay != "" && h.Underlay != c.Underlay && (c.Underlay != Dual || h.Underlay != IPv6 && h.Underlay != IPv4) {
			return c, fmt.Errorf("make lab %s: host %s over %s: the lab's underlay is %s", c.Name, h.Name, h.Underlay, c.Underlay)
		}
		if seen[h.Name] {
			return c, fmt.Errorf("make lab %s: host %s is named twice", c.Name, h.Name)
		}
		seen[h.Name] = true
	}
	if room := c.Underlay.room(); len(c.Hosts) > room {
		return c, fmt.Errorf("make lab %s: %d hosts over %s: the documentation prefixes hold %d; use the underlay ipv6",
			c.Name, len(c.Hosts), c.Underlay, room)
	}
	return c, nil
}

func (h HostConfig) validate() error {
	if err := checkName("host", h.Name); err != nil {
		return err
	}
	if h.Name == Stranger {
		return fmt.Errorf("make host %s: the name is kept for what is on the underlay but no node", h.Name)
	}
	return checkName("datacenter", h.Datacenter)
}

func checkName(noun, name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("make %s %q: want 1 to 63 letters a-z, digits and dashes, no dash at either end", noun, name)
	}
	return nil
}
