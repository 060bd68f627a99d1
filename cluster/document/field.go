package document

import (
	"reflect"
	"slices"

	"go.yaml.in/yaml/v4"
)

// trait is what is special about a field.
type trait int

const (
	fixed  trait = 1 << iota // it never changes once the object is made
	unique                   // no two objects of its kind have the same value
	quiet                    // no host has to do anything when it changes
)

// field is one field of the documents of a kind, whose spec is S.
type field[S any] struct {
	name   string
	about  string
	traits trait
	schema map[string]any
	// read takes the value over from YAML; what it leaves of a wrong one means
	// nothing.
	read  func(*S, *yaml.Node) error
	write func(*S) any
	copy  func(to, from *S)
	// keeps, of a fixed field, reports whether a change takes nothing away, so that
	// it may be; nil: never.
	keeps func(was, is *S) bool
}

// mayNot reports whether a change of the field from was to is cannot be.
func (f *field[S]) mayNot(was, is *S) bool {
	return f.is(fixed) && (f.keeps == nil || !f.keeps(was, is))
}

func (f *field[S]) is(t trait) bool { return f.traits&t != 0 }

// fields is all that the documents of a kind can say, in the order in which it is
// written.
type fields[S any] []field[S]

func (fs fields[S]) named(name string) *field[S] {
	return &fs[slices.IndexFunc(fs, func(f field[S]) bool { return f.name == name })]
}

func (fs fields[S]) names() []string {
	var list []string
	for _, f := range fs {
		list = append(list, f.name)
	}
	return list
}

// changes lists the fields in which two specs differ; nil has none.
func (fs fields[S]) changes(was, is *S) []FieldChange {
	value := func(f *field[S], s *S) any {
		if s == nil {
			return nil
		}
		return f.write(s)
	}
	var list []FieldChange
	for i := range fs {
		f := &fs[i]
		if o, n := value(f, was), value(f, is); !reflect.DeepEqual(o, n) {
			list = append(list, FieldChange{f.name, o, n})
		}
	}
	return list
}

// data are the fields of a spec that are set.
func (fs fields[S]) data(o Object, spec *S) Object {
	for _, f := range fs {
		if v := f.write(spec); v != nil {
			o[f.name] = v
		}
	}
	return o
}

// nodes adds the fields of a spec that are set to a mapping.
func (fs fields[S]) nodes(m *yaml.Node, spec *S) {
	for _, f := range fs {
		if v := f.write(spec); v != nil {
			m.Content = append(m.Content, node(f.name), node(v))
		}
	}
}

// read reads all fields that a mapping has, and returns where, and which of them are
// wrong.
func (fs fields[S]) read(p *parser, spec *S, values map[string]*yaml.Node) (where map[string]Position, bad map[string]bool) {
	where, bad = map[string]Position{}, map[string]bool{}
	for _, f := range fs {
		n := values[f.name]
		if n == nil {
			continue
		}
		where[f.name] = p.at(n)
		if err := f.read(spec, n); err != nil {
			bad[f.name] = true
			p.wrongValue(f.name, n, err)
		}
	}
	return where, bad
}

// entry makes a field of what of says is its place in the spec.
func entry[S, T any](name string, k kind[T], of func(*S) *T, traits trait, about string) field[S] {
	return field[S]{
		name: name, about: about, traits: traits, schema: k.schema,
		read: func(s *S, n *yaml.Node) error {
			v, err := k.read(n)
			*of(s) = v
			return err
		},
		write: func(s *S) any { return k.write(*of(s)) },
		copy:  func(to, from *S) { *of(to) = *of(from) },
	}
}

// growing makes a fixed field one that may change as keeps says.
func growing[S any](f field[S], keeps func(was, is *S) bool) field[S] {
	f.keeps = keeps
	return f
}
