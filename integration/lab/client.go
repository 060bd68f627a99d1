package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Lab is a running lab. Its methods may be called from any goroutine, and from
// any process of the user that started it. A method's context bounds the
// waiting, not the effect.
type Lab struct {
	name string
	dir  string
	tied *tie // nil unless this process started it and it ends with us
}

// Open returns the running lab of that name; "" is DefaultName. It is
// ErrNotFound when none runs.
func Open(name string) (*Lab, error) {
	if name == "" {
		name = DefaultName
	}
	if err := checkName("lab", name); err != nil {
		return nil, err
	}
	base, err := openBase()
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open lab %s: %w", name, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	l := &Lab{name: name, dir: filepath.Join(base, name)}
	c, err := l.dial()
	if err != nil {
		return nil, err
	}
	return l, c.Close()
}

// List names the labs of this user that run, sorted.
func List() ([]string, error) {
	base, err := openBase()
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(base)
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		_, err := Open(e.Name())
		if err == nil {
			names = append(names, e.Name())
		} else if !errors.Is(err, ErrNotFound) {
			return nil, err
		}
	}
	return names, nil
}

// Name of the lab.
func (l *Lab) Name() string { return l.name }

// Dir is the lab's directory.
func (l *Lab) Dir() string { return l.dir }

// Disk returns a host's directories. They exist from the moment the host was
// made, powered on or not, and may be written from here.
func (l *Lab) Disk(host string) Disk { return diskOf(l.dir, host) }

func diskOf(dir, host string) Disk {
	d := filepath.Join(dir, "hosts", host)
	return Disk{Etc: filepath.Join(d, "etc"), Var: filepath.Join(d, "var"), Run: filepath.Join(d, "run"), Log: filepath.Join(d, "log")}
}

// Status lists the hosts, in the order in which they were made.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, l.call(ctx, opStatus, "", nil, &s)
}

// Host returns the state of one host.
func (l *Lab) Host(ctx context.Context, name string) (Host, error) {
	var h Host
	return h, l.call(ctx, opHost, "", target{Name: name}, &h)
}

// AddHost makes one host more, with an empty disk and no services.
func (l *Lab) AddHost(ctx context.Context, host HostConfig) (Host, error) {
	var h Host
	if err := host.validate(); err != nil {
		return h, err
	}
	return h, l.call(ctx, opAddHost, "", host, &h)
}

// RemoveHost powers a host off and removes its disk.
func (l *Lab) RemoveHost(ctx context.Context, host string) error {
	return l.call(ctx, opRemoveHost, "", target{Name: host}, nil)
}

// SetServices says which services a host has, in the order of their start.
// What runs goes on: it is asked for by StartServices and Boot.
func (l *Lab) SetServices(ctx context.Context, host string, services ...Service) error {
	return l.call(ctx, opSetServices, "", target{Name: host, Services: services}, nil)
}

// StartServices starts a host's services that do not run: all, or only the one
// named.
func (l *Lab) StartServices(ctx context.Context, host, only string) error {
	return l.call(ctx, opStart, "", target{Name: host, Only: only}, nil)
}

// Kill ends a host's services, all or only the one named, by SIGKILL, and
// returns when they are gone. What they made in the kernel stays.
func (l *Lab) Kill(ctx context.Context, host, only string) error {
	return l.call(ctx, opKill, "", target{Name: host, Only: only}, nil)
}

// Freeze stops a host's services, all or only the one named, by SIGSTOP.
func (l *Lab) Freeze(ctx context.Context, host, only string) error {
	return l.call(ctx, opFreeze, "", target{Name: host, Only: only}, nil)
}

// Thaw continues what Freeze stopped.
func (l *Lab) Thaw(ctx context.Context, host, only string) error {
	return l.call(ctx, opThaw, "", target{Name: host, Only: only}, nil)
}

// Cut drops every packet between two hosts or datacenters, in both directions,
// until Heal; b "" is everybody else, strangers included. Cuts add up, and hold
// for hosts that come later.
func (l *Lab) Cut(ctx context.Context, a, b string) error {
	return l.call(ctx, opCut, "", Cut{A: a, B: b}, nil)
}

// OneWay drops every packet from a host or datacenter to another, until Heal; what
// comes the other way arrives. Otherwise it is as Cut.
func (l *Lab) OneWay(ctx context.Context, from, to string) error {
	return l.call(ctx, opCut, "", Cut{A: from, B: to, OneWay: true}, nil)
}

// Impair delays or loses packets between two hosts or datacenters, until Heal.
// Otherwise it is as Cut.
func (l *Lab) Impair(ctx context.Context, i Impairment) error {
	return l.call(ctx, opImpair, "", i, nil)
}

// Heal ends all cuts and impairments.
func (l *Lab) Heal(ctx context.Context) error { return l.call(ctx, opHeal, "", nil, nil) }

// Readdress moves a host to another subnet of the underlay. The old addresses
// are gone when it returns; the host comes with the new ones.
func (l *Lab) Readdress(ctx context.Context, host string) (Host, error) {
	var h Host
	return h, l.call(ctx, opReaddress, "", target{Name: host}, &h)
}

// PowerOff kills every process of a host, or of each host of a datacenter, and
// destroys its namespaces. The disk stays. A host that is off stays so.
func (l *Lab) PowerOff(ctx context.Context, side string) error {
	return l.call(ctx, opPowerOff, "", target{Name: side}, nil)
}

// Boot starts a host, or each host of a datacenter, with an empty kernel, the
// old disk and the old underlay addresses, and its services. A host that is on
// stays so.
func (l *Lab) Boot(ctx context.Context, side string) error {
	return l.call(ctx, opBoot, "", target{Name: side}, nil)
}

// AddWorkload makes a workload. It is an error if the VPC's bridge is not on
// the host.
func (l *Lab) AddWorkload(ctx context.Context, w Workload) error {
	return l.call(ctx, opAddWorkload, w.Host, w, nil)
}

// RemoveWorkload removes a workload and its port.
func (l *Lab) RemoveWorkload(ctx context.Context, host, name string) error {
	return l.call(ctx, opRemoveWorkload, host, Workload{Host: host, Name: name}, nil)
}

// Ping sends p.Count echo requests and returns when all are answered or late.
// Lost requests are in the result, not in the error.
func (l *Lab) Ping(ctx context.Context, p Ping) (PingResult, error) {
	if p.Count == 0 {
		p.Count = 3
	}
	r, err := l.StartPing(ctx, p)
	if err != nil {
		return PingResult{}, err
	}
	return r.wait(ctx)
}

// StartPing begins a Ping and returns when its socket is open. With Count 0 it
// goes on until stopped.
func (l *Lab) StartPing(ctx context.Context, p Ping) (*PingRun, error) {
	c, err := l.begin(ctx, opPing, p.Host, p)
	if err != nil {
		return nil, err
	}
	return &PingRun{run[PingResult]{c}}, nil
}

// SendFrames puts frames on a device and returns when all are handed to it.
func (l *Lab) SendFrames(ctx context.Context, f Frames) error {
	return l.call(ctx, opSendFrames, f.Host, f, nil)
}

// SendUDP sends datagrams, from any source address.
func (l *Lab) SendUDP(ctx context.Context, d Datagrams) error {
	return l.call(ctx, opSendUDP, d.Host, d, nil)
}

// StartSniff begins to count; every frame after its return is seen.
func (l *Lab) StartSniff(ctx context.Context, s Sniff) (*SniffRun, error) {
	c, err := l.begin(ctx, opSniff, s.Host, s)
	if err != nil {
		return nil, err
	}
	return &SniffRun{run[SniffResult]{c}}, nil
}

// PingRun is a ping under way. Stop must be called once.
type PingRun struct{ run[PingResult] }

// SniffRun is a count under way. Stop must be called once.
type SniffRun struct{ run[SniffResult] }

// run is a call that goes on until told to stop.
type run[T any] struct{ c *conn }

// Stop ends it and returns what it saw. A ping waits for the replies that may
// still come in time.
func (r run[T]) Stop(ctx context.Context) (T, error) {
	var zero T
	if err := r.c.send(message{Op: opStop}); err != nil {
		r.c.Close()
		return zero, err
	}
	return r.wait(ctx)
}

func (r run[T]) wait(ctx context.Context) (T, error) {
	var v T
	defer r.c.Close()
	return v, finish(ctx, r.c, &v)
}

// target is the body of most requests to the supervisor.
type target struct {
	Name     string    `json:"name"`
	Only     string    `json:"only,omitempty"`
	Services []Service `json:"services,omitempty"`
}

// call sends one request and decodes the answer into out.
func (l *Lab) call(ctx context.Context, op, host string, body, out any, files ...*os.File) error {
	c, err := l.open(op, host, body, files...)
	if err != nil {
		return err
	}
	defer c.Close()
	return finish(ctx, c, out)
}

// begin sends a request that is answered twice: when it is under way, and with
// its result.
func (l *Lab) begin(ctx context.Context, op, host string, body any) (*conn, error) {
	c, err := l.open(op, host, body)
	if err != nil {
		return nil, err
	}
	if err := finish(ctx, c, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (l *Lab) open(op, host string, body any, files ...*os.File) (*conn, error) {
	m, err := request(op, host, body)
	if err != nil {
		return nil, err
	}
	c, err := l.dial()
	if err != nil {
		return nil, err
	}
	if err := c.send(m, files...); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (l *Lab) dial() (*conn, error) {
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: filepath.Join(l.dir, "sock"), Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("open lab %s: it does not run (%v): %w", l.name, err, ErrNotFound)
	}
	return newConn(c), nil
}

// finish waits for an answer until ctx ends.
func finish(ctx context.Context, c *conn, out any) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	m, files, err := c.receive()
	closeAll(files)
	if ctx.Err() != nil && err != nil {
		return fmt.Errorf("wait for the lab: %w", ctx.Err())
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("wait for the lab: it or the host went off: %w", ErrPoweredOff)
	}
	if err != nil {
		return fmt.Errorf("wait for the lab: %w", err)
	}
	if err := m.err(); err != nil {
		return err
	}
	return m.decode(out)
}

// stageWord as first argument makes the binary one of the lab's own processes.
const stageWord = "lab-stage"

// The operations. Those with a host go to that host's init.
const (
	opStatus      = "status"
	opHost        = "host"
	opAddHost     = "add-host"
	opRemoveHost  = "remove-host"
	opSetServices = "set-services"
	opStart       = "start"
	opKill        = "kill"
	opFreeze      = "freeze"
	opThaw        = "thaw"
	opCut         = "cut"
	opImpair      = "impair"
	opHeal        = "heal"
	opReaddress   = "readdress"
	opPowerOff    = "power-off"
	opBoot        = "boot"
	opDown        = "down"

	opSetUnderlay    = "set-underlay"
	opHostStatus     = "host-status"
	opAddWorkload    = "add-workload"
	opRemoveWorkload = "remove-workload"
	opExec           = "exec"
	opPing           = "ping"
	opSendFrames     = "send-frames"
	opSendUDP        = "send-udp"
	opSniff          = "sniff"

	opSignal = "signal" // within an exec: deliver Body, a number
	opStop   = "stop"   // within a ping or sniff: end and answer
)
