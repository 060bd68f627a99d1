package document

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster"
)

var compare = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmpopts.IgnoreUnexported(VPC{}),
	cmpopts.EquateEmpty(),
}

func TestParse(t *testing.T) {
	network := cluster.Networks{IPv4: netip.MustParsePrefix("10.10.11.0/24")}
	plain := func(name string) VPC { return VPC{Name: name, Spec: newSpec()} }
	with := func(v VPC, change func(*cluster.VPCSpec)) VPC { change(&v.Spec); return v }
	for name, tt := range map[string]struct {
		in   string
		want []VPC
	}{
		"defaults": {"kind: VPC\nname: a\n", []VPC{plain("a")}},
		"every field": {
			"kind: VPC\nname: a\nmembers: b,dc=c\npeer_network: fd00:1::/64\nnetwork: 10.10.11.0/24\nexclude: [\"fd00:1::7\"]\nvni: 20000\nmtu: 1400\nprotect: true\n",
			[]VPC{{Name: "a", Spec: cluster.VPCSpec{State: cluster.VPCActive, Members: "b,dc=c", PeerNetwork: netip.MustParsePrefix("fd00:1::/64"), Network: network,
				Exclude: []netip.Addr{netip.MustParseAddr("fd00:1::7")}, VNI: 20000, MTU: 1400, Protect: true}}},
		},
		"members as a list":             {"kind: VPC\nname: a\nmembers: [b, label=k=v]\n", []VPC{with(plain("a"), func(s *cluster.VPCSpec) { s.Members = "b,label=k=v" })}},
		"a stream, empty documents too": {"---\n# nothing\n---\nkind: VPC\nname: b\n---\nkind: VPC\nname: a\n...\n", []VPC{plain("b"), plain("a")}},
		"a list":                        {"- {kind: VPC, name: a}\n- kind: VPC\n  name: b\n", []VPC{plain("a"), plain("b")}},
		"lists in a stream":             {"[{kind: VPC, name: a}]\n---\n[]\n---\nkind: VPC\nname: b\n", []VPC{plain("a"), plain("b")}},
		"JSON":                          {`{"kind":"VPC","name":"a","mtu":1400}`, []VPC{with(plain("a"), func(s *cluster.VPCSpec) { s.MTU = 1400 })}},
		"aliases":                       {"- {kind: VPC, name: a, members: &m [b, c], mtu: &n 1400}\n- {kind: VPC, name: b, members: *m, mtu: *n}\n", []VPC{with(plain("a"), func(s *cluster.VPCSpec) { s.Members, s.MTU = "b,c", 1400 }), with(plain("b"), func(s *cluster.VPCSpec) { s.Members, s.MTU = "b,c", 1400 })}},
		"names that YAML takes for other things, quoted": {"kind: VPC\nname: \"null\"\nmembers: [\"12\", 'true']\n", []VPC{with(plain("null"), func(s *cluster.VPCSpec) { s.Members = "12,true" })}},
		"an empty list": {"[]\n", nil},
		"Windows":       {"kind: VPC\r\nname: a\r\n", []VPC{plain("a")}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse("f", []byte(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			for i := range got.VPCs {
				got.VPCs[i].Start = Position{}
			}
			if d := cmp.Diff(got.VPCs, tt.want, compare); d != "" {
				t.Errorf("(-got +want):\n%s", d)
			}
		})
	}
}

func TestParseMistakes(t *testing.T) {
	all := "kind, name"
	for _, f := range vpcFields {
		all += ", " + f.name
	}
	for name, tt := range map[string]struct {
		in   string
		want string
	}{
		"empty":         {"", "f: it holds no document: want one with kind and name, or [] for none"},
		"only comments": {"# x\n---\n", "f: it holds no document: want one with kind and name, or [] for none"},
		"syntax":        {"kind: VPC\nname: a: b\n", "f:2:8: mapping values are not allowed in this context"},
		"syntax on the first line": {"a: 'b'c\n",
			"f:1:7: did not find expected key (while parsing a block mapping, from line 1 on)"},
		"tab":            {"kind: VPC\n\tname: a\n", "f:2:1: found a tab character that violates indentation (while scanning a plain scalar, from line 1 on)"},
		"unclosed":       {"kind: VPC\nname: [a\nmtu: 3\n", "f:3:4: did not find expected ',' or ']' (while parsing a flow sequence, from line 2 on)"},
		"unknown anchor": {"kind: VPC\nname: *a\n", "f:2:7: unknown anchor 'a' referenced"},
		"control character": {"kind: VPC\nname: a\x01\n",
			"f:2:8: character U+0001 cannot stand in YAML"},
		"not UTF-8": {"kind: VPC\nname: \u00e4\xff\n", "f:2:8: character U+00FF cannot stand in YAML"},
		"scalar":    {"hello\n", "f:1:1: want a document with kind and name, got \"hello\""},
		"list in a list": {"- - kind: VPC\n",
			"f:1:3: want a document with kind and name, got a list"},
		"no kind":               {"name: a\n", "f:1:1: kind is missing: want kind: VPC or Endpoint"},
		"other kind":            {"kind: Vpc\nname: a\n", "f:1:7: unknown kind \"Vpc\": want VPC or Endpoint"},
		"kind no text":          {"kind: 1\nname: a\n", "f:1:7: kind: want VPC or Endpoint, got 1"},
		"no name":               {"- mtu: 1400\n  kind: VPC\n", "f:1:3: name is missing"},
		"name no text":          {"kind: VPC\nname: true\n", "f:2:7: name: want text, got true"},
		"name empty":            {"kind: VPC\nname:\n", "f:2:6: name: want text, got nothing"},
		"name wrong":            {"kind: VPC\nname: br0\n", "f:2:7: invalid VPC name \"br0\": kernels give such names to devices"},
		"unknown field":         {"kind: VPC\nname: a\npeer-network: 10.1.0.0/16\n", "f:3:1: unknown field \"peer-network\": did you mean \"peer_network\"?"},
		"unknown far field":     {"kind: VPC\nname: a\ncolour: red\n", "f:3:1: unknown field \"colour\": want one of " + all},
		"field of the record":   {"kind: VPC\nname: a\nstate: deleting\n", "f:3:1: unknown field \"state\": want one of " + all},
		"given twice":           {"kind: VPC\nname: a\nmtu: 1400\nmtu: 1500\n", "f:4:1: field \"mtu\" is given twice, first on line 3"},
		"field no text":         {"kind: VPC\nname: a\n1: 2\n", "f:3:1: want the name of a field, got 1"},
		"merge":                 {"- &a {kind: VPC, name: a}\n- {<<: *a, kind: VPC, name: b}\n", "f:2:4: merging (<<) is not understood here: write the fields out"},
		"number wanted":         {"kind: VPC\nname: a\nmtu: \"1400\"\n", "f:3:6: mtu: want a whole number from 1280 to 65465, got \"1400\""},
		"octal":                 {"kind: VPC\nname: a\nvni: 020000\n", "f:3:6: vni: want a whole number from 1 to 16777215, got 020000"},
		"fraction":              {"kind: VPC\nname: a\nmtu: 1400.5\n", "f:3:6: mtu: want a whole number from 1280 to 65465, got 1400.5"},
		"MTU too small":         {"kind: VPC\nname: a\nmtu: 1200\n", "f:3:6: mtu: want a whole number from 1280 to 65465, got 1200"},
		"VNI zero":              {"kind: VPC\nname: a\nvni: 0\n", "f:3:6: vni: want a whole number from 1 to 16777215, got 0"},
		"VNI beyond 64 bits":    {"kind: VPC\nname: a\nvni: 99999999999999999999\n", "f:3:6: vni: want a whole number from 1 to 16777215, got 99999999999999999999"},
		"boolean wanted":        {"kind: VPC\nname: a\nprotect: yes\n", "f:3:10: protect: want true or false, got \"yes\""},
		"nothing":               {"kind: VPC\nname: a\nnetwork:\n", "f:3:9: network: want a prefix like 10.10.11.0/24, or one of each family joined by a comma, got nothing"},
		"prefix wanted":         {"kind: VPC\nname: a\npeer_network: 10.1.0.0\nexclude: [10.1.0.1]\n", "f:3:15: peer_network: want a prefix like 10.100.0.0/16 or fd00:100::/64, got \"10.1.0.0\""},
		"host bits":             {"kind: VPC\nname: a\nnetwork: 10.10.11.1/24\n", "f:3:10: invalid network 10.10.11.1/24: host bits are set; want 10.10.11.0/24"},
		"overlap":               {"kind: VPC\nname: a\nnetwork: 10.100.7.0/24\n", "f:3:10: invalid peer network 10.100.0.0/16: it overlaps the VPC's own network 10.100.7.0/24"},
		"list wanted":           {"kind: VPC\nname: a\nexclude: 10.100.0.1\n", "f:3:10: exclude: want a list, got \"10.100.0.1\""},
		"items":                 {"kind: VPC\nname: a\nexclude:\n- 10.100.0.1\n- x\n- {}\n", "f:5:3: exclude: want an address of the peer network or of network, got \"x\"\nf:6:3: exclude: want an address of the peer network or of network, got a mapping"},
		"excluded elsewhere":    {"kind: VPC\nname: a\nexclude: [10.99.0.1]\n", "f:3:10: invalid excluded address 10.99.0.1: it is in neither the peer network 10.100.0.0/16 nor the VPC's own"},
		"members wrong":         {"kind: VPC\nname: a\nmembers: dc=\n", "f:3:10: invalid member selector \"dc=\" in \"dc=\": want all, node names, dc=NAME or label=KEY=VALUE"},
		"members no text":       {"kind: VPC\nname: a\nmembers: 12\n", "f:3:10: members: want text or a list, got 12"},
		"member no text":        {"kind: VPC\nname: a\nmembers: [b, 12]\n", "f:3:14: members: want text, got 12"},
		"no members":            {"kind: VPC\nname: a\nmembers: []\n", "f:3:10: invalid member selector \"\" in \"\": want all, node names, dc=NAME or label=KEY=VALUE"},
		"name twice":            {"kind: VPC\nname: a\n---\nkind: VPC\nname: a\n", "f:5:7: VPC \"a\" is in the file twice, first on line 2"},
		"VNI twice":             {"- {kind: VPC, name: a, vni: 7}\n- {kind: VPC, name: b, vni: 7}\n", "f:2:29: vni 7 is in the file twice, first on line 1"},
		"text of many a column": {"{kind: VPC, name: \"\u00fc\u00fc\", mtu: x}\n", "f:1:19: invalid VPC name \"\u00fc\u00fc\": want 1 to 15 of a-z, 0-9 and -, beginning with a letter\nf:1:30: mtu: want a whole number from 1280 to 65465, got \"x\""},
		"all at once": {"kind: VPC\nname: a\nmtu: big\nvin: 3\n---\nkind: VPC\nname: a\nnetwork: 10.0.0.1/24\n---\nkind: [\n",
			"f:3:6: mtu: want a whole number from 1280 to 65465, got \"big\"\n" +
				"f:4:1: unknown field \"vin\": did you mean \"vni\"?\n" +
				"f:7:7: VPC \"a\" is in the file twice, first on line 2\n" +
				"f:8:10: invalid network 10.0.0.1/24: host bits are set; want 10.0.0.0/24\n" +
				"f:11:1: did not find expected node content (while parsing a flow node, from line 11 on)"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse("f", []byte(tt.in))
			if err == nil {
				t.Fatalf("no error, but %+v", got)
			}
			if _, ok := errors.AsType[Problems](err); !ok || len(got.VPCs) > 0 {
				t.Errorf("got %T and %d VPCs; want Problems and none", err, len(got.VPCs))
			}
			if d := cmp.Diff(strings.Split(err.Error(), "\n"), strings.Split(tt.want, "\n")); d != "" {
				t.Errorf("(-got +want):\n%s", d)
			}
		})
	}
}

// Any text is read or refused, each mistake on a line of the file, printable.
func TestParseAnything(t *testing.T) {
	words := []string{"kind", "VPC", "name", "mtu", "members", "exclude", ": ", "\n", "- ", "  ", "[", "]", "{", "}", ",", "&a ", "*a", "!!int ", "<<", "|", "\"", "'", "---\n", "1400", "10.100.0.0/16", "~", "? ", "# ", "\t", "%", "\x00", "\xff", "ü", "\r"}
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOf(rapid.OneOf(rapid.SampledFrom(words), rapid.String())).Draw(t, "words"), "")
		_, err := Parse("f", []byte(text))
		problems, ok := errors.AsType[Problems](err)
		if err != nil && !ok {
			t.Fatalf("%T: %v", err, err)
		}
		for _, p := range problems {
			lines := strings.Count(text, "\n") + strings.Count(text, "\r") + strings.Count(text, "\u0085") + strings.Count(text, "\u2028") + strings.Count(text, "\u2029") + 2 // the end counts as a line
			if p.Line < 0 || p.Line > lines || p.Line > 0 && p.Column < 1 || cluster.CleanText(p.Text) != p.Text && len(p.Text) < 400 {
				t.Fatalf("problem %q in a text of %d lines", p, lines)
			}
		}
	})
}
