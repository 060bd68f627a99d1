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

// Unreadable reports whether an error says that a record is there and that this
// version cannot make sense of it.
func Unreadable(err error) bool { return errors.Is(err, ErrInvalid) || errors.Is(err, ErrNewer) }

// FieldError is a field of a record that breaks a rule.
type FieldError struct {
	Field string // its JSON name
	Err   error  // wraps ErrInvalid, and makes sense without Field
}

func (e FieldError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e FieldError) Unwrap() error { return e.Err }
