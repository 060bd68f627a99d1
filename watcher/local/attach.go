package local

import (
	"net/netip"

	"github.com/meshvpc/meshvpc/cluster"
)

// Paths of the socket. All take a JSON object by POST but PathPorts, which is a GET.
const (
	PathAttach = "/v1/attach"
	PathDetach = "/v1/detach"
	PathPorts  = "/v1/ports"
)

// AttachRequest asks for a workload to be attached to an endpoint. The answer, an
// Attached, comes when frames pass, or, with Standby, when all is in place for
// that. It is the same if the workload is attached so already.
//
// Exactly one of Netns, Tap and Device is set.
type AttachRequest struct {
	VPC      string `json:"vpc"` // "": the one VPC that has the endpoint
	Endpoint string `json:"endpoint"`
	// Netns is the absolute path of a network namespace, such as /run/netns/web1
	// or /proc/1234/ns/net; Inner names the device there, default eth0.
	Netns string `json:"netns,omitempty"`
	Inner string `json:"inner,omitempty"`
	// NoGateway leaves the namespace without routes by the VPC's gateway.
	NoGateway bool `json:"no_gateway,omitempty"`
	// Tap is the name of a tap device that is made for user TapOwner, nil: root.
	Tap      string `json:"tap,omitempty"`
	TapOwner *int   `json:"tap_owner,omitempty"`
	// Device is a device that is there, and lent.
	Device string `json:"device,omitempty"`
	// Trust lets the workload send whatever it likes.
	Trust bool `json:"trust,omitempty"`
	// Standby attaches it although another node owns the endpoint, or will.
	Standby bool `json:"standby,omitempty"`
	// Create makes the endpoint if there is none, for this workload; it goes by
	// DetachRequest.Delete.
	Create bool `json:"create,omitempty"`
	// For says, in the words of a runtime, which of its workloads that is: then it
	// ends, as by a detach with Delete, when its namespace has gone.
	For string `json:"for,omitempty"`
}

// Attached is a workload's port.
type Attached struct {
	VPC       string            `json:"vpc"`
	Endpoint  string            `json:"endpoint"`
	State     cluster.PortState `json:"state"`
	Reason    string            `json:"reason,omitempty"`
	Device    string            `json:"device"` // on the host
	Netns     string            `json:"netns,omitempty"`
	Inner     string            `json:"inner,omitempty"`
	MAC       cluster.MAC       `json:"mac"`
	Addresses []netip.Prefix    `json:"addresses,omitempty"`
	Gateways  []netip.Addr      `json:"gateways,omitempty"`
	Routes    []netip.Prefix    `json:"routes,omitempty"` // what Gateways are for; none: everything
	MTU       int               `json:"mtu"`              // bytes
	Trusted   bool              `json:"trusted,omitempty"`
	Created   bool              `json:"created,omitempty"` // by AttachRequest.Create
	For       string            `json:"for,omitempty"`
	Epoch     int64             `json:"epoch"`
	// Dropped counts the frames that it was kept from sending, as in
	// cluster.EndpointStatus.
	Dropped map[string]uint64 `json:"dropped,omitempty"`
}

// DetachRequest asks for a workload's port to be taken away. What is not attached
// is detached already. Delete also has an endpoint deleted that Create made, and
// does not wait for it.
type DetachRequest struct {
	VPC      string `json:"vpc"` // "": the one VPC that has it attached here
	Endpoint string `json:"endpoint"`
	Delete   bool   `json:"delete,omitempty"`
}

// Ports is the answer of PathPorts: all workloads that are to be attached here,
// sorted by VPC and endpoint.
type Ports struct {
	Ports []Attached `json:"ports"`
}

// Code is why a request was refused, for programs.
type Code string

// Codes of refusals.
const (
	CodeInvalid     Code = "invalid"     // the request makes no sense
	CodeNotFound    Code = "not found"   // no such endpoint or VPC
	CodeElsewhere   Code = "elsewhere"   // the endpoint belongs to another node
	CodeTaken       Code = "taken"       // attached to something else, or the target is in use
	CodeTarget      Code = "target"      // the namespace or device is not there, or not fit
	CodeExhausted   Code = "exhausted"   // no address is left
	CodeUnavailable Code = "unavailable" // not now: no store, no controller, or the VPC is not up here
)

// Refusal is the body of every answer that is none; it is also the error that the
// client returns.
type Refusal struct {
	Code Code   `json:"code"`
	Text string `json:"error"`
	Hint string `json:"hint,omitempty"` // what to do
}

func (r *Refusal) Error() string { return r.Text }
