package document

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/meshvpc/meshvpc/cluster"
)

// KindEndpoint is the kind of documents that are endpoints.
const KindEndpoint = "Endpoint"

// EndpointName names an endpoint.
type EndpointName struct{ VPC, Name string }

func (n EndpointName) compare(o EndpointName) int {
	return strings.Compare(n.VPC+"/"+n.Name, o.VPC+"/"+o.Name)
}

// Endpoint is a document of kind Endpoint.
type Endpoint struct {
	EndpointName
	Spec  cluster.EndpointSpec // as VPC.Spec
	Start Position

	fields map[string]Position
}

// newEndpoint is the spec of a document without fields, as `endpoint create` without
// flags makes it.
func newEndpoint() cluster.EndpointSpec {
	return cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true}
}

// endpointFields is all that an endpoint's document can say beside its VPC.
var endpointFields = fields[cluster.EndpointSpec]{
	{
		name:   "ip",
		about:  "auto: the lowest free address of each family of the VPC's network; none; or an address, or one of each family; [10.10.11.5, auto] fixes one and takes the other.",
		schema: map[string]any{"type": []string{"string", "array"}, "items": map[string]any{"type": "string"}},
		read:   readIPs,
		write:  writeIPs,
		copy:   func(to, from *cluster.EndpointSpec) { to.IPs, to.Auto = from.IPs, from.Auto },
	},
	entry("mac", parsed("a MAC like 02:00:00:00:00:05", cluster.ParseMAC), func(s *cluster.EndpointSpec) *cluster.MAC { return &s.MAC }, 0,
		"A fixed MAC; left out: one that goes with the name."),
	entry("node", parsed("the name of a node", func(s string) (string, error) { return s, cluster.CheckNodeName(s) }), func(s *cluster.EndpointSpec) *string { return &s.Node }, 0,
		"The node that it has to be on; left out: any."),
	entry("mode", parsed("stateless, vip or stateful", cluster.ParseMode), func(s *cluster.EndpointSpec) *cluster.Mode { return &s.Failover.Mode }, 0,
		"What becomes of it when its node is lost. stateless: the workload is attached at several nodes, and another of its places serves; vip: nothing is attached, and the VPC's namespace at one of its places answers; stateful: with workload, which is started at another place only when it surely has ended at the one before, and exclusive strict is implied; left out: it stays where it is."),
	entry("place", list(parsed("the name of a node, dc=NAME or label=KEY=VALUE", cluster.ParsePlaceTerm)), func(s *cluster.EndpointSpec) *[]cluster.Selector { return (*[]cluster.Selector)(&s.Failover.Place) }, 0,
		"Where it may run, the most preferred first; with mode."),
	{
		name:   "failback",
		about:  `auto: it returns to a place that is more preferred once that has been well for a while; "window=Sat 02:00-04:00 UTC": then only; left out: only by an operator's word.`,
		schema: map[string]any{"type": "string"},
		read:   readFailback,
		write:  writeFailback,
		copy: func(to, from *cluster.EndpointSpec) {
			to.Failover.Failback, to.Failover.FailbackWindow = from.Failover.Failback, from.Failover.FailbackWindow
		},
	},
	entry("apart", parsed("the name of a group, like that of a node", func(s string) (string, error) { return s, cluster.CheckGroup(s) }), func(s *cluster.EndpointSpec) *string { return &s.Failover.Apart }, 0,
		"A group: failover puts no two endpoints of it on one node, and prefers datacenters that have none of it."),
	entry("exclusive", parsed("receivers or strict", cluster.ParseExclusive), func(s *cluster.EndpointSpec) *cluster.Exclusive { return &s.Failover.Exclusive }, 0,
		"strict: its node's kernel shuts its port unless the store lets it go on, and no other node gets it before that; left out: those who take its frames take them from one node."),
	entry("on_isolation", parsed("keep or fence", cluster.ParseIsolation), func(s *cluster.EndpointSpec) *cluster.Isolation { return &s.Failover.OnIsolation }, 0,
		"fence, with exclusive strict: its node serves it no longer than it was granted to when it cannot reach the store; left out: as long as exclusive lets it."),
	entry("workload", parsed("the name of a workload", func(s string) (string, error) { return s, cluster.CheckWorkloadName(s) }), func(s *cluster.EndpointSpec) *string { return &s.Failover.Workload }, 0,
		"What its host starts, and stops when it is another's: programs of that name there; with mode."),
	entry("may_run_twice", switched(), func(s *cluster.EndpointSpec) *bool { return &s.Failover.MayRunTwice }, 0,
		"No harm is done if the workload runs at two hosts for a while: it has to be said in mode stateless."),
	entry("open_early", switched(), func(s *cluster.EndpointSpec) *bool { return &s.Failover.OpenEarly }, 0,
		"Let frames pass before the workload was started."),
	entry("hook_timeout", parsed(aPeriod, cluster.ParsePeriod), func(s *cluster.EndpointSpec) *cluster.Period { return &s.Failover.HookTimeout }, 0,
		"How long each program of the workload may take; left out: 30s."),
	entry("check", parsed("exec", cluster.ParseCheck), func(s *cluster.EndpointSpec) *cluster.Check { return &s.Failover.Check }, 0,
		"exec: its program \"check\" is asked whether it is well; left out: nobody asks."),
	entry("check_every", parsed(aPeriod, cluster.ParsePeriod), func(s *cluster.EndpointSpec) *cluster.Period { return &s.Failover.CheckEvery }, 0,
		"Between two checks; left out: 5s."),
	entry("check_misses", number(1, cluster.MaxMisses), func(s *cluster.EndpointSpec) *int { return &s.Failover.CheckMisses }, 0,
		"Checks in a row that fail until it has; left out: 3."),
}

func readFailback(s *cluster.EndpointSpec, n *yaml.Node) error {
	text, ok := textOf(n)
	if !ok || s.Failover.SetFailback(text) != nil {
		return want("never, auto or window=TIME, such as window=Sat 02:00-04:00 UTC", n)
	}
	return nil
}

func writeFailback(s *cluster.EndpointSpec) any {
	if text := s.Failover.FailbackText(); text != string(cluster.FailbackNever) {
		return text
	}
	return nil
}

const aPeriod = "a time of 1s to 10m, like 30s"

// Words of ip.
const (
	ipAuto = "auto"
	ipNone = "none"
)

// readIPs reads a word, an address, or a list of those.
func readIPs(s *cluster.EndpointSpec, n *yaml.Node) error {
	s.IPs, s.Auto = nil, false
	items := []*yaml.Node{n}
	if m := resolve(n); m.Kind == yaml.SequenceNode {
		items = m.Content
	}
	var errs []error
	for _, item := range items {
		text, ok := textOf(item)
		switch {
		case ok && text == ipAuto:
			s.Auto = true
		case ok && text == ipNone && len(items) == 1:
		default:
			a, err := netip.ParseAddr(text)
			if !ok || err != nil {
				errs = append(errs, at(item, want("auto, none or an address", item)))
				continue
			}
			s.IPs = append(s.IPs, a)
		}
	}
	if len(items) == 0 {
		return errors.New("want auto, none or addresses, got an empty list")
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return (&cluster.EndpointSpec{State: cluster.EndpointActive, IPs: s.IPs}).Validate()
}

func writeIPs(s *cluster.EndpointSpec) any {
	var words []string
	for _, a := range s.IPs {
		words = append(words, a.String())
	}
	if s.Auto {
		words = append(words, ipAuto)
	}
	switch len(words) {
	case 0:
		return ipNone
	case 1:
		return words[0]
	}
	return words
}

func (p *parser) endpoint(start, m *yaml.Node, values map[string]*yaml.Node) {
	e := Endpoint{Spec: newEndpoint(), Start: p.at(start)}
	e.Name = p.text("name", e.Start, values["name"], checkEndpointName)
	e.VPC = p.text("vpc", e.Start, values["vpc"], cluster.CheckVPCName)
	p.unknown(m, append([]string{"kind", "name", "vpc"}, endpointFields.names()...))
	var bad map[string]bool
	e.fields, bad = endpointFields.read(p, &e.Spec, values)
	if mac := e.Spec.MAC; !bad["mac"] && mac != (cluster.MAC{}) && !mac.Unicast() {
		p.wrong(e.fields["mac"], "mac: %s is a multicast address, which no workload can have", mac)
	}
	if !bad["mode"] && !bad["place"] && !bad["failback"] && !bad["apart"] && !bad["exclusive"] && !bad["on_isolation"] && !p.failover(&e) && len(bad) == 0 {
		if err := e.Spec.Failover.Validate(); err != nil {
			p.wrong(e.Start, "%v", err)
		}
	}
	e.Spec.SetNeeds()
	if e.Name != "" && e.VPC != "" {
		p.once(fmt.Sprintf("%s %q of VPC %s", KindEndpoint, e.Name, e.VPC), p.at(values["name"]))
		for _, a := range e.Spec.IPs {
			p.once(fmt.Sprintf("ip %s of VPC %s", a, e.VPC), e.fields["ip"])
		}
		if e.Spec.MAC != (cluster.MAC{}) {
			p.once(fmt.Sprintf("mac %s of VPC %s", e.Spec.MAC, e.VPC), e.fields["mac"])
		}
	}
	p.file.Endpoints = append(p.file.Endpoints, e)
}

// failover wants mode and place together, and no node with them, and reports whether
// something of that is wrong.
func (p *parser) failover(e *Endpoint) (wrong bool) {
	f := &e.Spec.Failover
	before := len(p.problems)
	place, mode := e.fields["place"], e.fields["mode"]
	switch {
	case f.Mode == "" && len(f.Place) > 0:
		p.wrong(place, "place: say by mode what becomes of the workload: stateless, vip or stateful")
	case f.Mode == "" && f.FailbackText() != string(cluster.FailbackNever):
		p.wrong(e.fields["failback"], "failback: there is no mode, so it never leaves")
	case f.Mode == "" && f.Exclusive != "":
		p.wrong(e.fields["exclusive"], "exclusive: there is no mode, so it never has another node")
	case f.Stateful() && e.said("exclusive") && f.Exclusive == "":
		p.wrong(e.fields["exclusive"], "exclusive: in mode stateful it is strict")
	case f.OnIsolation != "" && !f.Strict():
		p.wrong(e.fields["on_isolation"], "on_isolation: it takes exclusive strict: nothing shuts another's port")
	case f.Mode == "" && f.Apart != "":
		p.wrong(e.fields["apart"], "apart: there is no mode, so it never leaves")
	case f.Mode != "" && len(f.Place) == 0:
		p.wrong(mode, "mode: say by place where it may run")
	case f.Mode != "" && e.Spec.Node != "":
		p.wrong(e.fields["node"], "node: it has places to go to, so it cannot be bound to %s", e.Spec.Node)
	case f.Mode == "" && f.Workload != "":
		p.wrong(e.fields["workload"], "workload: say by mode and place where it may run")
	}
	return len(p.problems) > before
}

// said reports whether the document has a field.
func (e *Endpoint) said(field string) bool {
	_, ok := e.fields[field]
	return ok
}

func checkEndpointName(name string) error {
	if cluster.CheckNodeName(name) != nil {
		return fmt.Errorf("endpoint name %q: want 1 to 63 of a-z, 0-9 and -, not beginning or ending with -", cluster.CleanText(name))
	}
	return nil
}

// PlanEndpoints is Plan for the endpoints. Those of VPCs that the file does not
// name, and those that nodes had made, are not pruned. Whether there is the VPC is
// the caller's to see.
func PlanEndpoints(f File, current map[EndpointName]*cluster.EndpointSpec, prune bool) ([]Step, error) {
	var (
		steps    []Step
		problems Problems
		named    = map[EndpointName]bool{}
		of       = map[string]bool{}
	)
	for _, v := range f.VPCs {
		of[v.Name] = true
	}
	for i := range f.Endpoints {
		e := &f.Endpoints[i]
		named[e.EndpointName] = true
		step, why := planEndpoint(e, current[e.EndpointName])
		if why != "" {
			problems = append(problems, Problem{e.Start, fmt.Sprintf("endpoint %q of VPC %s %s", e.Name, e.VPC, why)})
			continue
		}
		steps = append(steps, step)
	}
	for _, name := range slices.SortedFunc(maps.Keys(current), EndpointName.compare) {
		now := current[name]
		if prune && !named[name] && of[name.VPC] && now.Requester == "" && now.State != cluster.EndpointDeleting {
			spec := *now
			spec.State = cluster.EndpointDeleting
			steps = append(steps, Step{Kind: KindEndpoint, Name: name.Name, VPC: name.VPC, Action: Delete, Fields: endpointFields.changes(now, nil), Endpoint: &spec, Followed: true})
		}
	}
	return steps, problems.Sorted()
}

// planEndpoint is the step for a document, or why there is none.
func planEndpoint(e *Endpoint, now *cluster.EndpointSpec) (step Step, why string) {
	step = Step{Kind: KindEndpoint, Name: e.Name, VPC: e.VPC, Action: Unchanged, Start: e.Start}
	spec := e.Spec
	switch {
	case now == nil:
		step.Action, step.Endpoint, step.Followed = Create, &spec, true
		step.Fields = endpointFields.changes(nil, &spec)
		return step, ""
	case now.State == cluster.EndpointDeleting:
		return step, "is being deleted: wait until \"meshvpc endpoint list\" no longer shows it"
	case now.Requester != "":
		return step, "was made for a workload of " + now.Requester + ": choose another name"
	}
	spec = *now
	for _, f := range endpointFields {
		f.copy(&spec, &e.Spec)
	}
	spec.SetNeeds()
	if step.Fields = endpointFields.changes(now, &spec); len(step.Fields) > 0 {
		step.Action, step.Endpoint, step.Followed = Change, &spec, true
	}
	return step, ""
}

// EndpointObject is the document of an endpoint, as data.
func EndpointObject(name EndpointName, spec *cluster.EndpointSpec) Object {
	return endpointFields.data(Object{"kind": KindEndpoint, "name": name.Name, "vpc": name.VPC}, spec)
}

// FormatEndpoint is Format for an endpoint.
func FormatEndpoint(name EndpointName, spec *cluster.EndpointSpec) ([]byte, error) {
	m := &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{node("kind"), node(KindEndpoint), node("name"), node(name.Name), node("vpc"), node(name.VPC)}}
	endpointFields.nodes(m, spec)
	text, err := yaml.Dump(m, yaml.WithIndent(2))
	if err != nil {
		return nil, fmt.Errorf("write document of endpoint %q: %w", name.Name, err)
	}
	return text, nil
}
