package lab

import (
	"errors"
	"io"
	"net"
	"testing"
)

// queue is a socket whose other side sent its last packet and closed: early times
// it says end before it is asked for the packet.
type queue struct {
	early int
	last  string
}

func (q *queue) ReadMsgUnix(b, _ []byte) (n, oobn, flags int, addr *net.UnixAddr, err error) {
	if q.early > 0 {
		q.early--
		return 0, 0, 0, nil, io.EOF
	}
	if q.last == "" {
		return 0, 0, 0, nil, io.EOF
	}
	n = copy(b, q.last)
	q.last = ""
	return n, 0, 0, nil, nil
}

func TestLastPacketIsReadBeforeTheEnd(t *testing.T) {
	for name, early := range map[string]int{"in order": 0, "end seen first": 1} {
		t.Run(name, func(t *testing.T) {
			q := &queue{early: early, last: "answer"}
			b := make([]byte, 16)
			n, _, _, err := readPacket(q, b, nil)
			if err != nil || string(b[:n]) != "answer" {
				t.Errorf("got %q, %v; want the answer", b[:n], err)
			}
			if n, _, _, err := readPacket(q, b, nil); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("after it: got %d bytes, %v; want EOF", n, err)
			}
		})
	}
}
