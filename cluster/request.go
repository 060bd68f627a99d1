package cluster

import "fmt"

// Want is what a node asks for.
type Want string

// What a node asks for, of one endpoint.
const (
	WantAttach Want = "attach" // to be its owner
	WantDelete Want = "delete" // of one that was made by this node's request
)

// Request is what a node asks the controller for, at KeyRequest: one for each
// endpoint, the newest counts. It is answered by the endpoint's records, and then
// deleted; the node deletes it if it does not want it any more.
type Request struct {
	Needs  int    `json:"needs,omitempty"`
	NodeID string `json:"node_id"`
	Want   Want   `json:"want"`
	// Create, with WantAttach: the endpoint is made if there is none, with an
	// address of each family of the VPC's network, and goes by WantDelete.
	Create bool `json:"create,omitempty"`
	At     Time `json:"at"`
}

// Validate checks every field.
func (r *Request) Validate() error {
	switch {
	case r.Want != WantAttach && r.Want != WantDelete:
		return fmt.Errorf("%w request for %q", ErrInvalid, CleanText(string(r.Want)))
	case r.Create && r.Want != WantAttach:
		return fmt.Errorf("%w request: %s does not create", ErrInvalid, r.Want)
	}
	return checkID("node_id", r.NodeID)
}

// PortState is how an endpoint is on a host.
type PortState string

// The states of an endpoint on a host. Released: this host has ended the epoch
// that it reports, and serves the endpoint only in a greater one.
const (
	PortReady    PortState = "ready"    // frames pass
	PortStandby  PortState = "standby"  // all is in place, and another node is the owner: no frame passes
	PortFailed   PortState = "failed"   // Reason says why
	PortReleased PortState = "released" // nothing is attached
)

// EndpointStatus is a node's report about an endpoint that is, or was, attached
// there, at KeyEndpointStatus.
type EndpointStatus struct {
	Needs  int       `json:"needs,omitempty"`
	NodeID string    `json:"node_id"`
	State  PortState `json:"state"`
	Reason string    `json:"reason,omitempty"`
	Device string    `json:"device,omitempty"` // the port on the VPC's bridge
	Era    int64     `json:"era"`              // of the own record that is in force here
	Epoch  int64     `json:"epoch"`
	// Gated: no frame passes the port but while the node is granted what it owns, of an
	// endpoint that is exclusive strict.
	Gated bool `json:"gated,omitempty"`
	// Dropped counts the frames that the port was kept from sending, by reason (a
	// word), those of which the last was less than a day ago. It is not newer than
	// a minute.
	Dropped map[string]uint64 `json:"dropped,omitempty"`
	// Workload is how what the host starts for it is; nil: it starts nothing.
	Workload *WorkloadStatus `json:"workload,omitempty"`
	At       Time            `json:"at"`
}

// mostReasons is for how many reasons frames are dropped at most.
const mostReasons = 32

// Validate checks what is reported, and bounds it.
func (s *EndpointStatus) Validate() error {
	switch {
	case s.State != PortReady && s.State != PortStandby && s.State != PortFailed && s.State != PortReleased:
		return fmt.Errorf("%w endpoint status %q", ErrInvalid, CleanText(string(s.State)))
	case s.Era < 0 || s.Era > maxEpoch || s.Epoch < 0 || s.Epoch > maxEpoch:
		return fmt.Errorf("%w endpoint status: era %d, epoch %d", ErrInvalid, s.Era, s.Epoch)
	}
	if err := checkID("node_id", s.NodeID); err != nil {
		return err
	}
	if err := checkText("device", s.Device); err != nil {
		return err
	}
	if err := checkSize("dropped", len(s.Dropped), mostReasons); err != nil {
		return err
	}
	if err := s.Workload.validate(); err != nil {
		return err
	}
	for reason := range s.Dropped {
		if err := CheckNodeName(reason); err != nil {
			return fmt.Errorf("%w endpoint status: dropped for %q", ErrInvalid, CleanText(reason))
		}
	}
	return checkText("reason", s.Reason)
}

func (s *EndpointStatus) clean() {
	cleanText(&s.Reason, &s.Device)
	if s.Workload != nil {
		w := *s.Workload
		cleanText(&w.Reason)
		s.Workload = &w
	}
}
