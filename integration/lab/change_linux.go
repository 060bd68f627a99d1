package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"
)

// What changes a lab. supervisor.change is held throughout; only what is done to
// services is not in the way of anything else.

func (s *supervisor) addHost(cfg HostConfig) (any, error) {
	s.change.Lock()
	defer s.change.Unlock()
	n, err := s.newNode(cfg)
	if err != nil {
		return nil, err
	}
	if err := s.powerOn(n); err != nil {
		return nil, errors.Join(err, s.forget(n))
	}
	if err := s.applyCuts(); err != nil {
		return nil, err
	}
	return s.describe(n)
}

// newNode enters a host in the books and makes its disk.
func (s *supervisor) newNode(cfg HostConfig) (*node, error) {
	if _, err := s.find(cfg.Name); err == nil {
		return nil, fmt.Errorf("add host %s: %w", cfg.Name, ErrExists)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	subnet, err := s.subnets.take(s.cfg.Underlay.room())
	if err != nil {
		return nil, fmt.Errorf("add host %s: %w", cfg.Name, err)
	}
	d := diskOf(s.cfg.Dir, cfg.Name)
	for _, dir := range []string{d.Etc, d.Var, d.Run, d.Log} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			s.subnets.giveBack(subnet)
			return nil, fmt.Errorf("add host %s: %w", cfg.Name, err)
		}
	}
	n := &node{HostConfig: cfg, ends: s.underlay(cfg).ends(subnet)}
	s.nodes = append(s.nodes, n)
	return n, nil
}

// underlay says which families a host has.
func (s *supervisor) underlay(h HostConfig) Underlay {
	if h.Underlay != "" {
		return h.Underlay
	}
	return s.cfg.Underlay
}

// needStranger makes the stranger when it is first spoken to.
func (s *supervisor) needStranger() error {
	s.change.Lock()
	defer s.change.Unlock()
	n, err := s.find(Stranger)
	if err != nil {
		if n, err = s.newNode(HostConfig{Name: Stranger}); err != nil {
			return err
		}
	}
	if err := s.powerOn(n); err != nil {
		return errors.Join(err, s.forget(n))
	}
	return s.applyCuts()
}

func (s *supervisor) removeHost(t target) (any, error) {
	s.change.Lock()
	defer s.change.Unlock()
	n, err := s.find(t.Name)
	if err != nil {
		return nil, err
	}
	if err := s.cutPower(n); err != nil {
		return nil, err
	}
	return nil, s.forget(n)
}

// forget strikes a host that is off from the books and removes its disk.
func (s *supervisor) forget(n *node) error {
	s.mu.Lock()
	s.nodes = slices.DeleteFunc(s.nodes, func(x *node) bool { return x == n })
	s.subnets.giveBack(n.ends.Subnet)
	s.mu.Unlock()
	if err := os.RemoveAll(filepath.Join(s.cfg.Dir, "hosts", n.Name)); err != nil {
		return fmt.Errorf("remove disk of host %s: %w", n.Name, err)
	}
	return nil
}

func (s *supervisor) setServices(t target) (any, error) {
	s.change.Lock()
	defer s.change.Unlock()
	n, err := s.find(t.Name)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, svc := range t.Services {
		if err := checkName("service", svc.Name); err != nil {
			return nil, err
		}
		if seen[svc.Name] || len(svc.Argv) == 0 {
			return nil, fmt.Errorf("set services of host %s: %s is there twice or has no command", t.Name, svc.Name)
		}
		seen[svc.Name] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n.services = t.Services
	return nil, nil
}

// services serves what is done to a host's services.
func (s *supervisor) services(op string) func(target) (any, error) {
	return func(t target) (any, error) {
		n, err := s.find(t.Name)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		chosen := slices.Clone(n.services)
		s.mu.Unlock()
		if t.Only != "" {
			chosen = slices.DeleteFunc(chosen, func(svc Service) bool { return svc.Name != t.Only })
		}
		if len(chosen) == 0 && t.Only != "" {
			return nil, fmt.Errorf("service %s of host %s: %w", t.Only, t.Name, ErrNotFound)
		}
		if len(chosen) == 0 {
			return nil, fmt.Errorf("services of host %s: it has none: %w", t.Name, ErrNotFound)
		}
		return nil, s.ask(n, op, chosen, nil)
	}
}

func (s *supervisor) cut(c Cut) (any, error) {
	s.change.Lock()
	defer s.change.Unlock()
	if err := s.checkSides("cut", c.A, c.B); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.cuts = append(s.cuts, c)
	s.mu.Unlock()
	return nil, s.applyCuts()
}

func (s *supervisor) impair(i Impairment) (any, error) {
	s.change.Lock()
	defer s.change.Unlock()
	if err := s.checkSides("impair", i.A, i.B); err != nil {
		return nil, err
	}
	if i.Delay < 0 || i.Loss < 0 || i.Loss > 1 {
		return nil, fmt.Errorf("impair %s: delay %v, loss %v: want no less than 0, and a loss of at most 1", i.A, i.Delay, i.Loss)
	}
	s.mu.Lock()
	s.impaired = append(s.impaired, i)
	s.mu.Unlock()
	return nil, s.applyCuts()
}

// checkSides wants two sides that are there and not one host; b "" is everybody else.
func (s *supervisor) checkSides(verb, a, b string) error {
	for _, side := range []string{a, b} {
		if side == "" && side != a {
			continue
		}
		list, err := s.side(side)
		if err != nil {
			return fmt.Errorf("%s %s: %w", verb, a, err)
		}
		if a == b && len(list) == 1 {
			return fmt.Errorf("%s %s from itself: name two sides, or one to %s it from everybody else", verb, a, verb)
		}
	}
	return nil
}

func (s *supervisor) heal(struct{}) (any, error) {
	s.change.Lock()
	defer s.change.Unlock()
	s.mu.Lock()
	s.cuts, s.impaired = nil, nil
	s.mu.Unlock()
	return nil, s.applyCuts()
}

// applyCuts tells the router which directions are closed now, and which impaired.
func (s *supervisor) applyCuts() error {
	s.mu.Lock()
	var places []place
	addresses := map[int][]netip.Addr{}
	for _, n := range s.nodes {
		if n.power == nil {
			continue
		}
		places = append(places, place{n.Name, n.Datacenter, n.power.device})
		for _, p := range n.ends.Host {
			addresses[n.power.device] = append(addresses[n.power.device], p.Addr())
		}
	}
	closed := severed(places, s.cuts)
	lanes := impaired(places, s.impaired, closed)
	s.mu.Unlock()
	return errors.Join(s.router.drop(closed), s.router.impair(lanes, addresses))
}

func (s *supervisor) readdress(t target) (any, error) {
	s.change.Lock()
	defer s.change.Unlock()
	n, err := s.find(t.Name)
	if err != nil {
		return nil, err
	}
	p, err := s.powerOf(n)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	subnet, err := s.subnets.take(s.cfg.Underlay.room())
	s.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("readdress host %s: %w", n.Name, err)
	}
	old := n.ends
	fresh := s.underlay(n.HostConfig).ends(subnet)
	if err := s.router.address(p.device, fresh.Router); err != nil {
		return nil, err
	}
	if err := p.ask(n, opSetUnderlay, fresh, nil); err != nil {
		return nil, err
	}
	if err := ready(p.device); err != nil {
		return nil, err
	}
	if err := s.router.unaddress(p.device, old.Router); err != nil {
		return nil, err
	}
	s.mu.Lock()
	n.ends = fresh
	s.subnets.giveBack(old.Subnet)
	s.mu.Unlock()
	if err := s.applyCuts(); err != nil {
		return nil, err
	}
	return s.describe(n)
}

func (s *supervisor) powerOff(t target) (any, error) {
	return s.each(t.Name, s.cutPower)
}

func (s *supervisor) boot(t target) (any, error) {
	return s.each(t.Name, func(n *node) error {
		if err := s.powerOn(n); err != nil {
			return err
		}
		s.mu.Lock()
		services := slices.Clone(n.services)
		s.mu.Unlock()
		if len(services) == 0 {
			return nil
		}
		return s.ask(n, opStart, services, nil)
	})
}

// each does something to a host, or to all hosts of a datacenter at a time, and
// then lets the cuts follow.
func (s *supervisor) each(side string, do func(*node) error) (any, error) {
	s.change.Lock()
	defer s.change.Unlock()
	list, err := s.side(side)
	if err != nil {
		return nil, err
	}
	var group errgroup.Group
	group.SetLimit(parallel)
	for _, n := range list {
		group.Go(func() error { return do(n) })
	}
	return nil, errors.Join(group.Wait(), s.applyCuts())
}
