package hostops

import "fmt"

// Op is one small change to a host. The set is closed: drivers switch over the
// types of op_*.go. String is its line in `meshvpc plan`.
type Op interface {
	fmt.Stringer
	// On is what the operation changes.
	On() Target
}

// Target is the object that an operation changes. Objects of one VPC fail
// apart from those of another.
type Target struct {
	VPC    string // empty: the host
	Object string // a device's, a namespace's or a filter's name
}

// On is t itself; it makes the types that embed a Target operations.
func (t Target) On() Target { return t }
