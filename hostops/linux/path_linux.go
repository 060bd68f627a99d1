package linux

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

// How PathMTU searches: sizes tried at once, and how long their answers may
// take. 32 sizes at once find the byte in two rounds, of jumbo frames in three.
const (
	pathTries = 32
	pathRound = 800 * time.Millisecond
	leastPath = 576 // bytes, RFC 791 §3.1
)

// PathMTU finds by echo requests the largest IP packet up to want, in bytes,
// that goes from this host to to in one piece, whatever MTU the kernel believes
// in. from is the address to send from; unset, the kernel chooses. The way back
// may fragment. A round is at most 0.8 s, and there are three at most for a want
// below 20000; when ctx ends the search, the result is a size that passes.
// A host that answers no request is hostops.ErrNoAnswer.
func PathMTU(ctx context.Context, from, to netip.Addr, want int) (int, error) {
	p, err := openPinger(to.Is6())
	if err != nil {
		return 0, fmt.Errorf("find MTU of the path to %s: %w", to, err)
	}
	var reading sync.WaitGroup
	reading.Go(p.read)
	defer reading.Wait()
	defer p.close()
	if from.IsValid() {
		err = p.bind(from)
	}
	passes, fails := 0, want+1
	for sizes := append(between(leastPath, want), leastPath); err == nil && ctx.Err() == nil && len(sizes) > 0; sizes = between(passes, fails) {
		sizes = append(sizes, want) // again each time: one lost packet is no proof
		var answered []int
		answered, err = p.round(ctx, to, sizes)
		if passes, fails = narrow(passes, fails, sizes, answered); passes == 0 {
			break
		}
	}
	if err == nil && passes == 0 {
		err = hostops.ErrNoAnswer
	}
	if err != nil {
		return 0, fmt.Errorf("find MTU of the path to %s: %w", to, err)
	}
	return passes, nil
}

// between lists up to pathTries sizes above passes and below fails, evenly.
func between(passes, fails int) (sizes []int) {
	gap := fails - passes
	for i := 1; i <= pathTries; i++ {
		if s := passes + gap*i/(pathTries+1); s > passes && s < fails && !slices.Contains(sizes, s) {
			sizes = append(sizes, s)
		}
	}
	return sizes
}

// narrow is what is known after a round: the largest size that passes, and the
// least above it that does not.
func narrow(passes, fails int, sizes, answered []int) (int, int) {
	for _, s := range answered {
		passes = max(passes, s)
	}
	if fails <= passes {
		fails = passes + 1
	}
	for _, s := range sizes {
		if s > passes {
			fails = min(fails, s)
		}
	}
	return passes, fails
}

// bind has the pinger send from an address.
func (p *pinger) bind(from netip.Addr) error {
	rc, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: from.As16()}
	if !p.v6 {
		sa = &unix.SockaddrInet4{Addr: from.As4()}
	}
	var bound error
	return errors.Join(rc.Control(func(fd uintptr) { bound = unix.Bind(int(fd), sa) }), bound)
}

// round sends a request of each size, and returns those that were answered. That
// none can be sent at all is an error.
func (p *pinger) round(ctx context.Context, to netip.Addr, sizes []int) (answered []int, err error) {
	ctx, cancel := context.WithTimeout(ctx, pathRound)
	defer cancel()
	answers := make(chan int, len(sizes))
	sent := 0
	for _, size := range sizes {
		seq, failed := p.expect(waiter{to, time.Now(), func(time.Duration) { answers <- size }})
		if failed == nil {
			if failed = p.send(to, seq, size); failed != nil {
				p.take(seq, to)
			}
		}
		switch {
		case failed == nil:
			sent++
		case !errors.Is(failed, unix.EMSGSIZE) && !errors.Is(failed, hostops.ErrCongested):
			err = failed // the least may go for all that
		}
	}
	if sent == 0 {
		return nil, err
	}
	for range sent {
		select {
		case size := <-answers:
			answered = append(answered, size)
		case <-ctx.Done():
			return answered, nil
		}
	}
	return answered, nil
}
