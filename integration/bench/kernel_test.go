//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// entry is an FDB entry of a tunnel device: where it sends to, and whether it is
// the flood entry (all-zero MAC) or one of a certain MAC.
type entry struct {
	to    netip.Addr
	flood bool
}

// on is an entry in the kernel of one host.
type on struct {
	host int
	entry
}

// kernels listens to the neighbour events of all hosts in one thread, so that
// hearing costs both sides the same and little.
type kernels struct {
	epoll   int
	sockets []int
	over    int // event descriptor
	ended   chan error

	mu     sync.Mutex
	awaits map[*await]bool
}

// await is entries that are to come, or to go.
type await struct {
	gone    bool
	pending map[on]bool
	first   time.Time
	last    time.Time
	done    chan struct{}
}

// listen subscribes in every host.
func listen(hosts []*place) (*kernels, error) {
	k := &kernels{ended: make(chan error, 1), awaits: map[*await]bool{}}
	var err error
	if k.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make epoll: %w", err)
	}
	if k.over, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make event descriptor: %w", err)
	}
	for i, h := range hosts {
		err := inside(h.net, func() error {
			fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			k.sockets = append(k.sockets, fd)
			return errors.Join(
				unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
				unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.RTNLGRP_NEIGH - 1)}),
				unix.EpollCtl(k.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}))
		})
		if err != nil {
			return nil, fmt.Errorf("listen to the kernel of %s: %w", h.Name, err)
		}
	}
	if err := unix.EpollCtl(k.epoll, unix.EPOLL_CTL_ADD, k.over, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1}); err != nil {
		return nil, fmt.Errorf("listen for the end: %w", err)
	}
	go func() { k.ended <- k.run() }()
	return k, nil
}

func (k *kernels) close() error {
	_, err := unix.Write(k.over, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	err = errors.Join(err, <-k.ended, unix.Close(k.epoll), unix.Close(k.over))
	for _, fd := range k.sockets {
		err = errors.Join(err, unix.Close(fd))
	}
	return err
}

// run goes before all others on the machine: an event's time is when it is
// received.
func (k *kernels) run() error {
	runtime.LockOSThread() // never unlocked: the thread keeps its priority
	if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -19); err != nil {
		return fmt.Errorf("raise priority: %w", err)
	}
	ready := make([]unix.EpollEvent, 256)
	b := make([]byte, 1<<16)
	for {
		n, err := unix.EpollWait(k.epoll, ready, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for kernel events: %w", err)
		}
		for _, e := range ready[:max(n, 0)] {
			if e.Fd < 0 {
				return nil
			}
			if err := k.read(int(e.Fd), b); err != nil {
				return err
			}
		}
	}
}

func (k *kernels) read(host int, b []byte) error {
	for {
		n, _, err := unix.Recvfrom(k.sockets[host], b, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("read kernel events of host %d: %w", host, err)
		}
		at := time.Now()
		messages, err := netlinkMessages(b[:n])
		if err != nil {
			return fmt.Errorf("read kernel events of host %d: %w", host, err)
		}
		for _, m := range messages {
			k.heard(host, at, m)
		}
	}
}

type neighMessage struct {
	kind uint16
	netlink.Neigh
}

func netlinkMessages(b []byte) ([]neighMessage, error) {
	var out []neighMessage
	for len(b) >= unix.SizeofNlMsghdr {
		length := int(native.Uint32(b))
		if length < unix.SizeofNlMsghdr || length > len(b) {
			return nil, unix.EBADMSG
		}
		kind := native.Uint16(b[4:])
		if kind == unix.RTM_NEWNEIGH || kind == unix.RTM_DELNEIGH {
			n, err := netlink.NeighDeserialize(b[unix.SizeofNlMsghdr:length])
			if err != nil {
				return nil, err
			}
			out = append(out, neighMessage{kind, *n})
		}
		b = b[min(len(b), (length+3)&^3):]
	}
	return out, nil
}

func (k *kernels) heard(host int, at time.Time, m neighMessage) {
	to, ok := netip.AddrFromSlice(m.IP)
	if m.Family != unix.AF_BRIDGE || !ok {
		return
	}
	e := on{host, entry{to.Unmap(), isZero(m.HardwareAddr)}}
	k.mu.Lock()
	defer k.mu.Unlock()
	for a := range k.awaits {
		if a.gone != (m.kind == unix.RTM_DELNEIGH) || !a.pending[e] {
			continue
		}
		delete(a.pending, e)
		if a.last = at; a.first.IsZero() {
			a.first = at
		}
		if len(a.pending) == 0 {
			delete(k.awaits, a)
			close(a.done)
		}
	}
}

func isZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// expect begins to wait for an entry in each of the hosts, or for its end.
func (k *kernels) expect(e entry, gone bool, hosts ...int) *await {
	a := &await{gone: gone, pending: map[on]bool{}, done: make(chan struct{})}
	for _, h := range hosts {
		a.pending[on{h, e}] = true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.awaits[a] = true
	return a
}

// wait returns when all has come about.
func (k *kernels) wait(ctx context.Context, a *await) error {
	select {
	case <-a.done:
		return nil
	case err := <-k.ended:
		k.ended <- err
		return fmt.Errorf("nobody listens to the kernels any more: %w", err)
	case <-ctx.Done():
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.awaits, a)
		for e := range a.pending {
			return fmt.Errorf("%d kernels have not told of it, as that of host %d of the entry to %s: %w", len(a.pending), e.host, e.to, ctx.Err())
		}
		return nil
	}
}
