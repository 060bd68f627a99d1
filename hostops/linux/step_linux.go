package linux

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

// step is a request that is an operation, or its beginning. It goes to the
// kernel with those of other operations.
type step struct {
	request
	space string // the namespace that it is for, "" is the host's
	// then, if there is one, takes the kernel's answer and returns what is left
	// to be asked, nil for nothing, or why the operation failed. It runs after
	// all of the batch is done and its events are applied.
	then func(answer error) (*step, error)
}

// ask is a step of the host's namespace that is all of its operation.
func ask(proto, flags int, data ...nl.NetlinkRequestData) *step {
	return &step{request: request{proto, flags, data}}
}

// settle makes what f makes of the answer the operation's outcome.
func (s *step) settle(f func(answer error) error) *step {
	s.then = func(answer error) (*step, error) { return nil, f(answer) }
	return s
}

// but takes some errors for success.
func (s *step) but(errnos ...unix.Errno) *step {
	return s.settle(func(answer error) error { return ignore(answer, errnos...) })
}

// ApplyBatch implements hostops.Batcher. The events of the operations themselves
// are drained before it returns, so they signal no change.
func (d *Driver) ApplyBatch(ctx context.Context, ops []hostops.Op) []error {
	errs := make([]error, len(ops))
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.ready(ctx); err != nil {
		for i := range errs {
			errs[i] = err
		}
	} else {
		d.perform(ops, errs)
	}
	for i, err := range errs {
		if err != nil {
			errs[i] = fmt.Errorf("%s: %w", ops[i], err)
		}
	}
	return errs
}

// ready makes what is known of the host current.
func (d *Driver) ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.drain() {
		d.signal()
	}
	if d.devices == nil {
		ds, err := read(d.conn)
		if err != nil {
			return err
		}
		d.devices = ds
		return d.readBridges()
	}
	return nil
}

// perform gathers steps, and sends them before the first operation that is none.
func (d *Driver) perform(ops []hostops.Op, errs []error) {
	steps := make([]*step, len(ops))
	from := 0
	for i, op := range ops {
		var one bool
		if steps[i], one, errs[i] = d.step(op); one {
			continue
		}
		d.finish(steps[from:i], errs[from:i])
		errs[i] = d.apply(op)
		d.drain()
		if !d.filter.known { // others have changed it meanwhile, or it failed
			d.signal()
		}
		from = i + 1
	}
	d.finish(steps[from:], errs[from:])
}

// finish performs steps and what follows from them, and sets their errors. Those
// that are nil are done.
func (d *Driver) finish(steps []*step, errs []error) {
	asked := false
	for left := steps; slices.ContainsFunc(left, func(s *step) bool { return s != nil }); {
		answers := d.exchange(left)
		next := make([]*step, len(left))
		for i, s := range left {
			switch {
			case s == nil:
			case s.then == nil:
				errs[i] = answers[i]
			default:
				next[i], errs[i] = s.then(answers[i])
				asked = true
			}
		}
		left = next
	}
	if asked { // then may have asked for more
		d.drain()
	}
	d.takeHeard(true)
}

// exchange sends steps, namespace by namespace, and takes in their events.
func (d *Driver) exchange(steps []*step) []error {
	answers := make([]error, len(steps))
	for from := 0; from < len(steps); {
		if steps[from] == nil {
			from++
			continue
		}
		space := steps[from].space
		var requests []request
		var of []int
		for ; from < len(steps) && (steps[from] == nil || steps[from].space == space); from++ {
			if s := steps[from]; s != nil {
				requests, of = append(requests, s.request), append(of, from)
			}
		}
		c := d.conn
		if space != "" {
			c = d.spaces[space].conn
		}
		for i, err := range c.setAll(requests) {
			answers[of[i]] = err
		}
		if space == "" {
			d.drain()
		} else if _, err := d.follow(space, false); err != nil {
			for _, i := range of {
				if answers[i] == nil {
					answers[i] = err
				}
			}
		}
	}
	return answers
}

// step is how an operation begins; one is false if it is no single request to
// the kernel. A nil step has nothing to do.
func (d *Driver) step(op hostops.Op) (s *step, one bool, err error) {
	switch op := op.(type) {
	case hostops.SetNeighbour:
		s, err := d.neighbour(op.Object, op.Address, &op.MAC)
		return s, true, err
	case hostops.RemoveNeighbour:
		s, err := d.neighbour(op.Object, op.Address, nil)
		return s, true, err
	case hostops.CreateTunnel:
		s, err := d.createTunnel(op)
		return s, true, err
	case hostops.RemovePeer:
		if op.Peer.IsMulticast() {
			return nil, false, nil
		}
	case hostops.SetUp:
		if v := d.devices.byName(op.Object); v != nil && v.kind == "veth" && v.use() == hostops.UseMade {
			return nil, false, nil
		}
	case hostops.SetQuiet, hostops.SetLearning, hostops.SetOwner, hostops.SetAlias, hostops.SetMTU, hostops.SetMaster,
		hostops.SetIsolated, hostops.SetSending, hostops.SetStatic, hostops.SetAnswer, hostops.RemoveAnswer, hostops.SetDown, hostops.DeleteDevice,
		hostops.AddPeer, hostops.SetFDB, hostops.RemoveFDB, hostops.PinMAC, hostops.UnpinMAC:
	default:
		return nil, false, nil
	}
	v, err := d.own(op)
	if v == nil || err != nil {
		return nil, true, err
	}
	s, err = d.change(v, op)
	switch op.(type) {
	case hostops.SetAlias, hostops.SetOwner:
		if err == nil && !v.up && v.use() != hostops.UseVPC {
			return s.settle(func(answer error) error {
				if answer != nil {
					return answer
				}
				return d.refresh(v.index)
			}), true, nil
		}
	}
	return s, true, err
}

// own is the device of ours that an operation is on. It is nil, without an error,
// if what is to be removed is not there.
func (d *Driver) own(op hostops.Op) (*device, error) {
	v := d.devices.byName(op.On().Object)
	if v == nil {
		switch op.(type) {
		case hostops.DeleteDevice, hostops.RemovePeer, hostops.RemoveFDB, hostops.RemoveAnswer:
			return nil, nil
		}
		return nil, unix.ENODEV
	}
	if _, ours := v.ours(); !ours {
		return nil, hostops.ErrForeign
	}
	return v, nil
}

// change is for operations on a device that is there, of one request.
func (d *Driver) change(v *device, op hostops.Op) (*step, error) {
	m := linkMsg(v.index)
	switch op := op.(type) {
	case hostops.SetQuiet:
		return ask(unix.RTM_NEWLINK, 0, m, noAddrGen()), nil
	case hostops.SetLearning:
		return ask(unix.RTM_NEWLINK, 0, m, linkInfo("vxlan", attr(nl.IFLA_VXLAN_LEARNING, flag(op.Enabled)))), nil
	case hostops.SetOwner:
		return ask(unix.RTM_NEWLINK, 0, m, attr(unix.IFLA_GROUP, u32(hostops.GroupFor(v.use(), op.Owner)))), nil
	case hostops.SetAlias:
		return ask(unix.RTM_NEWLINK, 0, m, attr(unix.IFLA_IFALIAS, []byte(hostops.CleanAlias(op.Alias)))), nil
	case hostops.SetMTU:
		return ask(unix.RTM_NEWLINK, 0, m, attr(unix.IFLA_MTU, u32(uint32(op.MTU)))), nil
	case hostops.SetMaster:
		b := d.devices.byName(op.Bridge)
		if b == nil {
			return nil, fmt.Errorf("bridge %s: %w", op.Bridge, unix.ENODEV)
		}
		return ask(unix.RTM_NEWLINK, 0, m, attr(unix.IFLA_MASTER, u32(uint32(b.index)))), nil
	case hostops.SetIsolated:
		return portStep(v.index, attr(nl.IFLA_BRPORT_ISOLATED, flag(true))), nil
	case hostops.SetSending:
		return setSending(v, op.Enabled), nil
	case hostops.SetStatic:
		return setStatic(v), nil
	case hostops.SetAnswer:
		return answer(v, op.Address, &op.MAC), nil
	case hostops.RemoveAnswer:
		return answer(v, op.Address, nil), nil
	case hostops.SetUp:
		m.Flags, m.Change = unix.IFF_UP, unix.IFF_UP
		return ask(unix.RTM_NEWLINK, 0, m), nil
	case hostops.SetDown:
		m.Change = unix.IFF_UP
		return ask(unix.RTM_NEWLINK, 0, m), nil
	case hostops.DeleteDevice:
		if v.use() == hostops.UseLent {
			return nil, hostops.ErrForeign
		}
		return ask(unix.RTM_DELLINK, 0, m).but(unix.ENODEV), nil
	case hostops.AddPeer:
		return addPeer(v, op.Peer), nil
	case hostops.RemovePeer:
		return removePeer(v, op.Peer).but(unix.ENOENT), nil
	case hostops.SetFDB:
		return d.setFDB(v, op.MAC, op.Peer, op.Yields), nil
	case hostops.RemoveFDB:
		return d.removeFDB(v, op.MAC), nil
	case hostops.UnpinMAC:
		return fdb(v, unix.RTM_DELNEIGH, 0, unix.NUD_NOARP, unix.NTF_MASTER, op.MAC, netip.Addr{}).but(unix.ENOENT, unix.EOPNOTSUPP), nil
	case hostops.PinMAC:
		return fdb(v, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, unix.NUD_NOARP, unix.NTF_MASTER|ntfSticky, op.MAC, netip.Addr{}), nil
	}
	return nil, fmt.Errorf("%T: %w", op, hostops.ErrUnsupported)
}

// alone performs a step that nothing follows from.
func (c *conn) alone(s *step) error { return c.set(s.proto, s.flags, s.data...) }
