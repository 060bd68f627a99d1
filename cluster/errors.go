package cluster

import "errors"

// Errors shared by all packages, compared by errors.Is.
var (
	// ErrInvalid is returned when a name, number or record breaks its rules.
	ErrInvalid = errors.New("invalid")
	// ErrNewer is returned when a record needs a newer version of meshvpc.
	ErrNewer = errors.New("record needs a newer meshvpc")
	// ErrUnknownKey is returned when a key is no record of this version.
	ErrUnknownKey = errors.New("unknown key")
)
