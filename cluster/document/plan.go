package document

import (
	"fmt"
	"maps"
	"reflect"
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
	Action Action        `json:"action"`
	Fields []FieldChange `json:"fields,omitempty"`

	// Spec is what is to be written; nil if Unchanged. It keeps what a document
	// does not say; of a new VPC that is zero, the caller sets Created.
	Spec *cluster.VPCSpec `json:"-"`
	// Document is what asks for it; nil for Delete.
	Document *VPC `json:"-"`
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

// Plan lists what makes current, all specs at one revision by name, what the
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
	step := Step{Kind: KindVPC, Name: v.Name, Action: Unchanged, Document: v}
	if now == nil {
		spec := v.Spec
		step.Action, step.Spec, step.Followed = Create, &spec, true
		step.Fields = changes(nil, &spec)
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
	step.Fields = changes(now, &spec)
	for _, c := range step.Fields {
		f := fieldNamed(c.Field)
		if f.is(fixed) {
			problems = append(problems, Problem{v.Where(c.Field), v.cannotChange(c)})
		}
		step.Followed = step.Followed || !f.is(quiet)
	}
	if len(step.Fields) > 0 {
		step.Action, step.Spec = Change, &spec
	}
	return step, problems
}

// cannotChange says what to do about a field that is fixed.
func (v *VPC) cannotChange(c FieldChange) string {
	keep := "leave " + c.Field + " out"
	if c.Old != nil {
		keep = fmt.Sprintf("write %s: %s", c.Field, display(c.Old))
	}
	return fmt.Sprintf("VPC %q exists, and its %s never changes (%s → %s): %s, or delete the VPC first by \"meshvpc vpc delete %s\"",
		v.Name, c.Field, display(c.Old), display(c.New), keep, v.Name)
}

func deletion(name string, now *cluster.VPCSpec) Step {
	spec := *now
	spec.State = cluster.VPCDeleting
	return Step{Kind: KindVPC, Name: name, Action: Delete, Fields: changes(now, nil), Spec: &spec, Followed: true}
}

// changes lists the fields in which two specs differ; nil has none.
func changes(was, is *cluster.VPCSpec) []FieldChange {
	value := func(f *field, s *cluster.VPCSpec) any {
		if s == nil {
			return nil
		}
		return f.write(s)
	}
	var list []FieldChange
	for i := range vpcFields {
		f := &vpcFields[i]
		if o, n := value(f, was), value(f, is); !reflect.DeepEqual(o, n) {
			list = append(list, FieldChange{f.name, o, n})
		}
	}
	return list
}

func fieldNamed(name string) *field {
	return &vpcFields[slices.IndexFunc(vpcFields, func(f field) bool { return f.name == name })]
}

// String is the step as a readable diff: a line with the action and the
// object, and one for each field that it changes.
func (s Step) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\n", s.Action, s.Kind, s.Name)
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
