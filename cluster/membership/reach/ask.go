package reach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// How long an answer is waited for, and when the question is sent again. The last
// try is waited for longer than a way around the world takes.
var resend = []time.Duration{0, 300 * time.Millisecond, 700 * time.Millisecond}

const askWithin = 2 * time.Second

// ErrNoAnswer is returned when the holder of the key did not answer at the
// address: it is not there, or does not get the question, or its answer is lost.
var ErrNoAnswer = errors.New("no answer")

// Ask asks whether the holder of a key is at an address, and returns nil if it
// is: key is its hash, as a node's record has it. It takes a round trip, or 2 s
// until ErrNoAnswer. It is safe for concurrent use.
func Ask(ctx context.Context, key string, at netip.Addr) error {
	return ask(ctx, key, netip.AddrPortFrom(at, Port))
}

func ask(ctx context.Context, key string, at netip.AddrPort) error {
	hash, err := ParseKeyHash(key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	// Connected, so that the kernel drops what comes from another address.
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", at.String())
	if err != nil {
		return fmt.Errorf("nothing can be sent: %w", cause(err))
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	q := newQuestion(hash, at.Addr())
	sent := make(chan error, 1)
	go func() { sent <- send(ctx, conn, q.encode()) }()
	answered := listen(ctx, conn, q)
	cancel()
	if err := <-sent; err != nil && answered != nil {
		return fmt.Errorf("nothing can be sent: %w", cause(err))
	}
	return answered
}

// send sends a question until ctx ends. A refusal by ICMP does not end it: the
// host may be about to listen.
func send(ctx context.Context, conn net.Conn, b []byte) error {
	begun := time.Now()
	for _, at := range resend {
		t := time.NewTimer(at - time.Since(begun))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		if _, err := conn.Write(b); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			_ = conn.SetReadDeadline(time.Unix(1, 0))
			return err
		}
	}
	return nil
}

// listen reads until there is a good answer, or the read deadline.
func listen(ctx context.Context, conn net.Conn, q question) error {
	b := make([]byte, answerMost+1)
	for {
		n, err := conn.Read(b)
		if errors.Is(err, syscall.ECONNREFUSED) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return ErrNoAnswer
		}
		if a, ok := parseAnswer(b[:n]); ok && q.check(a) == nil {
			return nil
		}
	}
}

// cause is why nothing could be sent, without the addresses of the socket.
func cause(err error) error {
	if number, ok := errors.AsType[syscall.Errno](err); ok {
		return number
	}
	return err
}
