package document

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// Action is what a plan does with an object.
type Action string

// The actions of a plan.
const (
	Create    Action = "create"
	Change    Action = "change"
	Delete    Action = "delete"
	Unchanged Action = "unchanged"
)

// Step is what a plan does with one object.
type Step struct {
	Kind   string        `json:"kind"`
	Name   string        `json:"name"`
	VPC    string        `json:"vpc,omitempty"` // of an Endpoint
	Action Action        `json:"action"`
	Fields []FieldChange `json:"fields,omitempty"`

	// Spec, or Endpoint, is what is to be written; nil if Unchanged. It keeps what a document
	// does not say; of a new VPC that is zero, the caller sets Created.
	Spec     *cluster.VPCSpec      `json:"-"`
	Endpoint *cluster.EndpointSpec `json:"-"`
	// Document is what asks for it, if that is a VPC; nil for Delete.
	Document *VPC `json:"-"`
	// Start is where that stands; the zero Position for Delete.
	Start Position `json:"-"`
	// Followed is set when hosts have to do something, so that it is worth
	// waiting for them.
	Followed bool `json:"-"`
}

// FieldChange is a field's value before and after, as JSON has it; nil is
// unset.
type FieldChange struct {
	Field string `json:"field"`
	Old   any    `json:"old"`
	New   any    `json:"new"`
}

// Plan lists, for the VPCs, what makes current, all specs at one revision by name, what the
// file asks for: its objects in order, and then, if prune is set, the deletion
// of every VPC that it does not name. The error is Problems: objects that
// cannot be made so, which have no step; the other steps are there to be judged,
// not to be written. What needs more than specs to decide (members that exist,
// workloads that use a VPC, protection from deletion) is left to the caller.
func Plan(f File, current map[string]*cluster.VPCSpec, prune bool) ([]Step, error) {
	var (
		steps    []Step
		problems Problems
		named    = map[string]bool{}
	)
	for i := range f.VPCs {
		step, wrong := planVPC(&f.VPCs[i], current[f.VPCs[i].Name])
		if len(wrong) == 0 {
			steps = append(steps, step)
		}
		problems = append(problems, wrong...)
		named[step.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(current)) {
		if prune && !named[name] && current[name].State != cluster.VPCDeleting {
			steps = append(steps, deletion(name, current[name]))
		}
	}
	return steps, problems.Sorted()
}

func planVPC(v *VPC, now *cluster.VPCSpec) (Step, Problems) {
	step := Step{Kind: KindVPC, Name: v.Name, Action: Unchanged, Document: v, Start: v.Start}
	if now == nil {
		spec := v.Spec
		step.Action, step.Spec, step.Followed = Create, &spec, true
		step.Fields = vpcFields.changes(nil, &spec)
		return step, nil
	}
	if now.State == cluster.VPCDeleting {
		return step, Problems{{v.Start, fmt.Sprintf("VPC %q is being deleted: wait until \"meshvpc vpc list\" no longer shows it", v.Name)}}
	}
	spec := *now
	for _, f := range vpcFields {
		f.copy(&spec, &v.Spec)
	}
	var problems Problems
	step.Fields = vpcFields.changes(now, &spec)
	for _, c := range step.Fields {
		f := vpcFields.named(c.Field)
		if f.mayNot(now, &spec) {
			problems = append(problems, Problem{v.Where(c.Field), v.cannotChange(c, f.keeps != nil)})
		}
		step.Followed = step.Followed || !f.is(quiet)
	}
	if len(step.Fields) > 0 {
		step.Action, step.Spec = Change, &spec
	}
	return step, problems
}

// cannotChange says what to do about a field that is fixed, or only grows.
func (v *VPC) cannotChange(c FieldChange, grows bool) string {
	keep := "leave " + c.Field + " out"
	if c.Old != nil {
		keep = fmt.Sprintf("write %s: %s", c.Field, display(c.Old))
	}
	rule := "never changes"
	if grows {
		rule = "only grows"
	}
	return fmt.Sprintf("VPC %q exists, and its %s %s (%s → %s): %s, or delete the VPC first by \"meshvpc vpc delete %s\"",
		v.Name, c.Field, rule, display(c.Old), display(c.New), keep, v.Name)
}

func deletion(name string, now *cluster.VPCSpec) Step {
	spec := *now
	spec.State = cluster.VPCDeleting
	return Step{Kind: KindVPC, Name: name, Action: Delete, Fields: vpcFields.changes(now, nil), Spec: &spec, Followed: true}
}

// String is the step as a readable diff: a line with the action and the
// object, and one for each field that it changes.
func (s Step) String() string {
	var b strings.Builder
	of := ""
	if s.VPC != "" {
		of = " of VPC " + s.VPC
	}
	fmt.Fprintf(&b, "%s %s %s%s\n", s.Action, s.Kind, s.Name, of)
	wide := 0
	for _, c := range s.Fields {
		wide = max(wide, len(c.Field))
	}
	for _, c := range s.Fields {
		what := fmt.Sprintf("%s → %s", display(c.Old), display(c.New))
		switch s.Action {
		case Create:
			what = display(c.New)
		case Delete:
			what = display(c.Old)
		}
		fmt.Fprintf(&b, "  %-*s %s\n", wide+1, c.Field+":", what)
	}
	return b.String()
}
