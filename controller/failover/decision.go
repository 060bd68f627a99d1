package failover

import (
	"net/netip"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// Class is how a node is, by its observers and its keepalive.
type Class = cluster.Class

// The classes; doc.go says what each asks for and what follows.
const (
	OK        = cluster.ClassOK
	AgentDown = cluster.ClassAgentDown
	Down      = cluster.ClassDown
	Isolated  = cluster.ClassIsolated
	LinkSplit = cluster.ClassLinkSplit
)

// Judgement is what the leader thinks of a node.
type Judgement struct {
	Class Class
	// Suspected: some sure observer does not hear it. Nothing is moved there.
	Suspected bool
	// Lost: it is Down, for as long as evidence has to hold, and none is being collected.
	Lost     bool
	Evidence string // one sentence for people
}

// Mode is how much is lost at once, and so how much may be done.
type Mode string

// The modes. All but ModeNormal are worth an alarm.
const (
	ModeNormal     Mode = "normal"
	ModeCollecting Mode = "collecting" // a new leader has no evidence yet
	ModePartial    Mode = "partial"    // much of a datacenter is lost: one node after the other
	ModeDatacenter Mode = "datacenter" // a whole datacenter is lost
	ModeSafe       Mode = "safe"       // more is lost than can be explained: nothing is done
)

// Decision is what follows from a View. All lists are sorted.
type Decision struct {
	Mode  Mode
	Why   string               // of the mode, for people; "" in ModeNormal with nothing lost
	Nodes map[string]Judgement // those with an agent that have not left

	// What to write. Each is asked for again in every pass until the View shows it.
	Fences []NewFence
	Lifts  []Lift
	Grants []Grant
	// Handovers are of endpoints that are served well, and only may be elsewhere when
	// their owner has said that it has shut them. They are not taken back.
	Handovers []Handover

	// Waits are the endpoints that nobody serves, or that should be elsewhere, and
	// are not moved now.
	Waits []Wait
	// Again is when to decide anew if nothing has changed by then; zero: never. A
	// leader that is late for it collects its evidence anew.
	Again time.Time
}

// Calm reports whether all nodes are well, and nothing is to be done or waited for.
func (d *Decision) Calm() bool {
	for _, n := range d.Nodes {
		if n.Class != OK {
			return false
		}
	}
	return d.Mode == ModeNormal && len(d.Fences)+len(d.Lifts)+len(d.Grants)+len(d.Waits) == 0
}

// NewFence is a fence to write, if the node has none.
type NewFence struct {
	Node string
	cluster.Fence
}

// Lift is a fence to delete, if it is of this revision still.
type Lift struct {
	Node     string
	Revision int64
	Why      string
}

// Grant gives an endpoint another owner, and so a greater epoch. Its transaction has
// to require what it was decided from: the own record as the View had it, no hold, no
// fence and a live record of To, node record of To, and, if Fence is not 0, the fence
// of From of this revision.
type Grant struct {
	VPC, Endpoint string
	From          string // "" for none
	To            string // "" for none: its workload failed at too many nodes
	Era, Epoch    int64  // that are in force until then
	Fence         int64
	// Live: its transaction has to require the live record of From, too, as the View
	// had it: nothing was granted to From since.
	Live bool
	// Moved is what the own record is to say of it; nil: as it is. Of one that had no
	// owner it is the move before, but for how many changes there were.
	Moved *cluster.Moved
	Why   string
}

// Handover has the owner of a strict endpoint shut it, and end its workload, for To to
// have it next. Its transaction has to require the own record as the View had it, no
// hold, and no fence of To.
type Handover struct {
	VPC, Endpoint string
	From, To      string
	Era, Epoch    int64 // that are in force, and stay so
	Why           string
}

// Wait is why an endpoint is not moved.
type Wait struct {
	VPC, Endpoint, Why string
}

// addresses are at most two, which is all that a node has.
func addresses(list []netip.Addr) []netip.Addr {
	return append([]netip.Addr(nil), list[:min(len(list), 2)]...)
}
