package document

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/meshvpc/meshvpc/cluster"
)

// File is what a file asks for, each kind in the order of the file.
type File struct {
	VPCs      []VPC
	Endpoints []Endpoint
}

// Parse reads a file. The error is Problems: every mistake that a reader can
// see without knowing the cluster. An empty file is a mistake, an empty list
// is none.
func Parse(name string, text []byte) (File, error) {
	p := parser{name: name, first: map[string]Position{}}
	p.stream(text)
	if err := p.problems.Sorted(); err != nil {
		return File{}, err
	}
	return p.file, nil
}

type parser struct {
	name     string
	file     File
	problems Problems
	first    map[string]Position // of what no two documents may share
}

func (p *parser) at(n *yaml.Node) Position { return Position{p.name, n.Line, n.Column} }

func (p *parser) wrong(at Position, format string, args ...any) {
	p.problems = append(p.problems, Problem{at, fmt.Sprintf(format, args...)})
}

func (p *parser) stream(text []byte) {
	if at, r := unreadable(text); at.Line != 0 {
		at.File = p.name
		p.wrong(at, "character %U cannot stand in YAML", r)
		return
	}
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	empty := true
	for err == nil {
		var n yaml.Node
		if err = loader.Load(&n); err == nil && len(n.Content) == 1 && n.Content[0].ShortTag() != "!!null" {
			empty = false
			p.document(n.Content[0])
		}
	}
	switch {
	case !errors.Is(err, io.EOF):
		p.syntax(err)
	case empty:
		p.wrong(Position{File: p.name}, "it holds no document: want one with kind and name, or [] for none")
	}
}

// unreadable finds the first character that YAML does not allow; line 0 is
// none.
func unreadable(text []byte) (Position, rune) {
	at := Position{Line: 1, Column: 1}
	for rest := text; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		switch {
		case r == utf8.RuneError && size == 1:
			return at, rune(rest[0])
		case r < ' ' && r != '\t' && r != '\n' && r != '\r', r == 0x7f, r == 0xfffe, r == 0xffff:
			return at, r
		case r == '\n':
			at.Line, at.Column = at.Line+1, 0
		}
		at.Column++
		rest = rest[size:]
	}
	return Position{}, 0
}

// syntax tells of text that is no YAML. What follows it cannot be judged.
func (p *parser) syntax(err error) {
	bad, ok := errors.AsType[*yaml.LoadError](err)
	if !ok {
		p.wrong(Position{File: p.name}, "%s", cluster.CleanText(err.Error()))
		return
	}
	text := cluster.CleanText(bad.Message)
	if bad.ContextMsg != "" {
		text += fmt.Sprintf(" (%s, from line %d on)", bad.ContextMsg, max(bad.ContextMark.Line, 1))
	}
	p.wrong(Position{p.name, bad.Mark.Line, bad.Mark.Column}, "%s", text)
}

func (p *parser) document(n *yaml.Node) {
	if n.Kind != yaml.SequenceNode {
		p.object(n)
		return
	}
	for _, item := range n.Content {
		p.object(item)
	}
}

// object reads one mapping with a kind.
func (p *parser) object(n *yaml.Node) {
	m := resolve(n)
	if m.Kind != yaml.MappingNode {
		p.wrong(p.at(n), "want a document with kind and name, got %s", describe(n))
		return
	}
	values := p.values(m)
	kind := values["kind"]
	if kind == nil {
		p.wrong(p.at(n), "kind is missing: want kind: %s or %s", KindVPC, KindEndpoint)
		return
	}
	switch text, ok := textOf(kind); {
	case !ok:
		p.wrong(p.at(kind), "kind: %v", want(KindVPC+" or "+KindEndpoint, kind))
	case text == KindVPC:
		p.vpc(n, m, values)
	case text == KindEndpoint:
		p.endpoint(n, m, values)
	default:
		p.wrong(p.at(kind), "unknown kind %q: want %s or %s", cluster.CleanText(text), KindVPC, KindEndpoint)
	}
}

// values takes a mapping apart; a field given twice is a mistake.
func (p *parser) values(m *yaml.Node) map[string]*yaml.Node {
	values := map[string]*yaml.Node{}
	keys := map[string]*yaml.Node{}
	for i := 0; i+1 < len(m.Content); i += 2 {
		key := m.Content[i]
		name, ok := textOf(key)
		switch {
		case !ok && key.ShortTag() == "!!merge":
			p.wrong(p.at(key), "merging (<<) is not understood here: write the fields out")
		case !ok:
			p.wrong(p.at(key), "want the name of a field, got %s", describe(key))
		case keys[name] != nil:
			p.wrong(p.at(key), "field %q is given twice, first on line %d", cluster.CleanText(name), keys[name].Line)
		default:
			keys[name], values[name] = key, m.Content[i+1]
		}
	}
	return values
}

func (p *parser) vpc(start, m *yaml.Node, values map[string]*yaml.Node) {
	v := VPC{Spec: newSpec(), Start: p.at(start)}
	v.Name = p.text("name", v.Start, values["name"], cluster.CheckVPCName)
	if v.Name != "" {
		p.once(fmt.Sprintf("%s %q", KindVPC, v.Name), p.at(values["name"]))
	}
	p.unknown(m, append([]string{"kind", "name"}, vpcFields.names()...))
	var bad map[string]bool
	v.fields, bad = vpcFields.read(p, &v.Spec, values)
	for _, e := range v.Spec.Check() {
		if !bad[e.Field] {
			bad[e.Field] = true
			p.wrong(v.Where(e.Field), "%v", e)
		}
	}
	for _, f := range vpcFields {
		if value := f.write(&v.Spec); f.is(unique) && value != nil && !bad[f.name] {
			p.once(fmt.Sprintf("%s %s", f.name, display(value)), v.Where(f.name))
		}
	}
	p.file.VPCs = append(p.file.VPCs, v)
}

// text reads what has to be there as text that check likes; "" if it is wrong.
func (p *parser) text(what string, start Position, n *yaml.Node, check func(string) error) string {
	if n == nil {
		p.wrong(start, "%s is missing", what)
		return ""
	}
	text, ok := textOf(n)
	if !ok {
		p.wrong(p.at(n), "%s: %v", what, want("text", n))
		return ""
	}
	if err := check(text); err != nil {
		p.wrong(p.at(n), "%v", err)
		return ""
	}
	return text
}

// once refuses the second of what only one document may have.
func (p *parser) once(what string, at Position) {
	if first, ok := p.first[what]; ok {
		p.wrong(at, "%s is in the file twice, first on line %d", what, first.Line)
		return
	}
	p.first[what] = at
}

// unknown tells of the fields that a document does not have.
func (p *parser) unknown(m *yaml.Node, known []string) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		name, ok := textOf(m.Content[i])
		if !ok || slices.Contains(known, name) {
			continue
		}
		do := "want one of " + strings.Join(known, ", ")
		if near := cluster.Nearest(name, known); near != "" {
			do = fmt.Sprintf("did you mean %q?", near)
		}
		p.wrong(p.at(m.Content[i]), "unknown field %q: %s", cluster.CleanText(name), do)
	}
}

// wrongValue tells of a field's value, or of each item of it, that is wrong.
func (p *parser) wrongValue(field string, n *yaml.Node, err error) {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		p.wrong(p.at(n), "%s: %v", field, err)
		return
	}
	for _, e := range joined.Unwrap() {
		if item, ok := errors.AsType[placed](e); ok {
			n = item.node
		}
		p.wrong(p.at(n), "%s: %v", field, e)
	}
}
