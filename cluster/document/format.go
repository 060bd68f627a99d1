package document

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/meshvpc/meshvpc/cluster"
)

// Object is a document as data, its members named as in the text.
type Object map[string]any

// ObjectOf is the document of a VPC, as data.
func ObjectOf(name string, spec *cluster.VPCSpec) Object {
	return vpcFields.data(Object{"kind": KindVPC, "name": name}, spec)
}

// Format writes the document of a VPC: every field that is set, in the order
// of the table.
func Format(name string, spec *cluster.VPCSpec) ([]byte, error) {
	m := &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{node("kind"), node(KindVPC), node("name"), node(name)}}
	vpcFields.nodes(m, spec)
	text, err := yaml.Dump(m, yaml.WithIndent(2))
	if err != nil {
		return nil, fmt.Errorf("write document of VPC %q: %w", name, err)
	}
	return text, nil
}

// node is a value of a field in YAML.
func node(v any) *yaml.Node {
	switch v := v.(type) {
	case string:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v}
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(v)}
	case []string:
		seq := &yaml.Node{Kind: yaml.SequenceNode}
		for _, word := range v {
			seq.Content = append(seq.Content, node(word))
		}
		return seq
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: fmt.Sprint(v)}
}

// display is a value of a field for people.
func display(v any) string {
	switch v := v.(type) {
	case nil:
		return "unset"
	case []string:
		return strings.Join(v, ", ")
	}
	return fmt.Sprint(v)
}
