package cni

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster"
)

// TestNames: whatever a runtime calls things, an endpoint's name is one, owners are
// bounded, and different attachments have different names and owners.
func TestNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.OneOf(rapid.StringMatching(`[ab][ab.-]{0,3}`), rapid.StringMatching(`a{95,110}b?`))
		device := rapid.StringMatching(`eth[0-9]`)
		draw := func(label string) attachment {
			return attachment{word.Draw(t, label+" network"), word.Draw(t, label+" container"), device.Draw(t, label+" device")}
		}
		a, b := draw("a"), draw("b")
		name := endpointOf("n1", a)
		if err := cluster.CheckNodeName(name); err != nil || len(name) != len("cni-")+16 {
			t.Errorf("endpointOf(%+v) = %q: %v", a, name, err)
		}
		if !isMade(name) || isMade(name+"0") || isMade("web1") {
			t.Errorf("isMade does not tell %q from others", name)
		}
		if len(a.owner()) > 255 || cluster.CleanText(a.owner()) != a.owner() {
			t.Errorf("owner of %+v is %q", a, a.owner())
		}
		if (a == b) != (a.owner() == b.owner()) || (a == b) != (name == endpointOf("n1", b)) {
			t.Errorf("%+v and %+v: owners %q, %q, endpoints %q, %q", a, b, a.owner(), b.owner(), name, endpointOf("n1", b))
		}
		if (a.network == b.network) != strings.HasPrefix(b.owner(), ownersOf(a.network)) {
			t.Errorf("%q is, or is not, of network %s", b.owner(), a.network)
		}
		if name == endpointOf("n2", a) {
			t.Errorf("two nodes have the endpoint %s", name)
		}
	})
}
