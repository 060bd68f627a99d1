package lab

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"
)

// supervisorConfig is what Start hands to the supervisor.
type supervisorConfig struct {
	Config
	Dir  string `json:"dir"`
	Base string `json:"base"`
}

// supervisor is the first process of a lab and the init of its PID namespace:
// its death ends all of the lab. Its network namespace is the internet.
type supervisor struct {
	cfg      supervisorConfig
	children *reaper
	router   *router
	handlers map[string]handler

	change sync.Mutex // one change of the lab at a time

	mu       sync.Mutex
	nodes    []*node // in the order of their making; a stranger is one
	cuts     []Cut
	impaired []Impairment
	subnets  subnets
}

// node is a host as the supervisor sees it.
type node struct {
	HostConfig
	ends     ends
	services []Service

	// Guarded by supervisor.mu; nil when powered off.
	power *power
}

// power is a host that is on.
type power struct {
	init    *process
	control *conn // a request sent here brings its own connection
	send    sync.Mutex
	device  int // the router's end of the host's link
}

// superviseLab is the supervisor's main.
func superviseLab() error {
	syscall.CloseOnExec(fdLock)
	c, err := control()
	if err != nil {
		return err
	}
	m, _, err := c.receive()
	if err != nil {
		return fmt.Errorf("receive configuration: %w", err)
	}
	var cfg supervisorConfig
	if err := m.decode(&cfg); err != nil {
		return err
	}
	s := &supervisor{cfg: cfg, children: newReaper()}
	s.handlers = map[string]handler{
		opStatus:      handle(s.status),
		opHost:        handle(s.host),
		opAddHost:     handle(s.addHost),
		opRemoveHost:  handle(s.removeHost),
		opSetServices: handle(s.setServices),
		opStart:       handle(s.services(opStart)),
		opKill:        handle(s.services(opKill)),
		opFreeze:      handle(s.services(opFreeze)),
		opThaw:        handle(s.services(opThaw)),
		opCut:         handle(s.cut),
		opImpair:      handle(s.impair),
		opHeal:        handle(s.heal),
		opReaddress:   handle(s.readdress),
		opPowerOff:    handle(s.powerOff),
		opBoot:        handle(s.boot),
	}
	listener, err := s.setUp()
	if err := c.send(answer(nil, err)); err != nil {
		return err
	}
	if err != nil {
		return nil // said already
	}
	down := make(chan struct{}, 2)
	if !cfg.Detached {
		go func() { // ends with the process
			_, _, _ = c.receive() // nothing comes but the end
			down <- struct{}{}
		}()
	}
	go s.accept(listener, down)
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	select {
	case <-down:
	case <-asked:
	}
	return errors.Join(s.killAll(), unmake(cfg.Base, cfg.Name)) // the kernel ends the rest with us
}

// killAll ends all hosts, so that nobody writes to their disks any more.
func (s *supervisor) killAll() error {
	s.mu.Lock()
	var inits []*process
	for _, n := range s.nodes {
		if n.power != nil {
			inits = append(inits, n.power.init)
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, p := range inits {
		errs = append(errs, s.children.signal(p, syscall.SIGKILL, false))
	}
	for _, p := range inits {
		<-p.done
	}
	return errors.Join(errs...)
}

// setUp makes the internet and the first hosts, and opens the socket.
func (s *supervisor) setUp() (*net.UnixListener, error) {
	if err := privateMounts(); err != nil {
		return nil, err
	}
	var err error
	if s.router, err = newRouter(s.cfg.MTU, s.cfg.Segment); err != nil {
		return nil, err
	}
	var group errgroup.Group
	group.SetLimit(parallel)
	for _, h := range s.cfg.Hosts {
		n, err := s.newNode(h)
		if err != nil {
			return nil, errors.Join(err, group.Wait())
		}
		group.Go(func() error { return s.powerOn(n) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return listen(s.cfg.Dir)
}

// parallel is how many hosts are started or stopped at a time.
const parallel = 8

func (s *supervisor) accept(l *net.UnixListener, down chan<- struct{}) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			fmt.Fprintf(os.Stderr, "accept command: %v\n", err)
			down <- struct{}{}
			return
		}
		go s.dispatch(newConn(c), down)
	}
}

// dispatch serves one connection, or hands it to the host that it is for.
func (s *supervisor) dispatch(conn *conn, down chan<- struct{}) {
	m, files, err := conn.receive()
	if err != nil {
		conn.Close() // a caller that only looked whether we are here
		if !errors.Is(err, io.EOF) {
			fmt.Fprintf(os.Stderr, "receive command: %v\n", err)
		}
		return
	}
	c := &call{message: m, conn: conn, files: files}
	if m.Op == opDown {
		down <- struct{}{} // the connection ends with the process
		return
	}
	if h := s.handlers[m.Op]; h != nil {
		c.serve(h)
		return
	}
	if err := s.forward(c); err != nil {
		c.serve(func(*call) (any, error) { return nil, err })
		return
	}
	closeAll(files)
	conn.Close()
}

// forward hands a call to its host, which answers it.
func (s *supervisor) forward(c *call) error {
	if c.Host == Stranger {
		if err := s.needStranger(); err != nil {
			return err
		}
	}
	n, err := s.find(c.Host)
	if err != nil {
		return err
	}
	p, err := s.powerOf(n)
	if err != nil {
		return err
	}
	f, err := c.conn.File()
	if err != nil {
		return fmt.Errorf("hand over connection: %w", err)
	}
	defer f.Close()
	return p.post(n, c.message, append([]*os.File{f}, c.files...)...)
}

func (p *power) post(n *node, m message, files ...*os.File) error {
	p.send.Lock()
	defer p.send.Unlock()
	if err := p.control.send(m, files...); err != nil {
		return fmt.Errorf("reach host %s: %w", n.Name, err)
	}
	return nil
}

// ask calls a host for the supervisor's own purposes.
func (s *supervisor) ask(n *node, op string, body, out any) error {
	p, err := s.powerOf(n)
	if err != nil {
		return err
	}
	return p.ask(n, op, body, out)
}

func (p *power) ask(n *node, op string, body, out any) error {
	m, err := request(op, n.Name, body)
	if err != nil {
		return err
	}
	ours, theirs, err := socketpair()
	if err != nil {
		return err
	}
	defer ours.Close()
	err = p.post(n, m, theirs)
	theirs.Close()
	if err != nil {
		return err
	}
	m, _, err = ours.receive()
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("ask host %s: %w", n.Name, ErrPoweredOff)
	}
	if err != nil {
		return fmt.Errorf("ask host %s: %w", n.Name, err)
	}
	if err := m.err(); err != nil {
		return err
	}
	return m.decode(out)
}

func (s *supervisor) find(name string) (*node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("host %s: %w", name, ErrNotFound)
}

// side returns the host of that name, or all hosts of the datacenter.
func (s *supervisor) side(name string) ([]*node, error) {
	if n, err := s.find(name); err == nil {
		return []*node{n}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*node
	for _, n := range s.nodes {
		if n.Datacenter == name {
			list = append(list, n)
		}
	}
	if list == nil {
		return nil, fmt.Errorf("host or datacenter %s: %w", name, ErrNotFound)
	}
	return list, nil
}

func (s *supervisor) powerOf(n *node) (*power, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.power == nil {
		return nil, fmt.Errorf("host %s: %w", n.Name, ErrPoweredOff)
	}
	return n.power, nil
}

func (s *supervisor) status(struct{}) (any, error) {
	s.mu.Lock()
	st := Status{Name: s.cfg.Name, Underlay: s.cfg.Underlay, MTU: s.cfg.MTU, Cuts: slices.Clone(s.cuts), Impaired: slices.Clone(s.impaired)}
	nodes := slices.Clone(s.nodes)
	s.mu.Unlock()
	for _, n := range nodes {
		if n.Name == Stranger {
			continue
		}
		h, err := s.describe(n)
		if err != nil {
			return nil, err
		}
		st.Hosts = append(st.Hosts, h)
	}
	return st, nil
}

func (s *supervisor) host(t target) (any, error) {
	n, err := s.find(t.Name)
	if err != nil {
		return nil, err
	}
	return s.describe(n)
}

// describe asks a host that is on what it does.
func (s *supervisor) describe(n *node) (Host, error) {
	s.mu.Lock()
	h := Host{HostConfig: n.HostConfig, Underlay: n.ends.Host, On: n.power != nil}
	services := slices.Clone(n.services)
	s.mu.Unlock()
	var live Host
	err := s.ask(n, opHostStatus, nil, &live)
	if errors.Is(err, ErrPoweredOff) {
		h.On = false
	} else if err != nil {
		return h, err
	}
	h.Workloads = live.Workloads
	for _, svc := range services {
		state := ServiceState{Service: svc, State: "stopped"}
		for _, l := range live.Services {
			if l.Name == svc.Name {
				state.State, state.PID = l.State, l.PID
			}
		}
		h.Services = append(h.Services, state)
	}
	return h, nil
}
