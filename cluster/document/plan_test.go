package document

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster"
)

// mustParse reads specs by name, as the store might have them.
func mustParse(t *testing.T, text string) (File, map[string]*cluster.VPCSpec) {
	t.Helper()
	f, err := Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	specs := map[string]*cluster.VPCSpec{}
	for i := range f.VPCs {
		specs[f.VPCs[i].Name] = &f.VPCs[i].Spec
	}
	return f, specs
}

func TestPlan(t *testing.T) {
	for name, tt := range map[string]struct {
		was, file string
		deleting  string
		prune     bool
		want      string
	}{
		"new": {was: "[]", file: "{kind: VPC, name: a, members: [b, c], vni: 7}",
			want: "create VPC a\n  members:      b, c\n  peer_network: 10.100.0.0/16\n  vni:          7\n  protect:      false\n(followed)\n"},
		"changed, and what is left out": {was: "{kind: VPC, name: a, mtu: 1400, exclude: [10.100.0.9]}", file: "{kind: VPC, name: a, members: [b, c], protect: true}",
			want: "change VPC a\n  members: all → b, c\n  exclude: 10.100.0.9 → unset\n  mtu:     1400 → unset\n  protect: false → true\n(followed)\n"},
		"quietly changed": {was: "{kind: VPC, name: a}", file: "{kind: VPC, name: a, exclude: [10.100.0.9], protect: true}",
			want: "change VPC a\n  exclude: unset → 10.100.0.9\n  protect: false → true\n"},
		"the same":                   {was: "{kind: VPC, name: a, members: 'b,c'}", file: "{kind: VPC, name: a, members: [b, c]}", want: "unchanged VPC a\n"},
		"others stay":                {was: "[{kind: VPC, name: a}, {kind: VPC, name: b}]", file: "{kind: VPC, name: b}", want: "unchanged VPC b\n"},
		"others go":                  {was: "[{kind: VPC, name: a, mtu: 1400}, {kind: VPC, name: b}]", file: "{kind: VPC, name: b}", prune: true, want: "unchanged VPC b\ndelete VPC a\n  members:      all\n  peer_network: 10.100.0.0/16\n  mtu:          1400\n  protect:      false\n(followed)\n"},
		"others go already":          {was: "[{kind: VPC, name: a}, {kind: VPC, name: b}]", file: "{kind: VPC, name: b}", deleting: "a", prune: true, want: "unchanged VPC b\n"},
		"in the order of the file":   {was: "[]", file: "[{kind: VPC, name: b}, {kind: VPC, name: a}]", want: "create VPC b\n  members:      all\n  peer_network: 10.100.0.0/16\n  protect:      false\n(followed)\ncreate VPC a\n  members:      all\n  peer_network: 10.100.0.0/16\n  protect:      false\n(followed)\n"},
		"fixed fields":               {was: "{kind: VPC, name: a, vni: 7, network: 10.11.0.0/16}", file: "kind: VPC\nname: a\npeer_network: 10.9.0.0/16\nnetwork: 10.10.0.0/16\n", want: "f:1:1: VPC \"a\" exists, and its vni never changes (7 → unset): write vni: 7, or delete the VPC first by \"meshvpc vpc delete a\"\nf:3:15: VPC \"a\" exists, and its peer_network never changes (10.100.0.0/16 → 10.9.0.0/16): write peer_network: 10.100.0.0/16, or delete the VPC first by \"meshvpc vpc delete a\"\nf:4:10: VPC \"a\" exists, and its network only grows (10.11.0.0/16 → 10.10.0.0/16): write network: 10.11.0.0/16, or delete the VPC first by \"meshvpc vpc delete a\""},
		"a network that grows":       {was: "{kind: VPC, name: a, network: 10.11.0.0/24}", file: "{kind: VPC, name: a, network: '10.11.0.0/16,fd00:11::/64'}", want: "change VPC a\n  network: 10.11.0.0/24 → 10.11.0.0/16,fd00:11::/64\n(followed)\n"},
		"wanted again while it goes": {was: "{kind: VPC, name: a}", file: "{kind: VPC, name: a}", deleting: "a", want: "f:1:1: VPC \"a\" is being deleted: wait until \"meshvpc vpc list\" no longer shows it"},
	} {
		t.Run(name, func(t *testing.T) {
			_, current := mustParse(t, tt.was)
			if tt.deleting != "" {
				current[tt.deleting].State = cluster.VPCDeleting
			}
			f, _ := mustParse(t, tt.file)
			steps, err := Plan(f, current, tt.prune)
			var b strings.Builder
			for _, s := range steps {
				b.WriteString(s.String())
				if s.Followed {
					b.WriteString("(followed)\n")
				}
			}
			if err != nil {
				b.WriteString(err.Error())
			}
			if d := cmp.Diff(strings.Split(b.String(), "\n"), strings.Split(tt.want, "\n")); d != "" {
				t.Errorf("(-got +want):\n%s", d)
			}
		})
	}
}

// A plan that was applied leaves an empty plan, and what documents do not say
// of an object stays. What was planned from is not written to.
func TestPlanLeavesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now, want := anySpec(t), anySpec(t)
		want.PeerNetwork, want.Network, want.Exclude, want.VNI = now.PeerNetwork, now.Network, now.Exclude, now.VNI // fixed
		now.Needs, now.Force = 1, true
		kept := now
		f := File{VPCs: []VPC{{Name: "a", Spec: want}, {Name: "b", Spec: want}}}
		current := map[string]*cluster.VPCSpec{"a": &now, "z": &now}
		steps, err := Plan(f, current, true)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(now, kept, compare); d != "" {
			t.Fatalf("what was planned from changed (-got +want):\n%s", d)
		}
		for _, s := range steps {
			if s.Spec == nil {
				continue
			}
			if err := s.Spec.Validate(); err != nil {
				t.Fatal(err)
			}
			if s.Name == "a" && (s.Spec.Needs != 1 || !s.Spec.Force) {
				t.Fatalf("lost what the document does not say: %+v", s.Spec)
			}
			current[s.Name] = s.Spec
		}
		steps, err = Plan(f, current, true)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range steps {
			if s.Action != Unchanged {
				t.Fatalf("the second time: %s", s)
			}
		}
	})
}
