package cluster

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Event is one entry of the cluster's history, at KeyEvent: who changed what.
// Servers alone write it, in the transaction that makes the change.
type Event struct {
	Needs int  `json:"needs,omitempty"`
	Time  Time `json:"time"` // by the clock of the server that wrote it
	// By is the subject that made the changes: "user:alice".
	By      string   `json:"by"`
	Why     string   `json:"why,omitempty"`
	Changes []Change `json:"changes"`        // at least one, at most MaxEventChanges
	More    int      `json:"more,omitempty"` // changes that did not fit
}

// Change is what became of one record, or of several of one kind. It holds no
// secret and no hash of one.
type Change struct {
	Verb Verb   `json:"verb"`
	Key  string `json:"key"` // of the record, without Root; what it is, ParseKey tells
	// Nodes are those that a change of a VPC is about, More how many were left out.
	Nodes  []string `json:"nodes,omitempty"`
	More   int      `json:"more,omitempty"`
	Detail string   `json:"detail,omitempty"` // "mtu 1400 → 1450"
}

// Verb is what was done to a record, as the past tense that stands before it in
// a sentence.
type Verb string

// The verbs of changes.
const (
	VerbCreated   Verb = "created"
	VerbChanged   Verb = "changed"
	VerbDeleted   Verb = "deleted"
	VerbAsked     Verb = "asked to delete" // a VPC: its hosts take it down first
	VerbRevoked   Verb = "revoked"         // a token or a user's credential
	VerbJoined    Verb = "joined"
	VerbRemoved   Verb = "removed"
	VerbDrained   Verb = "drained"
	VerbResumed   Verb = "resumed"
	VerbGaveUp    Verb = "gave up" // a node, that failover may do what it would not by itself
	VerbElected   Verb = "was elected"
	VerbReady     Verb = "brought up"                // a VPC is in force
	VerbHeldUp    Verb = "cannot bring up"           // a VPC is in force no more, or not yet
	VerbPartly    Verb = "brought up only a part of" // a VPC
	VerbAdmitted  Verb = "admitted"                  // nodes to a VPC
	VerbRefused   Verb = "refused"                   // nodes in a VPC
	VerbTookOut   Verb = "took out"                  // nodes of a VPC
	VerbRepointed Verb = "repointed"                 // a VPC's tunnels to nodes with another address
	VerbReclaimed Verb = "reclaimed"                 // a record that nobody could read
	VerbFenced    Verb = "fenced"                    // a node: nothing is taken from it
	VerbUnfenced  Verb = "lifted the fence of"       // a node
	VerbMoved     Verb = "moved"                     // an endpoint, as its node was lost
	VerbJudged    Verb = "found"                     // a node to be of another class
	VerbFroze     Verb = "froze failover"            // the cluster's, in safe mode
	VerbDuplicate Verb = "found twice"               // a MAC
	VerbThawed    Verb = "no longer freezes failover"
)

// Bounds of an event, which is written beside the records that it is about.
const (
	MaxEventChanges = 128 // one for each write of a transaction
	maxEventNodes   = 16
	maxEventText    = 24 << 10 // bytes of all details together
)

// Validate checks that the event says who did what, and bounds it.
func (e *Event) Validate() error {
	if _, err := ParseSubject(e.By); err != nil {
		return err
	}
	switch {
	case e.Time.IsZero():
		return fmt.Errorf("%w event: no time", ErrInvalid)
	case len(e.Changes) == 0:
		return fmt.Errorf("%w event: no changes", ErrInvalid)
	case e.More < 0 || e.More > maxCount:
		return fmt.Errorf("%w event: %d more changes", ErrInvalid, e.More)
	}
	if err := checkSize("changes", len(e.Changes), MaxEventChanges); err != nil {
		return err
	}
	for i := range e.Changes {
		if err := e.Changes[i].validate(); err != nil {
			return err
		}
	}
	return checkText("why", e.Why)
}

func (c *Change) validate() error {
	switch {
	case c.Verb == "" || c.Key == "" || len(c.Key) > maxKey:
		return fmt.Errorf("%w change: want a verb and a key of at most %d bytes", ErrInvalid, maxKey)
	case c.More < 0 || c.More > maxCount:
		return fmt.Errorf("%w change: %d more nodes", ErrInvalid, c.More)
	}
	if err := checkSize("nodes", len(c.Nodes), maxEventNodes); err != nil {
		return err
	}
	if err := checkText("change", c.Nodes...); err != nil {
		return err
	}
	return checkText("change", string(c.Verb), c.Key, c.Detail)
}

func (e *Event) clean() {
	cleanText(&e.Why)
	changes := slices.Clone(e.Changes)
	if n := len(changes) - MaxEventChanges; n > 0 {
		changes, e.More = changes[:MaxEventChanges], e.More+n
	}
	room := maxEventText
	for i := range changes {
		c := &changes[i]
		cleanText(&c.Key, &c.Detail)
		if n := len(c.Nodes) - maxEventNodes; n > 0 {
			c.Nodes, c.More = c.Nodes[:maxEventNodes:maxEventNodes], c.More+n
		}
		if room -= len(c.Detail); room < 0 {
			c.Detail = ""
		}
	}
	e.Changes = changes
}

// String is the change as the rest of a sentence: "changed VPC blue: mtu 1400 →
// 1450".
func (c *Change) String() string {
	nodes := strings.Join(c.Nodes, ", ")
	if c.More > 0 {
		nodes = fmt.Sprintf("%s and %d more", nodes, c.More)
	}
	of := c.object()
	var s string
	switch c.Verb {
	case VerbJoined:
		s = "joined the cluster"
	case VerbElected:
		s = "was elected the controller"
	case VerbAdmitted:
		s = "admitted " + nodes + " to " + of
	case VerbRefused:
		s = "refused " + nodes + " in " + of
	case VerbTookOut:
		s = "took " + nodes + " out of " + of
	case VerbRepointed:
		s = "repointed " + of + " to " + nodes
	case VerbFroze, VerbThawed:
		s = string(c.Verb)
	default:
		s = string(c.Verb) + " " + of
	}
	if c.Detail != "" {
		s += ": " + c.Detail
	}
	return s
}

// object names what the change is about: "VPC blue".
func (c *Change) object() string {
	k, err := ParseKey(Root + c.Key)
	if err != nil {
		return "the record " + c.Key
	}
	switch k.Kind {
	case KindConfig:
		return "the cluster's config"
	case KindNode, KindFence:
		return "node " + k.Node
	case KindHold:
		return "the hold of endpoint " + k.Name + " of VPC " + k.VPC
	case KindVPCSpec, KindVPCNet:
		return "VPC " + k.VPC
	case KindEndpoint, KindOwn:
		return "endpoint " + k.Name + " of VPC " + k.VPC
	case KindPublished, KindMACStatus:
		return "MAC " + k.Name + " of VPC " + k.VPC
	case KindToken:
		return "token " + k.Name
	case KindUser:
		return "user " + k.Name
	case KindServer:
		return "server " + k.Name
	}
	return "the record " + c.Key
}

// About reports whether the change is about that VPC, or that node; "" is any.
func (c *Change) About(vpc, node string) bool {
	k, err := ParseKey(Root + c.Key)
	if err != nil {
		return vpc == "" && node == ""
	}
	return (vpc == "" || k.VPC == vpc) && (node == "" || k.Node == node || slices.Contains(c.Nodes, node))
}

// KeyEvent is the key of an event: it sorts by time, to the millisecond, and
// suffix tells those of one millisecond apart.
func KeyEvent(t time.Time, suffix uint64) string {
	return fmt.Sprintf("%s-%016x", KeyEventsSince(t), suffix)
}

// KeyEventsSince is where the events of t and later begin.
func KeyEventsSince(t time.Time) string {
	return fmt.Sprintf("%s%013d", PrefixEvents, min(max(t.UnixMilli(), 0), 9999999999999))
}

var eventID = regexp.MustCompile(`^[0-9]{13}-[0-9a-f]{16}$`)

// EventTime is when the event of that key was written, the zero time if it is no
// key of an event.
func EventTime(key string) time.Time {
	id, ok := strings.CutPrefix(key, PrefixEvents)
	if !ok || !eventID.MatchString(id) {
		return time.Time{}
	}
	ms, err := strconv.ParseInt(id[:13], 10, 64)
	if err != nil {
		return time.Time{} // cannot be: thirteen digits
	}
	return time.UnixMilli(ms).UTC()
}
