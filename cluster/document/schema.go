package document

import (
	"maps"

	"github.com/meshvpc/meshvpc/cluster"
)

// Schema is the JSON schema (draft 2020-12) of a document: an object, or a list
// of them. It holds what a schema can say; Parse knows more rules.
func Schema() map[string]any {
	object := map[string]any{"anyOf": []any{map[string]any{"$ref": "#/$defs/" + KindVPC}, map[string]any{"$ref": "#/$defs/" + KindEndpoint}}}
	endpoint := newEndpoint()
	return map[string]any{
		"$schema":     "https://json-schema.org/draft/2020-12/schema",
		"title":       "meshvpc",
		"description": "A document of \"meshvpc apply\".",
		"anyOf":       []any{object, map[string]any{"type": "array", "items": object}},
		"$defs":       map[string]any{KindVPC: vpcSchema(), KindEndpoint: endpointSchema(&endpoint)},
	}
}

const (
	vpcNames  = "^[a-z][a-z0-9-]{0,14}$"
	nodeNames = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
)

func vpcSchema() map[string]any {
	defaults := newSpec()
	properties := vpcFields.properties(&defaults)
	properties["kind"] = map[string]any{"const": KindVPC}
	properties["name"] = map[string]any{"type": "string", "pattern": vpcNames, "description": "The name of the VPC, and of its bridge on every host."}
	return map[string]any{"type": "object", "required": []string{"kind", "name"}, "additionalProperties": false, "properties": properties}
}

func endpointSchema(defaults *cluster.EndpointSpec) map[string]any {
	properties := endpointFields.properties(defaults)
	properties["kind"] = map[string]any{"const": KindEndpoint}
	properties["name"] = map[string]any{"type": "string", "pattern": nodeNames, "description": "The name of the endpoint in its VPC."}
	properties["vpc"] = map[string]any{"type": "string", "pattern": vpcNames, "description": "The VPC that it is of."}
	return map[string]any{"type": "object", "required": []string{"kind", "name", "vpc"}, "additionalProperties": false, "properties": properties}
}

// properties describes the fields, with what they are by default.
func (fs fields[S]) properties(defaults *S) map[string]any {
	properties := map[string]any{}
	for _, f := range fs {
		s := maps.Clone(f.schema)
		s["description"] = f.about
		if v := f.write(defaults); v != nil {
			s["default"] = v
		}
		properties[f.name] = s
	}
	return properties
}
