package cluster

import "fmt"

// Class is what the controller holds of a node, from what observers and the node
// itself say.
type Class string

// The classes of nodes. One that is OK is in no Judgement.
const (
	ClassOK        Class = "ok"
	ClassAgentDown Class = "agent down" // its kernel answers, its agent does not: it goes on serving
	ClassDown      Class = "down"       // neither answers, and its keepalive is late
	ClassIsolated  Class = "isolated"   // nobody hears it on the underlay, and the store does
	ClassLinkSplit Class = "link split" // its own datacenter hears it, others do not
)

// Judgement is what failover goes by at the moment, at KeyJudgement; it is written
// when that changes, and nothing is decided from it.
type Judgement struct {
	Needs int `json:"needs,omitempty"`
	// SafeMode says why nothing is moved or fenced, "" if that is not so.
	SafeMode string `json:"safe_mode,omitempty"`
	// Nodes are those that are not OK, sorted by name.
	Nodes []Judged `json:"nodes,omitempty"`
}

// Judged is one node.
type Judged struct {
	Node  string `json:"node"`
	Class Class  `json:"class"`
	Why   string `json:"why"` // the evidence, in words
	Since Time   `json:"since"`
}

// Validate checks every field, and bounds the list.
func (j *Judgement) Validate() error {
	if err := checkSize("nodes", len(j.Nodes), maxPeers); err != nil {
		return err
	}
	for _, n := range j.Nodes {
		if err := CheckNodeName(n.Node); err != nil {
			return err
		}
		switch n.Class {
		case ClassAgentDown, ClassDown, ClassIsolated, ClassLinkSplit:
		default:
			return fmt.Errorf("%w class %q of a node", ErrInvalid, CleanText(string(n.Class)))
		}
		if err := checkText("why", n.Why); err != nil {
			return err
		}
	}
	return checkText("safe mode", j.SafeMode)
}

func (j *Judgement) clean() {
	cleanText(&j.SafeMode)
	for i := range j.Nodes {
		cleanText(&j.Nodes[i].Why)
	}
}
