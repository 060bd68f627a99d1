package document

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster"
)

func TestFormat(t *testing.T) {
	network := cluster.Networks{IPv4: netip.MustParsePrefix("10.10.11.0/24")}
	for name, tt := range map[string]struct {
		spec cluster.VPCSpec
		want string
	}{
		"plain": {newSpec(), "kind: VPC\nname: blue\nmembers: all\npeer_network: 10.100.0.0/16\nprotect: false\n"},
		"every field": {
			cluster.VPCSpec{Members: "b,12", PeerNetwork: netip.MustParsePrefix("fd00:1::/64"), Network: network,
				Exclude: []netip.Addr{netip.MustParseAddr("fd00:1::7"), netip.MustParseAddr("fd00:1::8")}, VNI: 20000, MTU: 1400, Protect: true},
			"kind: VPC\nname: blue\nmembers:\n- b\n- '12'\npeer_network: fd00:1::/64\nnetwork: 10.10.11.0/24\nexclude:\n- fd00:1::7\n- fd00:1::8\nvni: 20000\nmtu: 1400\nprotect: true\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Format("blue", &tt.spec)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(got), tt.want); d != "" {
				t.Errorf("(-got +want):\n%s", d)
			}
		})
	}
}

// anySpec draws what a record can hold.
func anySpec(t *rapid.T) cluster.VPCSpec {
	s := newSpec()
	term := rapid.OneOf(
		rapid.SampledFrom([]string{"all", "no", "null", "true", "off", "y", "12", "1e3", "0x10", "0o7", "2026-01-02", "dc=on", "label=a=1.5", "label=_=-"}),
		rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?`))
	s.Members = cluster.Selector(strings.Join(rapid.SliceOfN(term, 1, 12).Draw(t, "members"), ","))
	s.PeerNetwork = rapid.SampledFrom([]netip.Prefix{cluster.DefaultPeerNetwork, netip.MustParsePrefix("fd00:100::/64"), netip.MustParsePrefix("192.168.0.0/30")}).Draw(t, "peer network")
	if rapid.Bool().Draw(t, "has a network") {
		n, err := cluster.ParseNetworks(rapid.SampledFrom([]string{"10.10.11.0/24", "fd00:1::/48", "10.10.11.0/24,fd00:1::/48"}).Draw(t, "network"))
		if err != nil {
			t.Fatal(err)
		}
		s.Network = n
	}
	for a := s.PeerNetwork.Addr(); len(s.Exclude) < rapid.IntRange(0, 3).Draw(t, "more excluded"); a = a.Next() {
		s.Exclude = append(s.Exclude, a)
	}
	if rapid.Bool().Draw(t, "asks for a VNI") {
		s.VNI = cluster.VNI(rapid.Uint32Range(1, uint32(cluster.MaxVNI)).Draw(t, "vni"))
	}
	if rapid.Bool().Draw(t, "asks for an MTU") {
		s.MTU = rapid.IntRange(cluster.MinMTU, cluster.MaxMTU).Draw(t, "mtu")
	}
	s.Protect = rapid.Bool().Draw(t, "protect")
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	return s
}

func anyName(t *rapid.T) string {
	return rapid.OneOf(rapid.SampledFrom([]string{"no", "null", "true", "off", "y", "e1", "x-"}), rapid.StringMatching(`[a-z][a-z0-9-]{0,14}`)).
		Filter(func(s string) bool { return cluster.CheckVPCName(s) == nil }).Draw(t, "name")
}

// Parse reads the same spec that Format wrote, and so it does from ObjectOf as
// JSON; the plan of it is to leave everything as it is.
func TestParseOfFormatIsIdentity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name, spec := anyName(t), anySpec(t)
		text, err := Format(name, &spec)
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(ObjectOf(name, &spec))
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range [][]byte{text, data} {
			got, err := Parse("f", in)
			if err != nil {
				t.Fatalf("%v of\n%s", err, in)
			}
			want := VPC{Name: name, Spec: spec, Start: Position{"f", 1, 1}}
			if d := cmp.Diff(got.VPCs, []VPC{want}, compare); d != "" {
				t.Fatalf("(-got +want):\n%sof\n%s", d, in)
			}
			steps, err := Plan(got, map[string]*cluster.VPCSpec{name: &spec}, true)
			if err != nil || len(steps) != 1 || steps[0].Action != Unchanged {
				t.Fatalf("plan: %v, %v", steps, err)
			}
		}
	})
}
