package document

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster"
)

func mustCompile(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := json.Marshal(Schema())
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("meshvpc.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("meshvpc.json") // also against the schema of schemas
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// validate asks the schema about text as an editor would.
func validate(schema *jsonschema.Schema, text []byte) error {
	var v any
	if err := yaml.Load(text, &v); err != nil {
		return err
	}
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return err
	}
	return schema.Validate(doc)
}

// Every document that Format writes is valid by the schema.
func TestSchemaTakesWhatFormatWrites(t *testing.T) {
	schema := mustCompile(t)
	rapid.Check(t, func(t *rapid.T) {
		spec := anySpec(t)
		text, err := Format(anyName(t), &spec)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(schema, text); err != nil {
			t.Fatalf("%v of\n%s", err, text)
		}
	})
}

func TestSchema(t *testing.T) {
	schema := mustCompile(t)
	for text, right := range map[string]bool{
		"{kind: VPC, name: a}":              true,
		"{kind: Endpoint, name: a, vpc: b}": true,
		"[{kind: VPC, name: b}, {kind: Endpoint, name: 0a, vpc: b, ip: [10.0.0.1, auto], mac: '02:00:00:00:00:05', node: n}]": true,
		"{kind: Endpoint, name: a}":                    false,
		"{kind: Endpoint, name: a, vpc: b, ips: auto}": false,
		"{kind: Endpoint, name: a, vpc: b, ip: 7}":     false,
		"{kind: Endpoint, name: a, vpc: b, node: [n]}": false,
		"[{kind: VPC, name: a}, {kind: VPC, name: b}]": true,
		"[]":                                    true,
		"{kind: VPC, name: a, members: [b, c]}": true,
		"{kind: VPC, name: a, exclude: [10.100.0.1]}": true,
		"{kind: VPC, name: a, exclude: 10.100.0.1}":   false,
		"{kind: VPC, name: a, members: [1]}":          false,
		"{kind: VPC, name: a, mtu: '1400'}":           false,
		"{kind: VPC, name: a, mtu: 1200}":             false,
		"{kind: VPC, name: a, vni: 16777216}":         false,
		"{kind: VPC, name: a, protect: 'yes'}":        false,
		"{kind: VPC, name: a, peer-network: x}":       false,
		"{kind: VPC, name: A}":                        false,
		"{kind: Vpc, name: a}":                        false,
		"{kind: VPC}":                                 false,
		"{name: a}":                                   false,
		"{kind: VPC, name: a, network: null}":         false,
	} {
		if err := validate(schema, []byte(text)); (err == nil) != right {
			t.Errorf("%s: %v", text, err)
		}
		if _, err := Parse("f", []byte(text)); (err == nil) != right {
			t.Errorf("%s, parsed: %v", text, err)
		}
	}
}

// The table knows every field of the spec that operators may state.
func TestTableIsWhole(t *testing.T) {
	of := func(f reflect.StructField) string {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		return name
	}
	notStated := []string{"needs", "state", "force", "created"} // of the record's life
	var want []string
	for f := range reflect.TypeFor[cluster.VPCSpec]().Fields() {
		if !slices.Contains(notStated, of(f)) {
			want = append(want, of(f))
		}
	}
	var got []string
	for _, f := range vpcFields {
		got = append(got, f.name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the table has %v, the spec %v", got, want)
	}
}
