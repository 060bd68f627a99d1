package cluster

import (
	"fmt"
	"strings"
)

// SubjectKind is what the holder of a certificate is.
type SubjectKind string

// The kinds of subjects.
const (
	SubjectNode   SubjectKind = "node"   // a host's agent
	SubjectServer SubjectKind = "server" // a server: engine member, controller, join service
	SubjectUser   SubjectKind = "user"   // a person, or a program of theirs
)

// Subject is who a certificate of the cluster's CA speaks for: its common name
// is String, "node:gold-hoster-01". The zero Subject is nobody.
type Subject struct {
	Kind SubjectKind
	Name string // as CheckNodeName wants it
}

// String is the common name.
func (s Subject) String() string { return string(s.Kind) + ":" + s.Name }

// ParseSubject reads a common name; what is none wraps ErrInvalid.
func ParseSubject(s string) (Subject, error) {
	kind, name, _ := strings.Cut(s, ":")
	switch k := SubjectKind(kind); k {
	case SubjectNode, SubjectServer, SubjectUser:
		if CheckNodeName(name) == nil {
			return Subject{k, name}, nil
		}
	}
	return Subject{}, fmt.Errorf("%w subject %q: want node:NAME, server:NAME or user:NAME", ErrInvalid, CleanText(s))
}
