package cluster

import "fmt"

// FindRequest asks every member of a VPC where its bridge has learned a MAC, at
// KeyVPCFind: what is learned changes as often as tenants like, and is in no record.
type FindRequest struct {
	Needs int    `json:"needs,omitempty"`
	ID    string `json:"id"`
	MAC   MAC    `json:"mac"`
}

// Validate wants a MAC that a workload can have.
func (r *FindRequest) Validate() error {
	if !r.MAC.Unicast() {
		return fmt.Errorf("%w find request: no workload has the MAC %s", ErrInvalid, r.MAC)
	}
	return checkID("find id", r.ID)
}

// FindResult answers a FindRequest of the same id, at KeyFindResult, with what the
// host's bridge knew at that moment: nothing, a port, or who has it.
type FindResult struct {
	Needs  int    `json:"needs,omitempty"`
	ID     string `json:"id"`
	Device string `json:"device,omitempty"` // the port on the host itself
	Peer   string `json:"peer,omitempty"`   // the member that frames for it go to
	Reason string `json:"reason,omitempty"` // why the host cannot tell
}

// Validate checks that the result answers something, and bounds it.
func (r *FindResult) Validate() error {
	if r.Device != "" && r.Peer != "" {
		return fmt.Errorf("%w find result: both %q and %q", ErrInvalid, CleanText(r.Device), CleanText(r.Peer))
	}
	if r.Peer != "" {
		if err := CheckNodeName(r.Peer); err != nil {
			return err
		}
	}
	if err := checkText("find result", r.Device, r.Reason); err != nil {
		return err
	}
	return checkID("find id", r.ID)
}

func (r *FindResult) clean() { cleanText(&r.Device); cleanText(&r.Reason) }
