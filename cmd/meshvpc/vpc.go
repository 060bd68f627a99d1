package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/allocator"
	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// meshWait is how long a command waits for a mesh by default.
const meshWait = time.Minute

func (p *program) vpcCommand() *cli.Command {
	return p.noun("vpc", "private networks",
		[]string{
			"meshvpc vpc create vpc1 --members all --peer-network 10.100.0.0/24",
			"meshvpc vpc create vpc2 --members jhoster1,gold-hoster-01 --network 10.10.11.0/24 --mtu 1400",
			"meshvpc vpc create vpc3 --members dc=hetzner,label=disk=ssd --no-wait",
			"meshvpc vpc list",
			"meshvpc vpc show vpc1 -o yaml",
			"meshvpc vpc peers vpc1",
			"meshvpc vpc status vpc1",
			"meshvpc vpc set vpc1 --members dc=hetzner --protect",
			"meshvpc vpc set vpc1 --transport p2p",
			"meshvpc vpc set vpc1 --transport multicast --multicast-group 239.1.1.1",
			"meshvpc vpc delete vpc1",
			"meshvpc vpc wait vpc1 --timeout 30s",
			"meshvpc vpc ping vpc1 --count 5",
			"meshvpc vpc export vpc1",
			"meshvpc vpc export --all > vpcs.yaml",
		},
		p.vpcCreateCommand(),
		p.verb("list", "", "list the VPCs", storeFlags(), p.withStore(p.vpcList)),
		p.verb("show", "V", "what was asked for and what is in force", storeFlags(), p.withStore(p.vpcShow)),
		p.verb("peers", "V", "the peer map: members, underlay and VTEP addresses", storeFlags(), p.withStore(p.vpcPeers)),
		p.verb("status", "V", "whether every member is ready and every link up (exit 3 if not)", storeFlags(), p.withStore(p.vpcStatus)),
		p.vpcSetCommand(),
		p.vpcDeleteCommand(),
		p.verb("wait", "V", "wait until every member is ready and every link up", waitFlags(meshWait), p.withStore(p.vpcWait)),
		p.vpcPingCommand(),
		p.vpcExportCommand(),
	)
}

// vpcReport is an element of `vpc list -o json`.
type vpcReport struct {
	VPC         string           `json:"vpc"`
	VNI         cluster.VNI      `json:"vni"`
	MTU         int              `json:"mtu"`
	PeerNetwork string           `json:"peer_network"`
	Selector    cluster.Selector `json:"selector"`
	Members     int              `json:"members"`
	Phase       cluster.Phase    `json:"phase"`
	Reason      string           `json:"reason,omitempty"`
}

func (p *program) vpcList(ctx context.Context, c *cli.Context, s *session) error {
	v, err := s.read(ctx, nil, cluster.PrefixVPCs)
	if err != nil {
		return err
	}
	p.warnUnreadable(v)
	list := []vpcReport{}
	for _, name := range vpcNames(v) {
		list = append(list, listed(meshOf(v, name)))
	}
	return p.print(c, list, func(w io.Writer) {
		var rows [][]string
		for _, r := range list {
			rows = append(rows, []string{r.VPC, number(int(r.VNI)), number(r.MTU), r.PeerNetwork, clean(string(r.Selector)), fmt.Sprint(r.Members), cmp.Or(string(r.Phase)+suffix(": ", r.Reason), "-")})
		}
		columns(w, []string{"vpc", "vni", "mtu", "peer network", "selector", "members", "phase"}, rows)
	})
}

func listed(m *mesh) vpcReport {
	r := vpcReport{VPC: m.name, Members: len(m.members), Phase: cluster.PhasePending, Reason: "no controller has taken it up yet"}
	if m.spec != nil {
		r.PeerNetwork, r.Selector = m.spec.PeerNetwork.String(), m.spec.Members
	}
	if m.net != nil {
		r.VNI, r.MTU, r.Phase, r.Reason = m.net.VNI, m.net.MTU, m.net.Phase, clean(m.net.Reason)
	}
	if m.spec != nil && m.spec.State == cluster.VPCDeleting {
		r.Phase = cluster.PhaseDeleting
	}
	return r
}

// vpcNames lists the VPCs of which v has any record, sorted.
func vpcNames(v *store.View) []string {
	var list []string
	for it := range store.Below[cluster.Record](v, cluster.PrefixVPCs) {
		if k, err := cluster.ParseKey(it.Key); err == nil && (len(list) == 0 || list[len(list)-1] != k.VPC) {
			list = append(list, k.VPC)
		}
	}
	return list
}

// readMesh reads all of one VPC; an absent one is an error that lists those
// that there are.
func (p *program) readMesh(ctx context.Context, s *session, name string) (*mesh, error) {
	v, err := s.read(ctx, func(v *store.View) []string { return statusPrefixes(v, name) }, meshPrefixes(name)...)
	if err != nil {
		return nil, err
	}
	p.warnUnreadable(v)
	if m := meshOf(v, name); m.exists() {
		return m, nil
	}
	return nil, p.noVPC(ctx, s, name)
}

func (p *program) noVPC(ctx context.Context, s *session, name string) error {
	known, err := s.namesBelow(ctx, cluster.PrefixVPCs)
	if err != nil {
		return err
	}
	do := fmt.Sprintf("make it by \"meshvpc vpc create %s\"", name)
	if len(known) > 0 {
		do += "; the VPCs are " + few(known)
	}
	return failed(do, "VPC %q does not exist", name)
}

// vpcDetail is `vpc show -o json`.
type vpcDetail struct {
	VPC  string           `json:"vpc"`
	Spec *cluster.VPCSpec `json:"spec"`
	Net  *cluster.VPCNet  `json:"net"`
	// GatewayNode has the gateway, of mode active.
	GatewayNode string `json:"gateway_node,omitempty"`
	// Endpoints counts them, Usage the addresses of each family.
	Endpoints int               `json:"endpoints"`
	Usage     []allocator.Usage `json:"usage"`
	peerMap
}

func (p *program) vpcShow(ctx context.Context, c *cli.Context, s *session) error {
	m, err := p.readMesh(ctx, s, c.Args().First())
	if err != nil {
		return err
	}
	v, err := s.read(ctx, nil, cluster.PrefixVPC(m.name), cluster.PrefixAllocIP(m.name))
	if err != nil {
		return err
	}
	d := vpcDetail{VPC: m.name, Spec: m.spec, Net: m.net, GatewayNode: m.gatewayNode(), Endpoints: len(m.places), Usage: append([]allocator.Usage{}, allocator.UsageOf(v)...), peerMap: m.peers()}
	return p.print(c, d, func(w io.Writer) {
		fmt.Fprintf(w, "vpc:           %s\n", m.name)
		if m.spec != nil {
			fmt.Fprintf(w, "members:       %s\npeer network:  %s\n", clean(string(m.spec.Members)), m.spec.PeerNetwork)
			if len(m.spec.Network.List()) > 0 {
				fmt.Fprintf(w, "network:       %s\n", m.spec.Network)
			}
			for _, u := range d.Usage {
				fmt.Fprintf(w, "addresses:     %s: %d of %d used, %d given back a moment ago, %d free%s\n", u.Network, u.Used, u.Capacity, u.Resting, u.Free, suffix("; most at ", shares(u.Top)))
			}
			fmt.Fprintf(w, "endpoints:     %d\n", d.Endpoints)
			for _, a := range m.spec.Exclude {
				fmt.Fprintf(w, "excluded:      %s\n", a)
			}
			fmt.Fprintf(w, "asked for:     transport %s%s\n", cmp.Or(string(m.spec.Transport), string(cluster.Auto)), groupSuffix(m.spec.MulticastGroup))
			fmt.Fprintf(w, "asked for:     learning %s\n", cmp.Or(m.spec.Learning, cluster.LearnDynamic))
			if m.spec.Learning == cluster.LearnPublish {
				fmt.Fprintf(w, "published:     %d MACs\n", m.published)
			}
			fmt.Fprintf(w, "flood limit:   %s\n", m.spec.FloodLimit)
			fmt.Fprintf(w, "asked for:     gateway %s\n", m.spec.AskedGateway())
			fmt.Fprintf(w, "asked VNI:     %s\nasked MTU:     %s\nprotected:     %s\n", cmp.Or(nonZero(int(m.spec.VNI)), "any"), cmp.Or(nonZero(m.spec.MTU), "what the members carry"), yesNo(m.spec.Protect))
		}
		l := listed(m)
		fmt.Fprintf(w, "phase:         %s%s\nVNI:           %s\nMTU:           %s\ntransport:     %s%s\ngateway:       %s\nencryption:    none\n\n",
			l.Phase, suffix(": ", l.Reason), number(int(l.VNI)), number(l.MTU), cmp.Or(string(d.Transport), string(cluster.Multipoint)), groupSuffix(d.MulticastGroup), m.gateway())
		m.peerTable(w)
	})
}

// peerMap is `vpc peers -o json`.
type peerMap struct {
	VPC         string      `json:"vpc"`
	VNI         cluster.VNI `json:"vni"`
	MTU         int         `json:"mtu"`
	PeerNetwork string      `json:"peer_network"`
	Encryption  string      `json:"encryption"`
	// Transport is empty for multipoint.
	Transport      cluster.Transport `json:"transport,omitempty"`
	MulticastGroup netip.Addr        `json:"multicast_group,omitzero"`
	Members        []peerReport      `json:"members"`
}

// gateway is what is in force, and where it is if one host has it at a time.
func (m *mesh) gateway() string {
	switch {
	case m.net == nil:
		return cluster.Gateway{}.String()
	case m.net.Gateway.Mode != cluster.GatewayActive:
		return m.net.Gateway.String()
	}
	return m.net.Gateway.String() + ", at " + cmp.Or(m.gatewayNode(), "no host"+m.gatewayReason())
}

// gatewayNode has a gateway of mode active, "" if none has.
func (m *mesh) gatewayNode() string {
	if m.active == nil {
		return ""
	}
	return clean(m.active.Node)
}

func (m *mesh) gatewayReason() string {
	if m.active == nil {
		return ""
	}
	return suffix(": ", clean(m.active.Reason))
}

func groupSuffix(group netip.Addr) string {
	if !group.IsValid() {
		return ""
	}
	return " to " + group.String()
}

type peerReport struct {
	Node       string            `json:"node"`
	Datacenter string            `json:"datacenter"`
	Underlay   string            `json:"underlay"`
	VTEP       string            `json:"vtep"`
	Transport  cluster.Transport `json:"transport"`
}

func (m *mesh) peers() peerMap {
	l := listed(m)
	r := peerMap{VPC: m.name, VNI: l.VNI, MTU: l.MTU, PeerNetwork: l.PeerNetwork, Encryption: "none", Members: []peerReport{}}
	if m.net != nil && m.net.Transport != cluster.Multipoint {
		r.Transport, r.MulticastGroup = m.net.Transport, m.net.MulticastGroup
	}
	for _, name := range m.concerned() {
		if b := m.members[name]; b != nil {
			r.Members = append(r.Members, peerReport{name, clean(b.Datacenter), b.Underlay().String(), b.VTEP.String(), b.Transport})
		}
	}
	return r
}

func (m *mesh) peerTable(w io.Writer) {
	var rows [][]string
	for _, b := range m.peers().Members {
		rows = append(rows, []string{b.Node, b.Datacenter, b.Underlay, b.VTEP, string(b.Transport)})
	}
	columns(w, []string{"node", "datacenter", "underlay", "vtep", "transport"}, rows)
	if m.net == nil {
		return
	}
	for _, n := range m.concerned() {
		if why := m.refused(n); why != "" {
			fmt.Fprintf(w, "not admitted: %s: %s\n", n, clean(why))
		}
	}
}

func (p *program) vpcPeers(ctx context.Context, c *cli.Context, s *session) error {
	m, err := p.readMesh(ctx, s, c.Args().First())
	if err != nil {
		return err
	}
	return p.printPeers(c, m)
}

func (p *program) printPeers(c *cli.Context, m *mesh) error {
	r := m.peers()
	return p.print(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "VPC %s: VNI %s, MTU %s, peer network %s%s%s, encryption: none\n", r.VPC, number(int(r.VNI)), number(r.MTU), r.PeerNetwork,
			suffix(", transport ", string(r.Transport)), groupSuffix(r.MulticastGroup))
		m.peerTable(w)
	})
}

func number(n int) string { return cmp.Or(nonZero(n), "-") }

func nonZero(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func suffix(sep, s string) string {
	if s == "" {
		return ""
	}
	return sep + s
}
