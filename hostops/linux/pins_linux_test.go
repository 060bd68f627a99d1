package linux

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMovedPins: what the directory of namespaces tells is read whole, and when it
// could not tell all, nothing is taken for all.
func TestMovedPins(t *testing.T) {
	event := func(mask uint32, name string) []byte {
		b := binary.NativeEndian.AppendUint32([]byte{1, 0, 0, 0}, mask)
		b = binary.NativeEndian.AppendUint32(b, 0)
		padded := make([]byte, (len(name)+16)&^15)
		copy(padded, name)
		return append(binary.NativeEndian.AppendUint32(b, uint32(len(padded))), padded...)
	}
	come, gone := event(unix.IN_CREATE, "cni-1234"), event(unix.IN_DELETE, "vpc-a-long-name-of")
	lost := binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(
		binary.NativeEndian.AppendUint32(nil, ^uint32(0)), unix.IN_Q_OVERFLOW), 0), 0)
	for name, tt := range map[string]struct {
		told  [][]byte
		names []string
		all   bool
	}{
		"nothing":         {},
		"one":             {told: [][]byte{gone}, names: []string{"vpc-a-long-name-of"}},
		"two at once":     {told: [][]byte{slices.Concat(come, gone)}, names: []string{"cni-1234", "vpc-a-long-name-of"}},
		"some were lost":  {told: [][]byte{slices.Concat(gone, lost)}, all: true},
		"one is cut":      {told: [][]byte{gone[:len(gone)-1]}, all: true},
		"and after a few": {told: [][]byte{come, gone}, names: []string{"cni-1234", "vpc-a-long-name-of"}},
	} {
		t.Run(name, func(t *testing.T) {
			var ends [2]int
			must(t, unix.Pipe2(ends[:], unix.O_NONBLOCK|unix.O_CLOEXEC))
			defer unix.Close(ends[1])
			d := &Driver{pins: newSource(ends[0], make([]byte, readSize))}
			defer d.pins.close()
			for _, b := range tt.told {
				_, err := unix.Write(ends[1], b)
				must(t, err)
			}
			if names, all := d.movedPins(); !slices.Equal(names, tt.names) || all != tt.all {
				t.Errorf("movedPins() = %q, %v; want %q, %v", names, all, tt.names, tt.all)
			}
		})
	}
}
