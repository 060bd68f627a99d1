package cluster

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"
)

// Fence says that nothing may be taken from a node any more, at KeyFence: every host
// drops what comes from its underlay addresses, by whatever tunnel, and sends it
// nothing. A node that is fenced serves no endpoint that can move.
type Fence struct {
	Needs  int    `json:"needs,omitempty"`
	NodeID string `json:"node_id"`
	// Underlay are the addresses that frames of the node come from.
	Underlay []netip.Addr `json:"underlay,omitempty"`
	Why      string       `json:"why"` // the evidence, in words
	Since    Time         `json:"since"`
}

// Validate checks every field.
func (f *Fence) Validate() error {
	if err := checkID("node_id", f.NodeID); err != nil {
		return err
	}
	if err := checkSize("underlay addresses", len(f.Underlay), 2); err != nil {
		return err
	}
	for _, a := range f.Underlay {
		if !sendable(a) {
			return fmt.Errorf("%w fence: underlay address %s", ErrInvalid, a)
		}
	}
	return checkText("why", f.Why)
}

func (f *Fence) clean() { cleanText(&f.Why) }

// FenceStatus says which fences a host has applied, at KeyFenceStatus.
type FenceStatus struct {
	Needs  int    `json:"needs,omitempty"`
	NodeID string `json:"node_id"`
	// Revision of the store up to which the host has read PrefixFences, and made its
	// kernel so. It is written when a fence comes or goes, not with each revision.
	Revision int64 `json:"revision"`
}

// Validate checks every field.
func (s *FenceStatus) Validate() error {
	if s.Revision < 0 {
		return fmt.Errorf("%w fence status: revision %d", ErrInvalid, s.Revision)
	}
	return checkID("node_id", s.NodeID)
}

// Verdicts are what a node has seen of others on the underlay, at KeyVerdicts. While
// it suspects anyone it writes them anew each probe period with a greater Counter:
// a verdict whose counter stands still is nobody's. Else they are written once,
// without suspects.
type Verdicts struct {
	Needs   int    `json:"needs,omitempty"`
	NodeID  string `json:"node_id"`
	Counter int64  `json:"counter"`
	// Unsure: its own loop was late, or so many of its targets are silent at once, of
	// more than one datacenter, that it may be at fault itself: it counts as absent.
	Unsure bool `json:"unsure,omitempty"`
	// Suspects are the targets that are silent, sorted by node.
	Suspects []Suspect `json:"suspects,omitempty"`
}

// Suspect is what an observer sees of a node that does not answer it.
type Suspect struct {
	Node   string `json:"node"`
	Agent  bool   `json:"agent"`  // its agent answers
	Kernel bool   `json:"kernel"` // its kernel answers, as far as is known
	// KernelUnknown: the observer cannot tell whether its kernel answers; Kernel then
	// does not say that it is silent.
	KernelUnknown bool `json:"kernel_unknown,omitempty"`
}

// Validate checks every field, and bounds the list.
func (v *Verdicts) Validate() error {
	if v.Counter < 0 || v.Counter > maxCount {
		return fmt.Errorf("%w verdicts: counter %d", ErrInvalid, v.Counter)
	}
	if err := checkSize("suspects", len(v.Suspects), maxPeers); err != nil {
		return err
	}
	for _, s := range v.Suspects {
		if err := CheckNodeName(s.Node); err != nil {
			return err
		}
	}
	return checkID("node_id", v.NodeID)
}

// Hold says that nobody but operators moves an endpoint, at KeyEndpointHold.
type Hold struct {
	Needs int    `json:"needs,omitempty"`
	Why   string `json:"why,omitempty"`
	Since Time   `json:"since"`
}

// Validate bounds the text.
func (h *Hold) Validate() error { return checkText("why", h.Why) }

func (h *Hold) clean() { cleanText(&h.Why) }

// How many observers a node has.
const (
	observersNear = 3 // in its own datacenter
	observersFar  = 2 // in each other one
)

// ObserversOf are the nodes that observe a node, sorted: some of its own datacenter
// and of each other one, the same ones on every host that has the same list, and
// others for other nodes. A node without an agent, a witness, observes all.
func ObserversOf(name string, nodes map[string]*Node) []string {
	target := nodes[name]
	if target == nil || !target.Agent || target.State == NodeLeft {
		return nil
	}
	by := map[string][]string{}
	var chosen []string
	for other, n := range nodes {
		switch {
		case other == name || n.State == NodeLeft:
		case !n.Agent:
			chosen = append(chosen, other)
		default:
			by[n.Datacenter] = append(by[n.Datacenter], other)
		}
	}
	for dc, names := range by {
		most := observersFar
		if dc == target.Datacenter {
			most = observersNear
		}
		slices.SortFunc(names, func(a, b string) int { return compareWeight(name, a, b) })
		chosen = append(chosen, names[:min(most, len(names))]...)
	}
	slices.Sort(chosen)
	return chosen
}

// compareWeight orders candidates by rendezvous hashing: a node that comes or goes
// changes no more than its own part.
func compareWeight(target, a, b string) int {
	weight := func(s string) uint64 {
		h := fnv.New64a()
		h.Write([]byte(target + "/" + s))
		return h.Sum64()
	}
	if x, y := weight(a), weight(b); x != y {
		if x < y {
			return -1
		}
		return 1
	}
	return strings.Compare(a, b)
}
