package allocator

import (
	"errors"
	"fmt"
)

// ErrExhausted is returned when a pool has no free value.
var ErrExhausted = errors.New("no free value")

// TakenError is returned when the value asked for is somebody else's.
type TakenError struct {
	Value    string
	Holder   string // "" if its reverse key cannot be read
	Released bool   // it waits in quarantine
}

// Error says who has it.
func (e *TakenError) Error() string {
	switch {
	case e.Holder == "":
		return fmt.Sprintf("%s is taken by a record that cannot be read", e.Value)
	case e.Released:
		return fmt.Sprintf("%s was released by %s a moment ago and waits until no host uses it", e.Value, e.Holder)
	}
	return fmt.Sprintf("%s is held by %s", e.Value, e.Holder)
}
