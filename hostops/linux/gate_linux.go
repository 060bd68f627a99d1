package linux

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

// Names of what gates ports, in the bridge family. The gate is open while setGate has
// its one element, which the kernel ends by itself.
const (
	setGated     = "gated"
	setGate      = "gate"
	chainGateIn  = "gate-in"
	chainGateOut = "gate-out"
	gateText     = "meshvpc gate"
)

// gateKey is the one element's.
func gateKey() []byte { return []byte{1, 0, 0, 0} }

func gatedSet() *nftables.Set {
	return &nftables.Set{Table: bridgeTable(), Name: setGated, KeyType: nftables.TypeIFName}
}

func gateSet() *nftables.Set {
	return &nftables.Set{Table: bridgeTable(), Name: setGate, KeyType: nftables.TypeInteger, HasTimeout: true}
}

// gateChains drop what passes a gated port, either way, while the gate is shut. They
// come before all that judges, so that what is dropped is learned by no bridge.
func gateChains() map[string]*nftables.Chain {
	chain := func(name string, hook *nftables.ChainHook) *nftables.Chain {
		return &nftables.Chain{Name: name, Table: bridgeTable(), Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityFilter - 10)}
	}
	return map[string]*nftables.Chain{
		chainGateIn:  chain(chainGateIn, nftables.ChainHookPrerouting),
		chainGateOut: chain(chainGateOut, nftables.ChainHookPostrouting),
	}
}

func gateRule(chain string) []expr.Any {
	name := expr.MetaKeyIIFNAME
	if chain == chainGateOut {
		name = expr.MetaKeyOIFNAME
	}
	return join([]expr.Any{
		&expr.Meta{Key: name, Register: regPort},
		&expr.Lookup{SourceRegister: regPort, SetName: setGated},
		&expr.Immediate{Register: regRest, Data: gateKey()},
		&expr.Lookup{SourceRegister: regRest, SetName: setGate, Invert: true},
	}, drop())
}

// gatePort gates a port. The first makes the gate, shut but for what it is known to be
// open for: an administrator may have wiped it.
func (f *filter) gatePort(device string) error {
	if f.state.NoShields {
		return fmt.Errorf("%w: this kernel has no CONFIG_NF_TABLES_BRIDGE", hostops.ErrUnsupported)
	}
	if !f.gates {
		if err := f.makeGate(); err != nil {
			return err
		}
	}
	if err := f.change(gatedSet(), []nftables.SetElement{{Key: ifName(device)}}, true); err != nil {
		return err
	}
	if err := f.flush(); err != nil {
		if unsupported(err) {
			f.state.NoShields = true
			return fmt.Errorf("%w: %w", hostops.ErrUnsupported, err)
		}
		return err
	}
	made := !f.gates
	if made || f.state.Gated == nil {
		f.state.Gated = map[string]struct{}{}
	}
	f.gates, f.state.Exists = true, true
	f.state.Gated[device] = struct{}{}
	if made {
		return f.gate.again()
	}
	return nil
}

// makeGate adds all of the gate to a transaction, in the place of what is left of an
// earlier one.
func (f *filter) makeGate() error {
	f.cc.AddTable(bridgeTable())
	chains := gateChains()
	for _, name := range []string{chainGateIn, chainGateOut} {
		f.cc.AddChain(chains[name]) // so that deleting it cannot fail
		f.cc.FlushChain(chains[name])
		f.cc.DelChain(chains[name])
	}
	for _, s := range []*nftables.Set{gatedSet(), gateSet()} {
		if err := f.cc.AddSet(s, nil); err != nil {
			return err
		}
		f.cc.DelSet(s)
		if err := f.cc.AddSet(s, nil); err != nil {
			return err
		}
	}
	for _, name := range []string{chainGateIn, chainGateOut} {
		f.cc.AddChain(chains[name])
		f.cc.AddRule(&nftables.Rule{Table: bridgeTable(), Chain: chains[name], Exprs: gateRule(name), UserData: comment(gateText)})
	}
	return nil
}

// ungatePorts takes ports out.
func (f *filter) ungatePorts(devices []string) error {
	var out []nftables.SetElement
	for _, device := range devices {
		if _, is := f.state.Gated[device]; is {
			out = append(out, nftables.SetElement{Key: ifName(device)})
		}
	}
	if len(out) == 0 {
		return nil
	}
	if err := f.change(gatedSet(), out, false); err != nil {
		return err
	}
	if err := f.flush(); err != nil {
		return err
	}
	for _, device := range devices {
		delete(f.state.Gated, device)
	}
	return nil
}

// readGate reads which ports are gated: none, unless all of the gate is in place.
func (f *filter) readGate(s *hostops.Filter, chains []*nftables.Chain) error {
	t := bridgeTable()
	for _, name := range []string{chainGateIn, chainGateOut} {
		i := slices.IndexFunc(chains, func(c *nftables.Chain) bool { return c.Name == name })
		if i < 0 || chains[i].Hooknum == nil {
			return nil
		}
		f.requests.Add(1)
		rs, err := f.cc.GetRules(t, chains[i])
		if err != nil {
			return err
		}
		if !isRule(rs, gateText, gateRule(name)) {
			return nil
		}
	}
	f.requests.Add(1) // a set that a rule asks cannot be taken away
	elems, err := f.cc.GetSetElements(gatedSet())
	if err != nil {
		return err
	}
	s.Gated = map[string]struct{}{}
	for _, e := range elems {
		if len(e.Key) == ifNameSize {
			s.Gated[cstr(e.Key)] = struct{}{}
		}
	}
	f.gates = true
	return nil
}

// gate is what moves the time at which the gate shuts: by a socket of its own, so that
// it waits for nothing that is done to the host otherwise.
type gate struct {
	ns       int
	requests *atomic.Uint64
	pid      atomic.Uint32

	mu    sync.Mutex
	cc    *nftables.Conn
	until time.Duration // as last set; 0: not by this driver
}

func openGate(ns int, requests *atomic.Uint64) (*gate, error) {
	g := &gate{ns: ns, requests: requests}
	return g, g.dial()
}

func (g *gate) dial() error {
	cc, pid, err := dialNFT(g.ns)
	if err != nil {
		return err
	}
	g.cc = cc
	g.pid.Store(pid)
	return nil
}

// sent reports whether a transaction was the gate's.
func (g *gate) sent(pid uint32) bool { return g != nil && pid == g.pid.Load() }

func (g *gate) close() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cc != nil {
		// There is nothing to do if closing a socket fails that is ours alone.
		_ = g.cc.CloseLasting()
		g.cc = nil
	}
}

// again sets what was set last in a gate that was made anew.
func (g *gate) again() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.until == 0 {
		return nil
	}
	return g.set(g.until)
}

// setTries is how often a time is set that comes nearer while that is done.
const setTries = 5

// set has the element end at a time of uptime. The kernel counts what is left from when
// it reads it: if that took long, as when the process was stopped in between, it is set
// anew.
func (g *gate) set(until time.Duration) error {
	for range setTries {
		now := uptime()
		if err := g.replace(until - now); err != nil {
			return err
		}
		g.until = until
		if until <= now || uptime()-now < hostops.GateDelay/2 {
			return nil
		}
	}
	g.until = 0
	return errors.Join(errors.New("this host is too slow to shut the gate in time"), g.replace(0))
}

// replace puts an element that ends after left in the place of the one that is there,
// if any; without time left it takes that out.
func (g *gate) replace(left time.Duration) error {
	g.requests.Add(1)
	if g.cc == nil {
		if err := g.dial(); err != nil {
			return err
		}
	}
	g.cc.FlushSet(gateSet())
	if left = left.Truncate(time.Millisecond); left > 0 {
		if err := g.cc.SetAddElements(gateSet(), []nftables.SetElement{{Key: gateKey(), Timeout: left}}); err != nil {
			return err
		}
	}
	err := g.cc.Flush()
	if err == nil {
		return nil
	}
	_ = g.cc.CloseLasting() // as in filter.flush
	g.cc = nil
	if errors.Is(err, unix.ENOENT) {
		return nil // there is no gate; one that is made is set then
	}
	return err
}

// read tells when the element ends.
func (g *gate) read() (time.Duration, error) {
	g.requests.Add(1)
	if g.cc == nil {
		if err := g.dial(); err != nil {
			return 0, err
		}
	}
	now := uptime()
	elems, err := g.cc.GetSetElements(gateSet())
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, e := range elems {
		return now + e.Expires, nil
	}
	return 0, nil
}

// uptime is CLOCK_BOOTTIME: what goes on while the host is suspended.
func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return math.MaxInt64 // every kernel since 2.6.39 has it; without it nothing is open
	}
	return time.Duration(t.Nano())
}

var _ hostops.Gater = (*Driver)(nil)

// Uptime implements hostops.Gater.
func (d *Driver) Uptime() time.Duration { return uptime() }

// GateUntil implements hostops.Gater.
func (d *Driver) GateUntil() (time.Duration, error) {
	g := d.filter.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	until, err := g.read()
	if err != nil {
		return 0, fmt.Errorf("read gate: %w", err)
	}
	return until, nil
}

// SetGate implements hostops.Gater.
func (d *Driver) SetGate(until time.Duration) error {
	g := d.filter.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.set(until); err != nil {
		return fmt.Errorf("set gate: %w", err)
	}
	return nil
}
