package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// duplicateReport is a MAC that is on two machines.
type duplicateReport struct {
	MAC   string       `json:"mac"`
	At    portReport   `json:"at"` // where frames go
	Other portReport   `json:"other"`
	Since cluster.Time `json:"since"`
}

// String is the finding.
func (d duplicateReport) String() string {
	return fmt.Sprintf("%s is on two machines: port %s of %s, where frames go, and port %s of %s", d.MAC, d.At.Device, d.At.Node, d.Other.Device, d.Other.Node)
}

const mendDuplicate = "give one of the two another MAC, or take it off"

// statePublished is the state of what is published and is no endpoint's.
const statePublished = "published"

func publishedPort(node, port string) portReport {
	return portReport{Node: node, State: statePublished, Device: clean(port)}
}

// readPublished takes what is published out of a view.
func (m *mesh) readPublished(v *store.View) {
	for it := range store.Below[*cluster.PublishedMAC](v, cluster.PrefixPublished(m.name)) {
		m.published++
		if d := it.Value.Duplicate; d != nil {
			m.duplicates = append(m.duplicates, duplicateReport{last(it.Key), publishedPort(it.Value.Node, it.Value.Port), publishedPort(d.Node, d.Port), d.At})
		}
	}
}

// refusals notes which members do not publish all MACs that they know.
func (r *meshReport) refusals() (notes []string) {
	for _, b := range r.Members {
		if b.MACsRefused > 0 {
			notes = append(notes, fmt.Sprintf("VPC %s: %d MACs are not published that %s knows, other hosts do not send there: a host publishes %d at most and a few new ones a second; see who makes them up",
				r.VPC, b.MACsRefused, b.Node, cluster.MaxPublishedNode))
		}
	}
	return notes
}

// publishedReport is `endpoint where MAC -o json` of a MAC that is published.
type publishedReport struct {
	endpointReport
	Sequence  uint64       `json:"sequence"`
	Since     cluster.Time `json:"since"`
	Duplicate *portReport  `json:"duplicate,omitempty"`
}

// publishedWhere prints where a MAC is published, if it is in any of the VPCs.
func (p *program) publishedWhere(ctx context.Context, c *cli.Context, s *session, mac cluster.MAC, vpcs []string) (found bool, err error) {
	var keys []string
	for _, vpc := range vpcs {
		keys = append(keys, cluster.KeyPublished(vpc, mac))
	}
	if len(keys) == 0 {
		return false, nil
	}
	v, err := s.read(ctx, nil, append(keys, cluster.PrefixNodes)...)
	if err != nil {
		return false, err
	}
	for _, vpc := range vpcs {
		it, ok := store.At[*cluster.PublishedMAC](v, cluster.KeyPublished(vpc, mac))
		if !ok {
			continue
		}
		port := publishedPort(it.Value.Node, it.Value.Port)
		r := publishedReport{endpointReport: endpointReport{IPs: []string{}, VPC: vpc, MAC: mac.String(), Node: port.Node, State: statePublished, Port: &port}, Sequence: it.Value.Sequence, Since: it.Value.Since}
		if n, ok := store.At[*cluster.Node](v, cluster.KeyNode(port.Node)); ok {
			r.Datacenter = clean(n.Value.Datacenter)
		}
		if d := it.Value.Duplicate; d != nil {
			other := publishedPort(d.Node, d.Port)
			r.Duplicate = &other
		}
		return true, p.print(c, r, func(w io.Writer) { r.text(w) })
	}
	return false, nil
}

func (r publishedReport) text(w io.Writer) {
	var text strings.Builder
	fmt.Fprintf(&text, "%s is no endpoint: published on %s, port %s (VPC %s), sequence %d", r.MAC, r.Node, r.Port.Device, r.VPC, r.Sequence)
	if r.Duplicate != nil {
		fmt.Fprintf(&text, "; it is on %s, port %s, too", r.Duplicate.Node, r.Duplicate.Device)
	}
	fmt.Fprintln(w, text.String())
}
