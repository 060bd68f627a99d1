package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// hostConfig is what the supervisor hands to a host's init.
type hostConfig struct {
	HostConfig
	Lab    string `json:"lab"`
	Dir    string `json:"dir"`
	Binary string `json:"binary"`
}

// powerOn starts a host's init in fresh namespaces and links it to the router.
// A host that is on stays so.
func (s *supervisor) powerOn(n *node) error {
	if _, err := s.powerOf(n); err == nil {
		return nil
	}
	p, err := s.startInit(n)
	if err != nil {
		return fmt.Errorf("boot host %s: %w", n.Name, err)
	}
	if err := s.connect(n, p); err != nil {
		p.control.Close()
		_ = s.children.kill(p.init, false) // it may have ended by itself: err says why
		return fmt.Errorf("boot host %s: %w", n.Name, err)
	}
	s.mu.Lock()
	n.power = p
	s.mu.Unlock()
	go func() { // ends with the host's init
		<-p.init.done
		s.lost(n, p)
	}()
	return nil
}

// startInit starts the process.
func (s *supervisor) startInit(n *node) (*power, error) {
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	log, err := os.OpenFile(filepath.Join(diskOf(s.cfg.Dir, n.Name).Log, "init.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	attr := &syscall.ProcAttr{Dir: "/", Env: os.Environ(), Sys: &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS,
		Setsid:     true,
	}}
	init, err := s.children.start("/proc/self/exe", []string{s.cfg.Binary, stageWord, "host", n.Name}, attr, null, log, log, theirs)
	if err != nil {
		ours.Close()
		return nil, explainClone(err)
	}
	return &power{init: init, control: ours}, nil
}

// connect exchanges the first words with a host's init and lays its cable.
func (s *supervisor) connect(n *node, p *power) error {
	m, err := request("", n.Name, hostConfig{n.HostConfig, s.cfg.Name, s.cfg.Dir, s.cfg.Binary})
	if err != nil {
		return err
	}
	if err := p.control.send(m); err != nil {
		return err
	}
	m, files, err := p.control.receive()
	if err != nil {
		return fmt.Errorf("wait for its init: %w", err)
	}
	defer closeAll(files)
	if err := m.err(); err != nil {
		return err
	}
	if len(files) != 1 {
		return fmt.Errorf("wait for its init: it sent %d namespaces, want 1", len(files))
	}
	if p.device, err = s.router.plug(files[0], n.ends.Router); err != nil {
		return err
	}
	if err := p.ask(n, opSetUnderlay, n.ends, nil); err != nil {
		return err
	}
	return ready(p.device)
}

// cutPower kills a host's init, and with it all that runs there.
func (s *supervisor) cutPower(n *node) error {
	p, err := s.powerOf(n)
	if err != nil {
		return nil // off already
	}
	if err := s.children.kill(p.init, false); err != nil {
		return fmt.Errorf("power off host %s: %w", n.Name, err)
	}
	s.lost(n, p)
	if err := s.router.unplug(p.device); err != nil {
		return fmt.Errorf("power off host %s: %w", n.Name, err)
	}
	return nil
}

// lost notes that a host's init is gone.
func (s *supervisor) lost(n *node, p *power) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.power == p {
		n.power = nil
		p.control.Close()
	}
}
