//go:build linux

package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

var native = binary.NativeEndian

// pause waits without a promise about ctx.
func pause(d time.Duration) { <-time.After(d) }

// firstPing sends an echo request to an address each millisecond, from the
// host's own namespace or the named one of it as soon as that is there, and
// returns when the first reply came.
func firstPing(ctx context.Context, h *place, namespace string, to netip.Addr) (at time.Time, err error) {
	ns := h.net
	for namespace != "" {
		fd, err := unix.Openat(h.root, "run/netns/"+namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil && isNamespace(fd) {
			defer unix.Close(fd)
			ns = fd
			break
		}
		if err == nil {
			unix.Close(fd)
		}
		if ctx.Err() != nil {
			return at, fmt.Errorf("wait for namespace %s: %w", namespace, ctx.Err())
		}
		pause(time.Millisecond)
	}
	err = inside(ns, func() error {
		at, err = echo(ctx, to)
		return err
	})
	return at, err
}

// isNamespace reports whether a file is a namespace by now, not the empty file
// that one is going to be mounted on.
func isNamespace(fd int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && st.Type == unix.NSFS_MAGIC
}

func echo(ctx context.Context, to netip.Addr) (time.Time, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return time.Time{}, fmt.Errorf("open ICMP socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 1000}); err != nil {
		return time.Time{}, fmt.Errorf("bound ICMP socket: %w", err)
	}
	request := []byte{8, 0, 0, 0, 0x77, 1, 0, 1}
	sum := uint32(0x0800 + 0x7701 + 0x0001)
	binary.BigEndian.PutUint16(request[2:], ^uint16(sum+sum>>16))
	b := make([]byte, 256)
	for ctx.Err() == nil {
		if err := unix.Sendto(fd, request, 0, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
			pause(time.Millisecond) // no address or route yet
			continue
		}
		n, from, err := unix.Recvfrom(fd, b, 0)
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return time.Time{}, fmt.Errorf("receive echo reply: %w", err)
		}
		a, ok := from.(*unix.SockaddrInet4)
		if err == nil && ok && netip.AddrFrom4(a.Addr) == to && n >= 28 && b[20] == 0 && b[24] == 0x77 {
			return time.Now(), nil
		}
	}
	return time.Time{}, fmt.Errorf("ping %s: %w", to, ctx.Err())
}
