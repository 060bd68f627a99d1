package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Multicast groups of rtnetlink, as bits for bind.
const (
	groupsHost = 1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_NEIGH-1) |
		1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1) |
		1<<(unix.RTNLGRP_IPV4_NETCONF-1) | 1<<(unix.RTNLGRP_IPV6_NETCONF-1)
	groupsNamespace = 1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_NEIGH-1) | 1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1) |
		1<<(unix.RTNLGRP_IPV4_NETCONF-1) | 1<<(unix.RTNLGRP_IPV6_NETCONF-1) | 1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1) |
		1<<(unix.RTNLGRP_IPV4_RULE-1) | 1<<(unix.RTNLGRP_IPV6_RULE-1)
)

// eventBuffer is the receive buffer of an event socket in bytes: some 20,000
// events.
const eventBuffer = 8 << 20

// readSize is how much is read at once, bytes: more than a netlink datagram
// holds.
const readSize = 64 << 10

// source is a descriptor that becomes readable when something happened. Its
// owner reads it under a lock of its own, with one buffer for all that it has: a
// host has two for each VPC, and each is idle nearly always.
type source struct {
	file   *os.File
	fd     int
	closed bool
	buf    []byte
}

// subscribe opens an event socket in the namespace of the calling thread, to be
// read into buf.
func subscribe(buf []byte, proto int, groups uint32, filter []unix.SockFilter) (*source, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, fmt.Errorf("open event socket: %w", err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, eventBuffer) != nil {
		// Without the privilege the host's default must do: an overrun is noticed.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, eventBuffer)
	}
	if len(filter) > 0 {
		prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("filter events: %w", err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("subscribe to events: %w", err)
	}
	return newSource(fd, buf), nil
}

func newSource(fd int, buf []byte) *source {
	return &source{file: os.NewFile(uintptr(fd), "events"), fd: fd, buf: buf}
}

// staticEntries lets neighbour events pass only if the entry is one that
// somebody set: learned MACs change as often as tenants like.
func staticEntries() ([]unix.SockFilter, error) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return nil, nil // offsets below are those of little endian
	}
	const set = unix.NUD_PERMANENT | unix.NUD_NOARP
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 4, Size: 1},                                                                       // low byte of nlmsg_type
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.RTM_NEWNEIGH, SkipTrue: 1},                                    //
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.RTM_DELNEIGH, SkipTrue: 6},                                 // another type: pass
		bpf.LoadAbsolute{Off: unix.SizeofNlMsghdr, Size: 1},                                                     // ndm_family
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_BRIDGE, SkipTrue: 2},                                       //
		bpf.LoadAbsolute{Off: unix.SizeofNlMsghdr + 8, Size: 1},                                                 // low byte of ndm_state
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: unix.NUD_PERMANENT | unix.NUD_FAILED, SkipTrue: 2, SkipFalse: 3}, // ARP and ND: set, or taken out again
		bpf.LoadAbsolute{Off: unix.SizeofNlMsghdr + 8, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: set, SkipTrue: 1}, // learned: drop
		bpf.RetConstant{Val: 1 << 18},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, fmt.Errorf("assemble event filter: %w", err)
	}
	return sockFilter(raw), nil
}

// wait blocks until the source is readable; false once it is closed.
func (s *source) wait() bool {
	rc, err := s.file.SyscallConn()
	if err != nil {
		return false
	}
	err = rc.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return n > 0 || (err != nil && !errors.Is(err, unix.EINTR))
	})
	return err == nil
}

// drain hands all waiting messages of the kernel to f; a process may send to a
// multicast group, too. lost: some were dropped.
func (s *source) drain(f func(h *unix.NlMsghdr, payload []byte)) (lost bool) {
	for !s.closed {
		n, from, err := unix.Recvfrom(s.fd, s.buf, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return lost
		case err != nil: // ENOBUFS; the socket stays subscribed
			if lost && !errors.Is(err, unix.ENOBUFS) {
				return true
			}
			lost = true
			continue
		}
		if sender, ok := from.(*unix.SockaddrNetlink); ok && sender.Pid == 0 {
			messages(s.buf[:n], f)
		}
	}
	return lost
}

// messages splits a datagram.
func messages(b []byte, f func(h *unix.NlMsghdr, payload []byte)) {
	for len(b) >= unix.SizeofNlMsghdr {
		h := unix.NlMsghdr{
			Len:   binary.NativeEndian.Uint32(b),
			Type:  binary.NativeEndian.Uint16(b[4:]),
			Flags: binary.NativeEndian.Uint16(b[6:]),
			Seq:   binary.NativeEndian.Uint32(b[8:]),
			Pid:   binary.NativeEndian.Uint32(b[12:]),
		}
		if h.Len < unix.SizeofNlMsghdr || int(h.Len) > len(b) {
			return
		}
		f(&h, b[unix.SizeofNlMsghdr:h.Len])
		b = b[min(len(b), int(h.Len+3)&^3):]
	}
}

// close ends wait; the descriptor is gone when no call uses it any more.
func (s *source) close() {
	if !s.closed {
		s.closed = true
		s.file.Close()
	}
}

// settle is how long follow lets events gather: one operation makes several, a
// join hundreds, and each would take the lock from the next operation.
const settle = time.Millisecond

// follow calls f under mu soon after s is readable, until s is closed.
func follow(wg *sync.WaitGroup, mu *sync.Mutex, s *source, f func()) {
	wg.Go(func() {
		pause := time.NewTimer(settle)
		defer pause.Stop()
		for s.wait() {
			pause.Reset(settle)
			<-pause.C
			mu.Lock()
			if !s.closed {
				f()
			}
			mu.Unlock()
		}
	})
}
