package lab

import (
	"encoding/binary"
	"fmt"
	"time"
)

// An echo's payload begins with these bytes: whose it is, and which.
const (
	echoHeader  = 8
	echoPayload = 16
)

// echo builds ICMP echo requests of one ping and knows their replies.
type echo struct {
	v6     bool
	cookie uint64 // random, tells this ping's replies from others'
	size   int    // bytes of the ICMP message
}

// newEcho returns the echo for IP packets of size bytes; 0 is the least.
func newEcho(v6 bool, cookie uint64, size int) (echo, error) {
	header := 20
	if v6 {
		header = 40
	}
	if size == 0 {
		size = header + echoHeader + echoPayload
	}
	if size < header+echoHeader+echoPayload || size > 65535 {
		return echo{}, fmt.Errorf("ping with %d bytes: want %d to 65535", size, header+echoHeader+echoPayload)
	}
	return echo{v6, cookie, size - header}, nil
}

func (e echo) request(seq uint64) []byte {
	b := make([]byte, e.size)
	b[0] = 8
	if e.v6 {
		b[0] = 128
	}
	binary.BigEndian.PutUint16(b[4:], uint16(e.cookie))
	binary.BigEndian.PutUint16(b[6:], uint16(seq))
	binary.BigEndian.PutUint64(b[8:], e.cookie)
	binary.BigEndian.PutUint64(b[16:], seq)
	if !e.v6 { // the kernel sums ICMPv6 itself
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	return b
}

// reply returns the number of the request that b, an ICMP message, answers.
func (e echo) reply(b []byte) (seq uint64, ok bool) {
	kind := byte(0)
	if e.v6 {
		kind = 129
	}
	if len(b) < echoHeader+echoPayload || b[0] != kind || binary.BigEndian.Uint64(b[8:]) != e.cookie {
		return 0, false
	}
	return binary.BigEndian.Uint64(b[16:]), true
}

// checksum is the Internet checksum, RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// maxRTTs is how many round trip times a result holds.
const maxRTTs = 4096

// tally counts requests and replies. It has no clock: every time is told.
type tally struct {
	timeout   time.Duration
	waiting   map[uint64]time.Time // sent and not answered
	next      uint64
	lastSent  time.Time
	lastReply time.Time
	sum       time.Duration
	result    PingResult
}

func newTally(timeout time.Duration) *tally {
	return &tally{timeout: timeout, waiting: map[uint64]time.Time{}}
}

// send notes a request and returns its number.
func (t *tally) send(now time.Time) uint64 {
	if t.result.Sent == 0 {
		t.lastReply = now // the start counts as one
	}
	t.next++
	t.waiting[t.next] = now
	t.lastSent = now
	t.result.Sent++
	return t.next
}

// unsent notes that the kernel refused the last request.
func (t *tally) unsent(err error) {
	delete(t.waiting, t.next)
	t.result.Unsent++
	t.result.LastError = err.Error()
}

func (t *tally) receive(seq uint64, now time.Time) {
	sent, ok := t.waiting[seq]
	if !ok {
		t.result.Duplicates++
		return
	}
	rtt := now.Sub(sent)
	if rtt > t.timeout {
		return // stays lost
	}
	delete(t.waiting, seq)
	r := &t.result
	if r.Received == 0 || rtt < r.Min {
		r.Min = rtt
	}
	r.Max = max(r.Max, rtt)
	r.Received++
	t.sum += rtt
	if len(r.RTT) < maxRTTs {
		r.RTT = append(r.RTT, rtt)
	}
	r.Gap = max(r.Gap, now.Sub(t.lastReply))
	t.lastReply = now
}

// settled tells whether no reply can come in time any more.
func (t *tally) settled(now time.Time) bool {
	return len(t.waiting) == 0 || now.Sub(t.lastSent) >= t.timeout
}

func (t *tally) finish() PingResult {
	r := t.result
	r.Lost = r.Sent - r.Received
	if r.Received > 0 {
		r.Avg = t.sum / time.Duration(r.Received)
	}
	r.Gap = max(r.Gap, t.lastSent.Sub(t.lastReply))
	return r
}
