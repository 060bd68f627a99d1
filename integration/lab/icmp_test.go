package lab

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEcho(t *testing.T) {
	for name, tt := range map[string]struct {
		v6         bool
		size, want int
	}{
		"least over IPv4": {false, 0, 24},
		"least over IPv6": {true, 0, 24},
		"full IPv4":       {false, 1430, 1410},
		"full IPv6":       {true, 1430, 1390},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := newEcho(tt.v6, 7, tt.size)
			if err != nil {
				t.Fatal(err)
			}
			b := e.request(99)
			if len(b) != tt.want {
				t.Errorf("%d bytes, want %d", len(b), tt.want)
			}
			if !tt.v6 && checksum(b) != 0 {
				t.Errorf("checksum of the whole is %#x, want 0", checksum(b))
			}
			if _, ok := e.reply(b); ok {
				t.Error("a request passes for a reply")
			}
			if b[0] = 0; tt.v6 {
				b[0] = 129
			}
			if seq, ok := e.reply(b); !ok || seq != 99 {
				t.Errorf("reply to %d, %v; want 99", seq, ok)
			}
			other := e
			other.cookie = 8
			if _, ok := other.reply(b); ok {
				t.Error("another ping's reply passes for ours")
			}
		})
	}
	if _, err := newEcho(true, 1, 63); err == nil {
		t.Error("63 bytes hold an IPv6 echo")
	}
}

func TestChecksumOfOddLength(t *testing.T) {
	// RFC 1071 §3: the sum of 00 01 f2 03 f4 f5 f6 f7 is ddf2.
	if got := checksum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}); got != ^uint16(0xddf2) {
		t.Errorf("got %#x", got)
	}
	if checksum([]byte{1, 2, 3}) != checksum([]byte{1, 2, 3, 0}) {
		t.Error("an odd length is not padded with zero")
	}
}

func TestTally(t *testing.T) {
	start := time.Unix(100, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	tally := newTally(ms(50))
	for i := range 5 {
		tally.send(at(i * 10)) // requests 1 to 5 at 0 to 40 ms
	}
	tally.receive(1, at(4))
	tally.receive(1, at(5))  // again
	tally.receive(3, at(26)) // 2 is lost
	tally.receive(4, at(90)) // too late
	tally.send(at(100))
	tally.unsent(errors.New("no route"))
	if tally.settled(at(149)) || !tally.settled(at(150)) {
		t.Error("settled is not when the last request's time is over")
	}
	want := PingResult{
		Sent: 6, Received: 2, Lost: 4, Duplicates: 1, Gap: ms(74), Min: ms(4), Avg: ms(5), Max: ms(6),
		RTT: []time.Duration{ms(4), ms(6)}, Unsent: 1, LastError: "no route",
	}
	if diff := cmp.Diff(want, tally.finish()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMatch(t *testing.T) {
	frame := make([]byte, 60)
	copy(frame, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 0x08, 0x00})
	frame[23] = 17
	copy(frame[42:], "needle")
	six := append([]byte(nil), frame...)
	six[12], six[13], six[20] = 0x86, 0xdd, 58
	for name, tt := range map[string]struct {
		match Match
		frame []byte
		want  bool
	}{
		"anything":          {Match{}, frame, true},
		"no frame at all":   {Match{}, frame[:13], false},
		"all fields":        {Match{EtherType: 0x800, Source: frame[6:12], Destination: frame[:6], IPProtocol: 17, Contains: []byte("needle")}, frame, true},
		"other type":        {Match{EtherType: 0x806}, frame, false},
		"other source":      {Match{Source: frame[:6]}, frame, false},
		"other destination": {Match{Destination: frame[6:12]}, frame, false},
		"other protocol":    {Match{IPProtocol: 6}, frame, false},
		"IPv6 protocol":     {Match{IPProtocol: 58}, six, true},
		"other text":        {Match{Contains: []byte("noodle")}, frame, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tt.match.fits(tt.frame); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
