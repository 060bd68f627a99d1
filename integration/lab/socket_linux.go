package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket is a raw socket that closes under whoever waits on it. It stays in
// the network namespace of the thread that opened it.
type socket struct {
	fd   int // for options; owned by file
	file *os.File
	raw  syscall.RawConn
}

func newSocket(family, kind, protocol int) (*socket, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &socket{fd, f, raw}, nil
}

func (s *socket) close() error { return s.file.Close() }

// sendTo waits while the socket's buffer is full.
func (s *socket) sendTo(b []byte, to unix.Sockaddr) error {
	var sendErr error
	err := s.raw.Write(func(fd uintptr) bool {
		sendErr = unix.Sendto(int(fd), b, 0, to)
		return !errors.Is(sendErr, unix.EAGAIN)
	})
	return errors.Join(err, sendErr)
}

// receiveFrom waits for a packet. After close it is os.ErrClosed.
func (s *socket) receiveFrom(b []byte) (n int, from unix.Sockaddr, err error) {
	var recvErr error
	err = s.raw.Read(func(fd uintptr) bool {
		n, from, recvErr = unix.Recvfrom(int(fd), b, 0)
		return !errors.Is(recvErr, unix.EAGAIN)
	})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, nil, err
	case err != nil: // the poller's own error for a closed file is not exported
		return 0, nil, os.ErrClosed
	}
	return n, from, recvErr
}

func sockaddr(a netip.Addr) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Addr: a.As16()}
}

func sockaddrPort(ap netip.AddrPort) unix.Sockaddr {
	switch sa := sockaddr(ap.Addr()).(type) {
	case *unix.SockaddrInet4:
		sa.Port = int(ap.Port())
		return sa
	case *unix.SockaddrInet6:
		sa.Port = int(ap.Port())
		return sa
	default:
		return sa
	}
}

func addrOf(sa unix.Sockaddr) netip.Addr {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr)
	}
	return netip.Addr{}
}
