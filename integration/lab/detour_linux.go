package lab

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// detour is a TUN device of the router, by which packets of impaired directions pass
// this process: it keeps each for as long as its direction takes, or drops it. Many
// kernels have no netem. Rules send what comes in by one host's link and goes to
// another's there; what is written back is routed as ever.
type detour struct {
	file   *os.File
	device int
	ways   []netlink.Rule // in force, with their tables

	mu    sync.Mutex
	lanes map[[2]netip.Addr]lane
	queue packets
	woken chan struct{}
}

const (
	detourName  = "detour"
	detourTable = 10_000 // and on, one for each host's link
	detourRule  = 1_000  // preference, before those for all
	detourMost  = 50_000 // packets under way; more are dropped
)

// impair sends exactly these directions by the detour. addresses are those of the
// hosts at the router's devices.
func (r *router) impair(lanes []lane, addresses map[int][]netip.Addr) error {
	if r.detour == nil {
		if len(lanes) == 0 {
			return nil
		}
		if r.segment != 0 {
			return fmt.Errorf("impair underlay: the hosts are on one segment, with no router between them: %w", ErrRefused)
		}
		d, err := newDetour(r.mtu)
		if err != nil {
			return fmt.Errorf("impair underlay: %w", err)
		}
		r.detour = d
	}
	if err := r.detour.set(lanes, addresses); err != nil {
		return fmt.Errorf("impair underlay: %w", err)
	}
	return nil
}

// newDetour makes the device and its goroutines, which end with the process.
func newDetour(mtu int) (*detour, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w: %w", err, ErrRefused)
	}
	request, err := unix.NewIfreq(detourName)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make device %s: %w", detourName, err)
	}
	d := &detour{file: os.NewFile(uintptr(fd), detourName), woken: make(chan struct{}, 1)}
	l, err := netlink.LinkByName(detourName)
	if err == nil {
		d.device = l.Attrs().Index
		err = errors.Join(netlink.LinkSetMTU(l, mtu), netlink.LinkSetTxQLen(l, 10_000), netlink.LinkSetUp(l))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up device %s: %w", detourName, err), d.file.Close())
	}
	go d.take()
	go d.give()
	return d, nil
}

// set has these directions, and no others, come by.
func (d *detour) set(lanes []lane, addresses map[int][]netip.Addr) error {
	by := map[[2]netip.Addr]lane{}
	targets := map[int][]netip.Addr{} // by the device that they are sent from
	for _, l := range lanes {
		targets[l.in] = append(targets[l.in], addresses[l.out]...)
		for _, from := range addresses[l.in] {
			for _, to := range addresses[l.out] {
				by[[2]netip.Addr{from, to}] = l
			}
		}
	}
	d.mu.Lock()
	d.lanes = by
	d.mu.Unlock()
	if err := d.close(); err != nil {
		return err
	}
	for in, list := range targets {
		if err := d.open(in, list); err != nil {
			return err
		}
	}
	return nil
}

// close takes all rules and routes away.
func (d *detour) close() error {
	for _, rule := range d.ways {
		if err := netlink.RuleDel(&rule); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove rule for %s: %w", rule.IifName, err)
		}
		routes, err := netlink.RouteListFiltered(rule.Family, &netlink.Route{Table: rule.Table}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, route := range routes {
			if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove route to %s: %w", route.Dst, err)
			}
		}
	}
	d.ways = nil
	return nil
}

// open sends what comes in by a device for these addresses to the detour.
func (d *detour) open(in int, to []netip.Addr) error {
	l, err := netlink.LinkByIndex(in)
	if err != nil {
		return fmt.Errorf("find device %d: %w", in, err)
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rule := netlink.NewRule()
		rule.Family, rule.IifName, rule.Table, rule.Priority = family, l.Attrs().Name, detourTable+in, detourRule
		for _, a := range to {
			if a.Is4() != (family == unix.AF_INET) {
				continue
			}
			route := &netlink.Route{LinkIndex: d.device, Dst: ipNet(netip.PrefixFrom(a, a.BitLen())), Table: rule.Table}
			if err := netlink.RouteReplace(route); err != nil {
				return fmt.Errorf("add route to %s: %w", a, err)
			}
		}
		d.ways = append(d.ways, *rule)
		if err := netlink.RuleAdd(rule); err != nil {
			return fmt.Errorf("add rule for %s: %w", rule.IifName, err)
		}
	}
	return nil
}

// take reads packets until the device is gone.
func (d *detour) take() {
	b := make([]byte, 1<<16)
	for {
		n, err := d.file.Read(b)
		if err != nil {
			return
		}
		now := time.Now()
		d.mu.Lock()
		l := d.lanes[direction(b[:n])]
		if rand.Float64() >= l.loss && len(d.queue) < detourMost {
			heap.Push(&d.queue, packet{now.Add(l.delay), append([]byte(nil), b[:n]...)})
		}
		d.mu.Unlock()
		select {
		case d.woken <- struct{}{}:
		default:
		}
	}
}

// give writes packets when their time has come, until the process ends.
func (d *detour) give() {
	timer := time.NewTimer(0)
	for {
		select {
		case <-d.woken:
		case <-timer.C:
		}
		for {
			p, wait := d.next(time.Now())
			if p == nil {
				timer.Reset(wait)
				break
			}
			_, _ = d.file.Write(p) // as a router, which drops what it cannot send
		}
	}
}

// next is the packet whose time has come, or how long there is none.
func (d *detour) next(now time.Time) ([]byte, time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) == 0 {
		return nil, time.Hour
	}
	if wait := d.queue[0].due.Sub(now); wait > 0 {
		return nil, wait
	}
	return heap.Pop(&d.queue).(packet).data, 0
}

// direction is from where to where an IP packet goes.
func direction(b []byte) (d [2]netip.Addr) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		d[0], d[1] = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	case len(b) >= 40 && b[0]>>4 == 6:
		d[0], d[1] = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	}
	return d
}

// packet waits for its time.
type packet struct {
	due  time.Time
	data []byte
}

// packets is a heap, the next one first.
type packets []packet

func (q packets) Len() int           { return len(q) }
func (q packets) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q packets) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *packets) Push(x any)        { *q = append(*q, x.(packet)) }
func (q *packets) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}
