package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

// What the libraries do not name of network namespaces' numbers.
const (
	rtmGetNSID = 90 // RTM_GETNSID
	rtmNewNSID = 88 // RTM_NEWNSID
	netnsaNSID = 1
	netnsaFD   = 3
)

// Spaces implements hostops.Driver. A path that leads nowhere, or to something
// that is no network namespace, has no inode.
func (d *Driver) Spaces(ctx context.Context, paths []string) map[string]hostops.Space {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make(map[string]hostops.Space, len(paths))
	for _, path := range paths {
		if ctx.Err() != nil {
			break // what was not looked at is not known
		}
		f, inode, err := openSpace(path)
		if errors.Is(err, hostops.ErrGone) {
			out[path] = hostops.Space{ID: -1}
		}
		if err != nil {
			continue
		}
		if id, err := d.conn.spaceID(f); err == nil {
			out[path] = hostops.Space{Inode: inode, ID: id}
		}
		f.Close()
	}
	return out
}

// spaceID is this host's number for a namespace, -1 if it has none.
func (c *conn) spaceID(ns *os.File) (int, error) {
	msgs, err := c.do(rtmGetNSID, 0, rtmNewNSID, &rtGenMsg{}, attr(netnsaFD, u32(uint32(ns.Fd()))))
	if err != nil {
		return 0, wrap("number of the namespace", err)
	}
	id := int32(-1)
	for _, m := range msgs {
		if len(m) >= rtGenLen {
			attrs(m[rtGenLen:], func(kind int, data []byte) {
				if kind == netnsaNSID {
					id = int32(native32(data))
				}
			})
		}
	}
	return int(id), nil
}

// rtGenMsg is struct rtgenmsg, padded.
type rtGenMsg struct{}

const rtGenLen = unix.NLMSG_ALIGNTO

// Len is that of Serialize's result.
func (*rtGenMsg) Len() int { return rtGenLen }

// Serialize implements nl.NetlinkRequestData.
func (*rtGenMsg) Serialize() []byte { return make([]byte, rtGenLen) }

var _ nl.NetlinkRequestData = (*rtGenMsg)(nil)

// openSpace opens the network namespace of a workload. It looks at what the path
// leads to before it opens it: a FIFO would keep it waiting. What is not there, or
// was unmounted, is hostops.ErrGone.
func openSpace(path string) (f *os.File, inode uint64, err error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	for _, gone := range []unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.ESRCH} {
		if errors.Is(err, gone) {
			return nil, 0, fmt.Errorf("%s: %w: %w", path, hostops.ErrGone, err)
		}
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return nil, 0, fmt.Errorf("open %s: %w", path, err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return nil, 0, fmt.Errorf("%s is no network namespace: %w", path, hostops.ErrGone)
	}
	f, err = os.Open("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return nil, 0, fmt.Errorf("open %s: %w", path, err)
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err == nil && kind != unix.CLONE_NEWNET {
		err = errors.New("it is a namespace of another kind")
	}
	if err == nil {
		inode, err = inodeOf(f)
	}
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("%s is no network namespace: %w", path, err)
	}
	return f, inode, nil
}

func inodeOf(f *os.File) (uint64, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return st.Ino, err
}
