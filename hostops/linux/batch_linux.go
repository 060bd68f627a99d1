package linux

import (
	"encoding/binary"
	"errors"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A batch is bounded, so that the kernel's answers to all of it fit into the
// smallest usual receive buffer (208 KiB), where each takes 1 KiB at most (see
// NETLINK_CAP_ACK), and itself into the send buffer.
const (
	batchRequests = 128
	batchBytes    = 32 << 10
)

// request changes something by one message.
type request struct {
	proto, flags int
	data         []nl.NetlinkRequestData
}

// setAll sends requests, as many by one message to the kernel as a batch holds,
// and returns the kernel's answer to each. It performs them in order, and one that
// it refuses keeps no other from being performed.
func (c *conn) setAll(requests []request) []error {
	errs := make([]error, len(requests))
	for from := 0; from < len(requests); {
		var seqs []uint32
		var out []byte
		for _, r := range requests[from:] {
			req := nl.NewNetlinkRequest(r.proto, r.flags|unix.NLM_F_ACK)
			req.Data = r.data
			b := req.Serialize()
			if len(seqs) == batchRequests || len(seqs) > 0 && len(out)+len(b)+unix.NLMSG_ALIGNTO > batchBytes {
				break
			}
			out = append(out, b...)
			out = append(out, make([]byte, -len(out)&(unix.NLMSG_ALIGNTO-1))...)
			seqs = append(seqs, req.Seq)
		}
		c.exchangeAll(out, seqs, errs[from:from+len(seqs)])
		from += len(seqs)
	}
	return errs
}

// exchangeAll sends messages that want an acknowledgement each, and reads those.
// The kernel has answered when they are sent. What it did not answer it may have
// done or not: ENOBUFS if answers were lost, else EINTR, for which it sends none.
func (c *conn) exchangeAll(out []byte, seqs []uint32, errs []error) {
	c.requests.Add(uint64(len(seqs)))
	c.sent++
	all := func(err error) {
		for i := range errs {
			errs[i] = err
		}
	}
	if err := unix.Sendto(c.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		all(err)
		return
	}
	all(unix.EINTR)
	for next := 0; next < len(seqs); {
		n, from, err := unix.Recvfrom(c.fd, c.buf, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil: // ENOBUFS: the answers that had room can be read
			for i := next; i < len(errs); i++ {
				errs[i] = err
			}
			if !errors.Is(err, unix.ENOBUFS) {
				return
			}
			continue
		}
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != nl.PidKernel {
			continue
		}
		messages(c.buf[:n], func(h *unix.NlMsghdr, b []byte) {
			if h.Type != unix.NLMSG_ERROR || len(b) < 4 {
				return
			}
			for i := next; i < len(seqs); i++ {
				if seqs[i] != h.Seq { // an answer that was lost, or to an earlier request
					continue
				}
				next, errs[i] = i+1, nil
				if errno := -int32(binary.NativeEndian.Uint32(b)); errno != 0 {
					errs[i] = unix.Errno(errno)
				}
				return
			}
		})
	}
}
