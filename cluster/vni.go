package cluster

import (
	"fmt"
	"strconv"
)

// VNI is a VXLAN Network Identifier, 24 bits wide (RFC 7348 §5). Zero means
// "not assigned" and is never put on the wire.
type VNI uint32

// MaxVNI is the largest VNI.
const MaxVNI VNI = 1<<24 - 1

// ParseVNI reads a decimal VNI from 1 to MaxVNI; other input wraps ErrInvalid.
func ParseVNI(s string) (VNI, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || VNI(n) > MaxVNI || n == 0 {
		return 0, fmt.Errorf("%w VNI %q: want a number from 1 to %d", ErrInvalid, s, MaxVNI)
	}
	return VNI(n), nil
}

// Validate wraps ErrInvalid when v is not from 1 to MaxVNI.
func (v VNI) Validate() error {
	if v == 0 || v > MaxVNI {
		return fmt.Errorf("%w VNI %d: want a number from 1 to %d", ErrInvalid, v, MaxVNI)
	}
	return nil
}

// VNIRange is the range that VNIs are allocated from, both ends included.
type VNIRange struct {
	First VNI `json:"first"`
	Last  VNI `json:"last"`
}

// DefaultVNIRange leaves the lowest numbers to other overlays (Linux users
// like 1 and 42, flannel takes 1, Docker counts from 4096).
var DefaultVNIRange = VNIRange{First: 10000, Last: MaxVNI}

// Contains reports whether v may be allocated from r.
func (r VNIRange) Contains(v VNI) bool { return v >= r.First && v <= r.Last }

// Validate wraps ErrInvalid when an end is no VNI or the ends are crossed.
func (r VNIRange) Validate() error {
	if r.First.Validate() != nil || r.Last.Validate() != nil || r.First > r.Last {
		return fmt.Errorf("%w VNI range %d-%d: want 1 ≤ first ≤ last ≤ %d", ErrInvalid, r.First, r.Last, MaxVNI)
	}
	return nil
}
