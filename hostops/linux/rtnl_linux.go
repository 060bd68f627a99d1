package linux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// conn is one rtnetlink socket for requests, for one goroutine at a time. It
// shares the buffer that answers are read into.
type conn struct {
	fd       int
	buf      []byte
	requests *atomic.Uint64
	sent     int // messages to the kernel, with one request or more
}

// dial opens a conn in the namespace of the calling thread.
func dial(buf []byte, requests *atomic.Uint64) (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	// An error then brings no copy of the request along (kernel 4.3).
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set up rtnetlink: %w", err)
	}
	return &conn{fd: fd, buf: buf, requests: requests}, nil
}

func (c *conn) close() { unix.Close(c.fd) }

// do sends one request and returns the answers' payloads of type want (0: none).
func (c *conn) do(proto, flags int, want uint16, data ...nl.NetlinkRequestData) ([][]byte, error) {
	c.requests.Add(1)
	req := nl.NewNetlinkRequest(proto, flags)
	for _, d := range data {
		req.AddData(d)
	}
	for range 5 { // a dump that was changed under us is read again
		out, err := c.exchange(req, want)
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			return out, err
		}
	}
	return nil, nl.ErrDumpInterrupted
}

// exchange is what req.Execute does, but for 64 KiB of new memory for each
// datagram. It does not wait: the kernel has answered when a request is sent.
func (c *conn) exchange(req *nl.NetlinkRequest, want uint16) (out [][]byte, err error) {
	c.sent++
	if err := unix.Sendto(c.fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	for over := false; !over; {
		n, from, failed := unix.Recvfrom(c.fd, c.buf, 0)
		if errors.Is(failed, unix.EINTR) {
			continue
		}
		if failed != nil {
			return nil, failed
		}
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != nl.PidKernel {
			continue
		}
		messages(bytes.Clone(c.buf[:n]), func(h *unix.NlMsghdr, b []byte) {
			if over || h.Seq != req.Seq { // an earlier request failed halfway
				return
			}
			if h.Flags&unix.NLM_F_DUMP_INTR != 0 {
				err = nl.ErrDumpInterrupted
			}
			switch {
			case h.Type == unix.NLMSG_DONE, h.Type == unix.NLMSG_ERROR:
				over = true
				if len(b) >= 4 && binary.NativeEndian.Uint32(b) != 0 {
					err = unix.Errno(-int32(binary.NativeEndian.Uint32(b)))
				}
			case want == 0, h.Type == want:
				out = append(out, b)
				over = h.Flags&unix.NLM_F_MULTI == 0
			}
		})
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// set is a request that changes something.
func (c *conn) set(proto, flags int, data ...nl.NetlinkRequestData) error {
	_, err := c.do(proto, flags|unix.NLM_F_ACK, 0, data...)
	return err
}

// list is a dump.
func (c *conn) list(proto int, want uint16, data ...nl.NetlinkRequestData) ([][]byte, error) {
	return c.do(proto, unix.NLM_F_DUMP, want, data...)
}

// linkMsg is the header of a request about the link with this index.
func linkMsg(index int32) *nl.IfInfomsg {
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index = index
	return m
}

func attr(kind int, data []byte) *nl.RtAttr { return nl.NewRtAttr(kind, data) }

func flag(on bool) []byte {
	if on {
		return []byte{1}
	}
	return []byte{0}
}

func u32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func u16be(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

func u16(v uint16) []byte { return binary.NativeEndian.AppendUint16(nil, v) }

func putNative16(b []byte, v uint16) { binary.NativeEndian.PutUint16(b, v) }

func zstr(s string) []byte { return nl.ZeroTerminated(s) }

// linkInfo is the kind of a link with its attributes.
func linkInfo(kind string, data ...*nl.RtAttr) *nl.RtAttr {
	info := attr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte(kind))
	if len(data) > 0 {
		d := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
		for _, a := range data {
			if a != nil {
				d.AddChild(a)
			}
		}
	}
	return info
}

// noAddrGen keeps the kernel from making link-local addresses.
func noAddrGen() *nl.RtAttr {
	spec := attr(unix.IFLA_AF_SPEC, nil)
	inet6 := spec.AddRtAttr(unix.AF_INET6, nil)
	inet6.AddRtAttr(iflaInet6AddrGenMode, []byte{addrGenNone})
	return spec
}

// deafAndQuiet is noAddrGen and keeps the kernel from answering ARP on the
// device, and from believing any IPv4 source there: no route leads to it.
func deafAndQuiet() *nl.RtAttr {
	spec := noAddrGen()
	conf := spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(iflaInetConf, nil)
	conf.AddRtAttr(devconfArpIgnore, u32(arpIgnoreAll))
	conf.AddRtAttr(devconfRPFilter, u32(1))
	return spec
}

func familyOf(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// addrMsg is the header of a request about an address of the link with this
// index.
func addrMsg(index int32, p netip.Prefix) *nl.IfAddrmsg {
	m := nl.NewIfAddrmsg(int(familyOf(p.Addr())))
	m.Prefixlen, m.Index = uint8(p.Bits()), uint32(index)
	return m
}

// strip removes an address from a device.
func (c *conn) strip(index int32, p netip.Prefix) error {
	return c.set(unix.RTM_DELADDR, 0, addrMsg(index, p), attr(unix.IFA_LOCAL, p.Addr().AsSlice()))
}

// addr reads an address of a netlink attribute.
func addr(b []byte) netip.Addr {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.Addr{}
	}
	return a.Unmap()
}

// within runs f on a thread in the network namespace fd; 0 is the process's.
// The thread is not used for anything else afterwards.
func within(fd int, f func() error) error {
	if fd == 0 {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// ignore makes success of the errors that an idempotent call may meet.
func ignore(err error, errnos ...unix.Errno) error {
	for _, e := range errnos {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// openNamespace opens a pinned network namespace and tells its identity; f is
// nil if path is no namespace.
func openNamespace(path string) (f *os.File, ino uint64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return nil, 0, err
	}
	if fs.Type != unix.NSFS_MAGIC {
		return nil, 0, nil
	}
	f, err = os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Ino, nil
}
