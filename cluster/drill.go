package cluster

import (
	"fmt"
	"math"
	"time"
)

// DrillState is how far a drill is.
type DrillState string

// The states of a drill. One that is over has ended, whether well or not.
const (
	DrillLeaving   DrillState = "leaving"   // the datacenter is drained
	DrillReturning DrillState = "returning" // what left goes back to where it was
	DrillDone      DrillState = "done"
	DrillFailed    DrillState = "failed" // Reason says why; what can be is where it was
)

// Drill is an evacuation of a datacenter for practice, at KeyDrill: who left, and how
// long each took. The command that runs it writes it, so that another can go on.
type Drill struct {
	Needs      int        `json:"needs,omitempty"`
	Datacenter string     `json:"datacenter"`
	State      DrillState `json:"state"`
	Reason     string     `json:"reason,omitempty"`
	Began      Time       `json:"began"`
	Ended      Time       `json:"ended,omitzero"`
	Nodes      []string   `json:"nodes"` // that it drains
	Endpoints  []Drilled  `json:"endpoints"`
}

// Drilled is an endpoint of a drill. Seconds are from when the store named another owner
// until that one reported that it serves, as the command saw both; 0: not measured.
type Drilled struct {
	VPC      string  `json:"vpc"`
	Endpoint string  `json:"endpoint"`
	Home     string  `json:"home"`         // the node that it left, and returns to
	To       string  `json:"to,omitempty"` // where it went
	Away     float64 `json:"away_s,omitempty"`
	Back     float64 `json:"back_s,omitempty"`
}

// Bounds of drills.
const (
	MaxDrills  = 20   // that are kept
	MaxDrilled = 2000 // endpoints of one
)

// KeyDrill is the record of a drill, by when it began.
func KeyDrill(t time.Time) string { return fmt.Sprintf("%s%013d", PrefixDrills, t.UnixMilli()) }

// Validate checks every field, and bounds the lists.
func (d *Drill) Validate() error {
	switch d.State {
	case DrillLeaving, DrillReturning, DrillDone, DrillFailed:
	default:
		return fmt.Errorf("%w drill state %q", ErrInvalid, CleanText(string(d.State)))
	}
	if err := checkDatacenter(d.Datacenter); err != nil {
		return err
	}
	if err := checkSize("nodes", len(d.Nodes), maxPeers); err != nil {
		return err
	}
	for _, n := range d.Nodes {
		if err := CheckNodeName(n); err != nil {
			return err
		}
	}
	if err := checkSize("endpoints", len(d.Endpoints), MaxDrilled); err != nil {
		return err
	}
	for i := range d.Endpoints {
		if err := d.Endpoints[i].validate(); err != nil {
			return err
		}
	}
	return checkText("reason", d.Reason)
}

func (e *Drilled) validate() error {
	if err := CheckVPCName(e.VPC); err != nil {
		return err
	}
	for _, name := range []string{e.Endpoint, e.Home, e.To} {
		if name == "" && name == e.To {
			continue
		}
		if err := CheckNodeName(name); err != nil {
			return err
		}
	}
	for _, s := range []float64{e.Away, e.Back} {
		if math.IsNaN(s) || s < 0 || s > maxCount {
			return fmt.Errorf("%w drill: %v seconds", ErrInvalid, s)
		}
	}
	return nil
}

func (d *Drill) clean() { cleanText(&d.Reason) }
