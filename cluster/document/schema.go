package document

import "maps"

// Schema is the JSON schema (draft 2020-12) of a document: an object, or a list
// of them. It holds what a schema can say; Parse knows more rules.
func Schema() map[string]any {
	object := map[string]any{"$ref": "#/$defs/" + KindVPC}
	return map[string]any{
		"$schema":     "https://json-schema.org/draft/2020-12/schema",
		"title":       "meshvpc",
		"description": "A document of \"meshvpc apply\".",
		"anyOf":       []any{object, map[string]any{"type": "array", "items": object}},
		"$defs":       map[string]any{KindVPC: vpcSchema()},
	}
}

func vpcSchema() map[string]any {
	properties := map[string]any{
		"kind": map[string]any{"const": KindVPC},
		"name": map[string]any{"type": "string", "pattern": "^[a-z][a-z0-9-]{0,14}$",
			"description": "The name of the VPC, and of its bridge on every host."},
	}
	defaults := newSpec()
	for _, f := range vpcFields {
		s := maps.Clone(f.schema)
		s["description"] = f.about
		if v := f.write(&defaults); v != nil {
			s["default"] = v
		}
		properties[f.name] = s
	}
	return map[string]any{"type": "object", "required": []string{"kind", "name"}, "additionalProperties": false, "properties": properties}
}
