package cluster

import "fmt"

// Role is what an identity may be.
type Role string

// The roles of writers.
const (
	Operator   Role = "operator"
	Controller Role = "controller" // the elected leader, its allocator included
	Agent      Role = "agent"      // of the node that Identity.Name names
)

// Identity is who writes.
type Identity struct {
	Role Role
	Name string
}

// String is "agent of gold-hoster-01" or the role alone.
func (i Identity) String() string {
	if i.Role == Agent {
		return "agent of " + i.Name
	}
	return string(i.Role)
}

// WriterOf is the one role that writes records of a kind. An operator may
// also write nodes, servers, tokens and users: join and init act in an
// operator's name.
func WriterOf(k Kind) Role {
	switch k {
	case KindConfig, KindNode, KindServer, KindToken, KindUser, KindVPCSpec, KindVPCPing, KindVPCFind, KindEndpoint, KindHold, KindDrill, KindTrust:
		return Operator
	case KindLive, KindNodeStatus, KindVPCStatus, KindPingResult, KindFindResult, KindPort, KindMACStatus, KindRequest, KindVerdicts, KindFenced:
		return Agent
	default:
		return Controller
	}
}

// MayWrite wraps ErrInvalid when id is not the writer of key. The controller
// may also delete what a node asked for or a removed one reported, and what the
// operator asked of a VPC or an endpoint once that has been taken down; and it
// writes what is asked of an endpoint in the name of a node that requests that, and of a
// gateway's in its VPC's. An event is written with the change that it
// tells of, in whose name that is.
func MayWrite(id Identity, key string, deleting bool) error {
	k, err := ParseKey(key)
	if err != nil {
		return err
	}
	writer := WriterOf(k.Kind)
	switch {
	case k.Kind == KindEvent && !deleting && id.Role == Operator,
		writer == Agent && id.Role == Agent && id.Name == k.Node,
		writer != Agent && id.Role == writer,
		k.Kind == KindEndpoint && id.Role == Controller,
		deleting && id.Role == Controller && (writer == Agent || k.Kind == KindVPCSpec || k.Kind == KindVPCPing || k.Kind == KindVPCFind || k.Kind == KindHold):
		return nil
	}
	return fmt.Errorf("%w writer: %s is written by its %s, not by the %s", ErrInvalid, key, writer, id)
}
