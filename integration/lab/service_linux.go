package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// service is a process of the host that goes on.
type service struct {
	Service
	proc   *process
	frozen bool // by us
}

func (s *service) state() ServiceState {
	st := ServiceState{Service: s.Service}
	switch {
	case !s.proc.ended() && s.frozen:
		st.State, st.PID = "frozen", s.proc.pid
	case !s.proc.ended():
		st.State, st.PID = "running", s.proc.pid
	case s.proc.status.Signaled():
		st.State = "signal " + s.proc.status.Signal().String()
	default:
		st.State = fmt.Sprintf("exit %d", s.proc.status.ExitStatus())
	}
	return st
}

// startServices starts those that do not run.
func (h *host) startServices(list []Service) (any, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, def := range list {
		if s := h.services[def.Name]; s != nil && !s.proc.ended() {
			continue
		}
		p, err := h.startService(def)
		if err != nil {
			errs = append(errs, fmt.Errorf("start %s on host %s: %w", def.Name, h.cfg.Name, err))
			continue
		}
		h.services[def.Name] = &service{Service: def, proc: p}
	}
	return nil, errors.Join(errs...)
}

func (h *host) startService(def Service) (*process, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	d := diskOf(h.cfg.Dir, h.cfg.Name)
	log, err := os.OpenFile(filepath.Join(d.Log, def.Name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	env := h.environment(slices.Concat(os.Environ(), def.Env))
	path, err := lookPath(def.Argv[0], env)
	if err != nil {
		return nil, err
	}
	attr := &syscall.ProcAttr{Dir: d.Var, Env: env, Sys: &syscall.SysProcAttr{Setsid: true}}
	return h.children.start(path, def.Argv, attr, null, log, log)
}

func (h *host) killServices(list []Service) (any, error) {
	return h.signalServices(list, syscall.SIGKILL, func(s *service) error { return h.children.gone(s.proc) })
}

func (h *host) freezeServices(list []Service) (any, error) {
	return h.signalServices(list, syscall.SIGSTOP, func(s *service) error {
		s.frozen = true
		h.children.settle(s.proc, true)
		return nil
	})
}

func (h *host) thawServices(list []Service) (any, error) {
	return h.signalServices(list, syscall.SIGCONT, func(s *service) error {
		s.frozen = false
		h.children.settle(s.proc, false)
		return nil
	})
}

// signalServices signals those that run, each with all of its process group.
func (h *host) signalServices(list []Service, sig syscall.Signal, then func(*service) error) (any, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, def := range list {
		s := h.services[def.Name]
		if s == nil || s.proc.ended() {
			continue
		}
		if err := h.children.signal(s.proc, sig, true); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, then(s))
	}
	return nil, errors.Join(errs...)
}
