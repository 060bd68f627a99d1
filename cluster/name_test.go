package cluster

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestNames(t *testing.T) {
	for name, tt := range map[string]struct {
		in        string
		node, vpc bool
	}{
		"plain":               {"blue", true, true},
		"one letter":          {"b", true, true},
		"one digit":           {"7", true, false},
		"digit first":         {"1blue", true, false},
		"inner dash":          {"blue-1", true, true},
		"dash last":           {"blue-", false, true},
		"dash first":          {"-blue", false, false},
		"empty":               {"", false, false},
		"15 bytes":            {strings.Repeat("a", 15), true, true},
		"16 bytes":            {strings.Repeat("a", 16), true, false},
		"63 bytes":            {strings.Repeat("a", 63), true, false},
		"64 bytes":            {strings.Repeat("a", 64), false, false},
		"upper case":          {"Blue", false, false},
		"dot":                 {"blue.example", false, false},
		"slash":               {"a/b", false, false},
		"line end":            {"blue\n", false, false},
		"umlaut":              {"blüe", false, false},
		"NUL":                 {"a\x00b", false, false},
		"all":                 {"all", true, false},
		"default":             {"default", true, false},
		"loopback":            {"lo", true, false},
		"namespace's":         {"vpc-blue", true, false},
		"kernel's bridge":     {"bridge1", true, false},
		"kernel's vxlan":      {"vxlan7", true, false},
		"kernel's epair":      {"epair0", true, false},
		"like the kernel's":   {"bridge", true, true},
		"more than kernel's":  {"bridge1a", true, true},
		"own tunnel":          {"mv4-7", true, false},
		"own namespace port":  {"mn-7", true, false},
		"article's vpc1":      {"vpc1", true, true},
		"article's jhoster01": {"jhoster01", true, true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, c := range []struct {
				of    string
				check func(string) error
				want  bool
			}{{"node", CheckNodeName, tt.node}, {"VPC", CheckVPCName, tt.vpc}} {
				err := c.check(tt.in)
				if (err == nil) != c.want || err != nil && !errors.Is(err, ErrInvalid) {
					t.Errorf("%s name %q: %v, want valid %v", c.of, tt.in, err, c.want)
				}
				if err != nil && CleanText(err.Error()) != err.Error() {
					t.Errorf("the error is not fit to print: %q", err)
				}
			}
		})
	}
}

func TestSelector(t *testing.T) {
	node := &Node{Datacenter: "gold", Agent: true, State: NodeActive, Labels: map[string]string{"rack": "a1"}}
	with := func(change func(*Node)) *Node { n := *node; change(&n); return &n }
	for name, tt := range map[string]struct {
		in      Selector
		invalid bool
		selects bool
		of      *Node
		names   []string
	}{
		"all":                    {in: "all", selects: true},
		"name":                   {in: "n1", selects: true, names: []string{"n1"}},
		"another's name":         {in: "n2", names: []string{"n2"}},
		"names":                  {in: "n2,n1,n2", selects: true, names: []string{"n1", "n2"}},
		"datacenter":             {in: "dc=gold", selects: true},
		"another datacenter":     {in: "dc=silver"},
		"label":                  {in: "label=rack=a1", selects: true},
		"label of another value": {in: "label=rack=a2"},
		"one term of several":    {in: "dc=silver,label=rack=a1,n7", selects: true, names: []string{"n7"}},
		"a witness":              {in: "all", of: with(func(n *Node) { n.Agent = false })},
		"draining":               {in: "all", of: with(func(n *Node) { n.State = NodeDraining }), selects: true},
		"left":                   {in: "all,n1", of: with(func(n *Node) { n.State = NodeLeft }), names: []string{"n1"}},
		"empty":                  {in: "", invalid: true, names: []string{""}},
		"empty term":             {in: "n1,", invalid: true, selects: true, names: []string{"", "n1"}},
		"spaces":                 {in: "n1, n2", invalid: true, selects: true, names: []string{" n2", "n1"}},
		"dc without name":        {in: "dc=", invalid: true},
		"label without value":    {in: "label=rack", invalid: true},
		"label nobody has":       {in: "label=none", invalid: true},
		"unknown word":           {in: "zone=a", invalid: true},
		"too long":               {in: Selector(strings.Repeat("n,", maxSelector)) + "n", invalid: true, names: []string{"n"}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tt.in.Validate(); (err != nil) != tt.invalid || err != nil && !errors.Is(err, ErrInvalid) {
				t.Errorf("Validate: %v, want invalid %v", err, tt.invalid)
			}
			of := tt.of
			if of == nil {
				of = node
			}
			if got := tt.in.Selects("n1", of); got != tt.selects {
				t.Errorf("selects n1: %v, want %v", got, tt.selects)
			}
			if diff := cmp.Diff(tt.names, tt.in.Names()); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
		})
	}
}

func TestVNIAndMAC(t *testing.T) {
	for in, want := range map[string]VNI{
		"1": 1, "16777215": MaxVNI,
		"0": 0, "16777216": 0, "4294967297": 0, "-1": 0, "": 0, "0x10": 0, " 1": 0, "1\n": 0,
	} {
		if got, err := ParseVNI(in); got != want || (want == 0) != errors.Is(err, ErrInvalid) {
			t.Errorf("ParseVNI(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"02:00:00:00:00:01": "02:00:00:00:00:01", "02:AB:00:00:00:01": "02:ab:00:00:00:01",
		"02-00-00-00-00-01": "", "0200.0000.0001": "", "02:00:00:00:00": "", "02:00:00:00:00:00:00:01": "", "": "",
	} {
		got, err := ParseMAC(in)
		if (want == "") != errors.Is(err, ErrInvalid) || want != "" && got.String() != want {
			t.Errorf("ParseMAC(%q) = %v, %v; want %q", in, got, err, want)
		}
	}
	for name, r := range map[string]VNIRange{"zero": {}, "crossed": {5, 4}, "too large": {1, MaxVNI + 1}, "from zero": {0, 4}} {
		if err := r.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("range %s: %v, want ErrInvalid", name, err)
		}
	}
	if err := DefaultVNIRange.Validate(); err != nil || DefaultVNIRange.Contains(9999) || !DefaultVNIRange.Contains(MaxVNI) {
		t.Errorf("default range %v: %v", DefaultVNIRange, err)
	}
}

func TestParseFormat(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := VNI(rapid.Uint32Range(1, uint32(MaxVNI)).Draw(t, "vni"))
		if k, err := ParseKey(KeyAllocVNI(v)); err != nil || KeyAllocVNI(mustVNI(t, k.Name)) != KeyAllocVNI(v) {
			t.Fatalf("VNI %d: key %+v, %v", v, k, err)
		}
		var m MAC
		copy(m[:], rapid.SliceOfN(rapid.Byte(), 6, 6).Draw(t, "mac"))
		if got, err := ParseMAC(m.String()); err != nil || got != m {
			t.Fatalf("MAC %v: %v, %v", m, got, err)
		}
	})
}

func mustVNI(t *rapid.T, s string) VNI {
	v, err := ParseVNI(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// What the names are, as DESIGN words it.
const (
	nodeName = `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`
	vpcName  = `[a-z][a-z0-9-]{0,14}`
)

// TestNamesAreAsWorded holds the checks to the regular expressions.
func TestNamesAreAsWorded(t *testing.T) {
	node, vpc := regexp.MustCompile("^"+nodeName+"$"), regexp.MustCompile("^"+vpcName+"$")
	reserved := regexp.MustCompile(`^(vpc-.*|all|default|lo|(mv4|mv6|mp|mn)-[0-9]+)$`)
	kernelClone := regexp.MustCompile(`^(bridge|vxlan|tap|tun|epair|vlan|lagg|gif|gre|wg|dummy|bond|team|veth|ifb|ipvlan|macvlan|br|eth|vnet|lo)[0-9]+$`)
	id, label, hash := regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`), regexp.MustCompile(`^[A-Za-z0-9._-]{1,63}$`), regexp.MustCompile(`^[0-9a-f]{64}$`)
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.StringMatching(`[a-z0-9-]{0,65}`), rapid.StringMatching(`(m[vpn]|vpc|br|eth|lo|all)[46-]{0,2}[0-9]{0,9}`), rapid.String()).Draw(t, "name")
		if got := CheckNodeName(s) == nil; got != node.MatchString(s) {
			t.Errorf("CheckNodeName(%q) allows it: %v", s, got)
		}
		want := vpc.MatchString(s) && !reserved.MatchString(s) && !kernelClone.MatchString(s)
		if got := CheckVPCName(s) == nil; got != want {
			t.Errorf("CheckVPCName(%q) allows it: %v", s, got)
		}
		word := rapid.OneOf(rapid.StringMatching(`[A-Za-z0-9._:@-]{0,66}`), rapid.StringMatching(`[0-9a-fA-F]{63,65}`), rapid.String()).Draw(t, "word")
		if got := checkID("ID", word) == nil; got != id.MatchString(word) {
			t.Errorf("checkID(%q) allows it: %v", word, got)
		}
		if got := isLabelPart(word); got != label.MatchString(word) {
			t.Errorf("isLabelPart(%q) = %v", word, got)
		}
		if got := checkHash("hash", word) == nil; got != hash.MatchString(word) {
			t.Errorf("checkHash(%q) allows it: %v", word, got)
		}
	})
}
