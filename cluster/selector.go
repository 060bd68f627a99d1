package cluster

import (
	"fmt"
	"slices"
	"strings"
)

// isLabelPart reports whether s can be a label's key or value.
func isLabelPart(s string) bool { return isWord(s, 63, "._-") }

// Selector says which nodes are members of a VPC: "all", node names,
// "dc=NAME" and "label=KEY=VALUE", joined by commas; a node that one of them
// names is a member.
type Selector string

// SelectAll is every node that has an agent.
const SelectAll Selector = "all"

const maxSelector = 64 << 10 // bytes: a thousand of the longest names

// Validate wraps ErrInvalid and names the term that is wrong.
func (s Selector) Validate() error {
	if len(s) > maxSelector {
		return fmt.Errorf("%w member selector: %d bytes, at most %d", ErrInvalid, len(s), maxSelector)
	}
	for term := range strings.SplitSeq(string(s), ",") {
		dc, isDC := strings.CutPrefix(term, "dc=")
		label, isLabel := strings.CutPrefix(term, "label=")
		k, v, hasValue := strings.Cut(label, "=")
		switch {
		case isLabel && (!hasValue || !isLabelPart(k) || !isLabelPart(v)),
			isDC && CheckNodeName(dc) != nil,
			!isDC && !isLabel && term != string(SelectAll) && CheckNodeName(term) != nil:
			return fmt.Errorf("%w member selector %q in %q: want all, node names, dc=NAME or label=KEY=VALUE", ErrInvalid, CleanText(term), CleanText(string(s)))
		}
	}
	return nil
}

// Selects reports whether the node of that name is a member. Only nodes with
// an agent that have not left can be.
func (s Selector) Selects(name string, n *Node) bool {
	if !n.Agent || n.State == NodeLeft {
		return false
	}
	for term := range strings.SplitSeq(string(s), ",") {
		dc, isDC := strings.CutPrefix(term, "dc=")
		label, isLabel := strings.CutPrefix(term, "label=")
		k, v, _ := strings.Cut(label, "=")
		have, labelled := n.Labels[k]
		switch {
		case isLabel && labelled && have == v,
			isDC && n.Datacenter == dc,
			term == string(SelectAll) || term == name:
			return true
		}
	}
	return false
}

// Names lists the node names that the selector spells out, sorted.
func (s Selector) Names() []string {
	var names []string
	for term := range strings.SplitSeq(string(s), ",") {
		if term != string(SelectAll) && !strings.Contains(term, "=") {
			names = append(names, term)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
