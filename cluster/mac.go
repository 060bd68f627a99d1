package cluster

import (
	"bytes"
	"fmt"
	"net"
	"strings"
)

// MAC is an Ethernet address. The zero value means "unset".
type MAC [6]byte

// ParseMAC reads six hex bytes with colons; other input wraps ErrInvalid.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 || strings.Count(s, ":") != 5 {
		return MAC{}, fmt.Errorf("%w MAC %q: want six hex bytes like 02:00:00:00:00:01", ErrInvalid, s)
	}
	return MAC(hw), nil
}

// String is lower case with colons.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Compare orders MACs by their bytes: -1, 0 or 1.
func (m MAC) Compare(o MAC) int { return bytes.Compare(m[:], o[:]) }

// Unicast reports whether one machine can have m (IEEE 802: the group bit is 0).
func (m MAC) Unicast() bool { return m != MAC{} && m[0]&1 == 0 }

// MarshalText writes m as String does.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what ParseMAC reads.
func (m *MAC) UnmarshalText(b []byte) error {
	v, err := ParseMAC(string(b))
	if err == nil {
		*m = v
	}
	return err
}
