package observe

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshvpc/meshvpc/cluster"
)

// town is two datacenters of three nodes, and a witness.
func town() map[string]*cluster.Node {
	nodes := map[string]*cluster.Node{"w": {ID: "id-w", Datacenter: "c", State: cluster.NodeActive}}
	for i := range 6 {
		dc := "ab"[i/3 : i/3+1]
		name := fmt.Sprint(dc, i%3)
		nodes[name] = &cluster.Node{ID: "id-" + name, Datacenter: dc, State: cluster.NodeActive, Agent: true, Key: strings.Repeat(fmt.Sprint(i), 64)}
	}
	return nodes
}

func scopeOf(place string, owner string, members ...string) *Scope {
	s := &Scope{Owners: map[string]bool{}, Members: map[string]*cluster.Member{}}
	if place != "" {
		s.Places = []cluster.Place{{cluster.Selector(place)}}
	}
	if owner != "" {
		s.Owners[owner] = true
	}
	for i, m := range members {
		s.Members[m] = &cluster.Member{NodeID: "id-" + m, UnderlayIPv4: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})}
	}
	return s
}

func TestTargetsOf(t *testing.T) {
	all := []string{"a0", "a1", "a2", "b0", "b1", "b2"}
	for name, tt := range map[string]struct {
		me     string
		edit   func(map[string]*cluster.Node)
		scopes []*Scope
		want   []string // of those of all that name me as their observer
	}{
		"nobody uses failover": {"a0", nil, nil, nil},
		"all of a VPC":         {"a0", nil, []*Scope{scopeOf("all", "", all...)}, []string{"a1", "a2", "b0", "b1", "b2"}},
		"places alone":         {"a0", nil, []*Scope{scopeOf("dc=b", "", all...)}, []string{"b0", "b1", "b2"}},
		"an owner beside":      {"a0", nil, []*Scope{scopeOf("dc=b", "a1", all...)}, []string{"a1", "b0", "b1", "b2"}},
		"members alone":        {"a0", nil, []*Scope{scopeOf("all", "", "a0", "b1")}, []string{"b1"}},
		"two VPCs":             {"a0", nil, []*Scope{scopeOf("dc=a", "", "a0", "a2"), scopeOf("all", "", "a0", "a2", "b0")}, []string{"a2", "b0"}},
		"the witness":          {"w", nil, []*Scope{scopeOf("all", "", all...)}, all},
		"one has left":         {"w", func(n map[string]*cluster.Node) { n["a0"].State = cluster.NodeLeft }, []*Scope{scopeOf("all", "", all...)}, all[1:]},
		"one is drained":       {"w", func(n map[string]*cluster.Node) { n["a0"].State = cluster.NodeDraining }, []*Scope{scopeOf("all", "", all...)}, all},
		"one without a key":    {"w", func(n map[string]*cluster.Node) { n["a0"].Key = "" }, []*Scope{scopeOf("all", "", all...)}, all[1:]},
		"another of that name": {"w", func(n map[string]*cluster.Node) { n["a0"].ID = "id-x" }, []*Scope{scopeOf("all", "", all...)}, all[1:]},
		"no record":            {"w", func(n map[string]*cluster.Node) { delete(n, "a0") }, []*Scope{scopeOf("all", "", all...)}, all[1:]},
	} {
		t.Run(name, func(t *testing.T) {
			nodes := town()
			if tt.edit != nil {
				tt.edit(nodes)
			}
			want := slices.DeleteFunc(slices.Clone(tt.want), func(n string) bool { return !slices.Contains(cluster.ObserversOf(n, nodes), tt.me) })
			var got []string
			for _, x := range TargetsOf(tt.me, nodes, tt.scopes) {
				got = append(got, x.Node)
				if x.Datacenter != nodes[x.Node].Datacenter || len(x.Addresses) != 1 || fmt.Sprintf("%x", x.Key) != nodes[x.Node].Key {
					t.Errorf("target %+v", x)
				}
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("targets (-want +got):\n%s", diff)
			}
		})
	}
}
