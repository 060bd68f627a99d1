package lab

import (
	"net/netip"
	"time"
)

// Status is a lab at one moment.
type Status struct {
	Name     string   `json:"name"`
	Underlay Underlay `json:"underlay"`
	MTU      int      `json:"mtu"`
	Hosts    []Host   `json:"hosts"`
	Cuts     []Cut    `json:"cuts"`

	Impaired []Impairment `json:"impaired,omitempty"`
}

// Host is one host of a lab.
type Host struct {
	HostConfig
	Underlay []netip.Prefix `json:"underlay"` // addresses on u0, IPv6 first; kept over a power cycle
	On       bool           `json:"on"`
	Services []ServiceState `json:"services"`
	// Workloads are gone after a power cycle.
	Workloads []Workload `json:"workloads"`
}

// Service is a long-running process of a host: "server", "agent". It writes to
// its log on the host's disk, is not restarted when it ends, and is started
// again by Boot, as a machine's init does it.
type Service struct {
	Name string   `json:"name"`
	Argv []string `json:"argv"` // program and arguments; "meshvpc" is the lab's binary
	Env  []string `json:"env,omitempty"`
}

// ServiceState is a service and what it is doing.
type ServiceState struct {
	Service
	State string `json:"state"`         // "running", "frozen", "stopped", "exit 1", "signal killed"
	PID   int    `json:"pid,omitempty"` // as the host sees it
}

// Workload is a network namespace on a host with one device, eth0, whose other
// end is a port of the VPC's bridge. Without a VPC it has no device, for "meshvpc
// endpoint attach" to make one.
type Workload struct {
	Host     string         `json:"host"`
	Name     string         `json:"name"`
	VPC      string         `json:"vpc"`
	Prefixes []netip.Prefix `json:"prefixes"` // addresses with the length of the tenant network
}

// Disk is a host's own directories. They outlive its kernel, and the host's
// processes get them as MESHVPC_CONFIG_DIR, MESHVPC_STATE_DIR,
// MESHVPC_RUN_DIR; MESHVPC_CONFIG is admin.yaml in Etc, which
// whoever makes the cluster puts there.
type Disk struct {
	Etc, Var, Run, Log string
}

// Ping is a series of ICMP echo requests from a host's namespace or, with
// Workload, from that workload's (any namespace of the host's /run/netns).
type Ping struct {
	Host     string     `json:"host"`
	Workload string     `json:"workload,omitempty"`
	To       netip.Addr `json:"to"`
	// Count of requests; 0 is 3 for Lab.Ping and "until stopped" for Lab.StartPing.
	Count        int           `json:"count,omitempty"`
	Interval     time.Duration `json:"interval,omitempty"`      // between requests; 0 is 20 ms
	Timeout      time.Duration `json:"timeout,omitempty"`       // a later reply is lost; 0 is 1 s
	Size         int           `json:"size,omitempty"`          // bytes of the IP packet; 0 is the least
	DontFragment bool          `json:"dont_fragment,omitempty"` // whatever path MTU the kernel believes in
}

// PingResult counts what a Ping saw.
type PingResult struct {
	Sent       int `json:"sent"`
	Received   int `json:"received"` // requests answered in time
	Lost       int `json:"lost"`
	Duplicates int `json:"duplicates"` // replies to a request answered already
	// Gap is the longest time without a reply, the first request and the last
	// counting as replies: about Interval when nothing is lost.
	Gap time.Duration   `json:"gap"`
	Min time.Duration   `json:"min"` // of the round trip times
	Avg time.Duration   `json:"avg"`
	Max time.Duration   `json:"max"`
	RTT []time.Duration `json:"rtt"` // in order of arrival, at most the first 4096
	// Unsent of the Sent were refused by the local kernel; LastError is why.
	Unsent    int    `json:"unsent,omitempty"`
	LastError string `json:"last_error,omitempty"`
}

// Frames is a series of equal Ethernet frames to put on a device.
type Frames struct {
	Host         string        `json:"host"`
	Workload     string        `json:"workload,omitempty"`
	Device       string        `json:"device,omitempty"` // "" is eth0 of a workload, u0 of a host
	Frame        []byte        `json:"frame"`            // from the destination MAC on, no checksum
	Count        int           `json:"count,omitempty"`  // 0 is 1
	Interval     time.Duration `json:"interval,omitempty"`
	RandomSource bool          `json:"random_source,omitempty"` // a new unicast source MAC in each frame
}

// Datagrams is a series of equal UDP datagrams.
type Datagrams struct {
	Host     string         `json:"host"`
	Workload string         `json:"workload,omitempty"`
	From     netip.AddrPort `json:"from,omitzero"` // may be an address that the host does not have
	To       netip.AddrPort `json:"to"`
	Payload  []byte         `json:"payload"`
	Count    int            `json:"count,omitempty"` // 0 is 1
	Interval time.Duration  `json:"interval,omitempty"`
}

// Sniff counts frames that arrive on a device.
type Sniff struct {
	Host     string `json:"host"`
	Workload string `json:"workload,omitempty"`
	Device   string `json:"device,omitempty"` // "" is eth0 of a workload, u0 of a host
	Match    Match  `json:"match"`
	Keep     int    `json:"keep,omitempty"` // how many matching frames to return, at most 64
}

// Match describes frames; every field that is set must hold.
type Match struct {
	EtherType   uint16 `json:"ether_type,omitempty"`  // as 0x0800, 0x0806, 0x86dd
	Source      []byte `json:"source,omitempty"`      // source MAC, 6 bytes
	Destination []byte `json:"destination,omitempty"` // destination MAC, 6 bytes
	IPProtocol  uint8  `json:"ip_protocol,omitempty"` // of IPv4, or the next header of IPv6
	Contains    []byte `json:"contains,omitempty"`    // anywhere in the frame
	Outgoing    bool   `json:"outgoing,omitempty"`    // frames that the device sends, instead of those that it receives
}

// SniffResult is what a Sniff saw.
type SniffResult struct {
	Count   int      `json:"count"`            // frames that matched
	Total   int      `json:"total"`            // frames seen in that direction
	Dropped int      `json:"dropped"`          // frames that the kernel had no room for: Count is then too low
	Frames  [][]byte `json:"frames,omitempty"` // the first Keep that matched, at most 2048 bytes of each
}
