package lab

import (
	"bytes"
	"encoding/binary"
)

// fits tells whether a frame is what the match describes. It does not look at
// Outgoing, which is no property of the frame.
func (m Match) fits(frame []byte) bool {
	if len(frame) < 14 {
		return false
	}
	if len(m.Destination) > 0 && !bytes.Equal(m.Destination, frame[:6]) {
		return false
	}
	if len(m.Source) > 0 && !bytes.Equal(m.Source, frame[6:12]) {
		return false
	}
	etherType := binary.BigEndian.Uint16(frame[12:])
	if m.EtherType != 0 && m.EtherType != etherType {
		return false
	}
	if m.IPProtocol != 0 {
		switch {
		case etherType == 0x0800 && len(frame) > 23 && frame[23] == m.IPProtocol:
		case etherType == 0x86dd && len(frame) > 20 && frame[20] == m.IPProtocol:
		default:
			return false
		}
	}
	return bytes.Contains(frame, m.Contains)
}
