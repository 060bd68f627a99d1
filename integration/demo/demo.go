package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// Config says where the demo tells its story.
type Config struct {
	Binary string    // the program under show; "" is the running one
	Name   string    // of the lab; "" is "demo"
	Out    io.Writer // the narration; nil is nobody
}

// Result is what the demo measured, and `lab demo -o json`.
type Result struct {
	Hosts      int     `json:"hosts"`
	Pairs      int     `json:"pairs"`       // ordered pairs of workloads that were pinged
	Sent       int     `json:"sent"`        // pings in all
	Lost       int     `json:"lost"`        // of them, those that had to be answered
	ConvergeMS float64 `json:"converge_ms"` // vpc create → mesh up on three hosts
	JoinMS     float64 `json:"join_ms"`     // fourth host: agent started → its workload pings all others
	// Failover is nil if it was not played.
	Failover *Failover `json:"failover,omitempty"`
	Steps    []Step    `json:"steps"`
}

// Step is one act.
type Step struct {
	Name   string  `json:"name"`
	OK     bool    `json:"ok"`
	MS     float64 `json:"ms"`
	Proved string  `json:"proved,omitempty"`
	Error  string  `json:"error,omitempty"`
}

// OK reports whether all of it held.
func (r *Result) OK() bool {
	return len(r.Steps) > 0 && r.Lost == 0 && !slices.ContainsFunc(r.Steps, func(s Step) bool { return !s.OK })
}

const (
	vpcName = "vpc1"
	fourth  = "friends-home"
)

// play is one performance.
type play struct {
	cfg       Config
	site      *Site
	result    *Result
	workloads []lab.Workload
}

// Run plays the article and returns what was measured; the error is only for
// what kept it from being played. The lab is gone when it returns.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if cfg.Out == nil {
		cfg.Out = io.Discard
	}
	if cfg.Name == "" {
		cfg.Name = "demo"
	}
	p := &play{cfg: cfg, result: &Result{}}
	p.say("meshvpc lab demo: three hosts on their own kernel namespaces, two datacenters, one private network")
	hosts, err := Hosts(3, 0, true)
	if err != nil {
		return nil, err
	}
	l, err := lab.Start(ctx, lab.Config{Name: cfg.Name, Hosts: hosts, Binary: cfg.Binary})
	if err != nil {
		return nil, err
	}
	p.site = &Site{Lab: l, Server: hosts[0].Name, Servers: ServersOf(hosts)}
	p.acts(ctx, hosts)
	err = l.Close()
	p.table()
	return p.result, err
}

// acts plays all steps; after one that failed, those that build on it are not
// played.
func (p *play) acts(ctx context.Context, hosts []lab.HostConfig) {
	var names []string // of those that carry workloads, the first of them first
	for _, h := range hosts {
		if !h.Witness {
			names = append(names, h.Name)
		}
	}
	p.result.Hosts = len(names)
	for _, act := range []struct {
		name string
		do   func(ctx context.Context) (proved string, err error)
	}{
		{"a cluster from nothing", func(ctx context.Context) (string, error) { return p.found(ctx, names) }},
		{"one VPC over all hosts", p.create},
		{"one workload a host, all pairs ping", p.attach(names)},
		{"a fourth host joins", p.join},
		{"it leaves again", p.leave},
		{"a tunnel deleted by hand comes back", p.tamper(names[1])},
		{"the control plane is killed, traffic goes on", p.killServers},
		{"an agent is killed and comes back", p.killAgent(names[1])},
		{"a datacenter is lost, its service answers in another", p.lose},
		{"it comes back, and keeps silent", p.comeBack},
	} {
		start := time.Now()
		actCtx, cancel := context.WithTimeout(ctx, time.Minute)
		proved, err := act.do(actCtx)
		cancel()
		s := Step{Name: act.name, OK: err == nil, MS: milliseconds(time.Since(start)), Proved: proved}
		if err != nil {
			s.Error = err.Error()
		}
		p.result.Steps = append(p.result.Steps, s)
		if p.tell(s); err != nil {
			return
		}
	}
}

// found makes the cluster as an operator does.
func (p *play) found(ctx context.Context, names []string) (string, error) {
	p.say("  on %s: meshvpc cluster init --datacenter skynet; on the others, and on a witness: meshvpc cluster join", names[0])
	if err := p.site.Found(ctx); err != nil {
		return "", err
	}
	others := slices.Clone(names[1:])
	for _, h := range p.site.Servers {
		if h.Witness {
			others = append(others, h.Name)
		}
	}
	if err := p.site.Join(ctx, others...); err != nil {
		return "", err
	}
	if err := p.site.AwaitNodes(ctx, len(names)); err != nil {
		return "", err
	}
	voters := 1 + len(p.site.Servers)
	if err := p.site.AwaitVoters(ctx, p.site.Server, voters); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d nodes live, %d servers vote", len(names), voters), nil
}

func (p *play) create(ctx context.Context) (string, error) {
	p.say("  meshvpc vpc create %s --members all --peer-network 10.100.0.0/24", vpcName)
	start := time.Now()
	out, err := p.site.Meshvpc(ctx, p.site.Server, "vpc", "create", vpcName, "--members", "all", "--peer-network", "10.100.0.0/24")
	if err != nil {
		return "", err
	}
	p.result.ConvergeMS = milliseconds(time.Since(start))
	for line := range strings.Lines(out) {
		p.say("    %s", strings.TrimRight(line, "\n"))
	}
	return fmt.Sprintf("mesh up in %.0f ms", p.result.ConvergeMS), nil
}

// attach gives every host a workload in the article's 10.10.11.0/24.
func (p *play) attach(hosts []string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		for i, h := range hosts {
			if err := p.workload(ctx, h, i+1); err != nil {
				return "", err
			}
		}
		return p.pingAll(ctx)
	}
}

func (p *play) workload(ctx context.Context, host string, n int) error {
	w := lab.Workload{
		Host: host, Name: fmt.Sprintf("jail%d", n), VPC: vpcName,
		Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 10, 11, byte(n)}), 24)},
	}
	if err := p.site.Lab.AddWorkload(ctx, w); err != nil {
		return err
	}
	p.workloads = append(p.workloads, w)
	p.say("  %s on %s is %s", w.Name, w.Host, w.Prefixes[0])
	return nil
}

// pingAll pings every ordered pair and wants no loss.
func (p *play) pingAll(ctx context.Context) (string, error) {
	sent, lost, err := p.site.Pairs(ctx, p.workloads, 3)
	if err != nil {
		return "", err
	}
	pairs := len(p.workloads) * (len(p.workloads) - 1)
	p.result.Pairs = max(p.result.Pairs, pairs)
	p.result.Sent, p.result.Lost = p.result.Sent+sent, p.result.Lost+lost
	if lost > 0 {
		return "", fmt.Errorf("%d of %d pings between %d pairs were lost", lost, sent, pairs)
	}
	return fmt.Sprintf("%d pairs, %d of %d pings answered", pairs, sent, sent), nil
}

func (p *play) join(ctx context.Context) (string, error) {
	if _, err := p.site.Lab.AddHost(ctx, lab.HostConfig{Name: fourth, Datacenter: "home"}); err != nil {
		return "", err
	}
	start := time.Now()
	if err := p.site.Join(ctx, fourth); err != nil {
		return "", err
	}
	if _, err := p.site.Meshvpc(ctx, p.site.Server, "vpc", "wait", vpcName); err != nil {
		return "", err
	}
	if err := p.site.Until(ctx, func() error { return p.workload(ctx, fourth, 4) }); err != nil {
		return "", err
	}
	proved, err := p.pingAll(ctx)
	p.result.JoinMS = milliseconds(time.Since(start))
	return proved, err
}

// leave takes the fourth host out and checks that it kept nothing.
func (p *play) leave(ctx context.Context) (string, error) {
	w := p.workloads[len(p.workloads)-1]
	if err := p.site.Lab.RemoveWorkload(ctx, w.Host, w.Name); err != nil {
		return "", err
	}
	p.workloads = p.workloads[:len(p.workloads)-1]
	if _, err := p.site.Meshvpc(ctx, p.site.Server, "node", "remove", fourth, "--yes"); err != nil {
		return "", err
	}
	err := p.site.Until(ctx, func() error {
		left, err := p.devices(ctx, fourth)
		if err != nil {
			return err
		}
		if len(left) > 0 {
			return fmt.Errorf("%s still has %s", fourth, strings.Join(left, ", "))
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if _, err := p.site.Meshvpc(ctx, p.site.Server, "vpc", "wait", vpcName); err != nil {
		return "", err
	}
	proved, err := p.pingAll(ctx)
	if err != nil {
		return "", err
	}
	return "its devices are gone; " + proved, p.site.Lab.RemoveHost(ctx, fourth)
}

// tamper deletes a tunnel as a careless person would.
func (p *play) tamper(host string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		devices, err := p.devices(ctx, host)
		if err != nil {
			return "", err
		}
		i := slices.IndexFunc(devices, func(d string) bool { return strings.HasPrefix(d, "mv") })
		if i < 0 {
			return "", fmt.Errorf("no tunnel on %s among %v", host, devices)
		}
		p.say("  on %s: ip link delete %s", host, devices[i])
		start := time.Now()
		if err := p.site.Lab.DeleteDevice(ctx, host, devices[i]); err != nil {
			return "", err
		}
		err = p.site.Until(ctx, func() error {
			r, err := p.site.Lab.Ping(ctx, lab.Ping{Host: host, Workload: p.workloads[1].Name, To: p.workloads[0].Prefixes[0].Addr(), Count: 1, Timeout: 100 * time.Millisecond})
			if err == nil && r.Lost > 0 {
				err = errors.New("no answer yet")
			}
			return err
		})
		if err != nil {
			return "", err
		}
		back := time.Since(start)
		proved, err := p.pingAll(ctx)
		return fmt.Sprintf("pings again after %.0f ms; %s", milliseconds(back), proved), err
	}
}

// killServers kills the whole control plane under traffic.
func (p *play) killServers(ctx context.Context) (string, error) {
	servers := []string{p.site.Server}
	for _, h := range p.site.Servers {
		servers = append(servers, h.Name)
	}
	p.say("  SIGKILL to meshvpc server on %s: none is left", strings.Join(servers, ", "))
	all := func(do func(ctx context.Context, host, only string) error) error {
		var errs []error
		for _, h := range servers {
			errs = append(errs, do(ctx, h, "server"))
		}
		return errors.Join(errs...)
	}
	return p.under(ctx, func() error { return all(p.site.Lab.Kill) }, func() error {
		if err := all(p.site.Lab.StartServices); err != nil {
			return err
		}
		return p.site.Until(ctx, func() error {
			_, err := p.site.Meshvpc(ctx, p.site.Server, "vpc", "wait", vpcName, "--timeout", "5s")
			return err
		})
	})
}

// killAgent kills an agent under traffic and starts it again.
func (p *play) killAgent(host string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		p.say("  SIGKILL to meshvpc agent on %s", host)
		return p.under(ctx, func() error { return p.site.Lab.Kill(ctx, host, "agent") }, func() error {
			if err := p.site.Lab.StartServices(ctx, host, "agent"); err != nil {
				return err
			}
			return p.site.Until(ctx, func() error {
				_, err := p.site.Meshvpc(ctx, host, "status", "--check")
				return err
			})
		})
	}
}

// under pings from the second workload to the others all the while that a
// fault is made and mended, and wants no loss.
func (p *play) under(ctx context.Context, fault, mend func() error) (string, error) {
	var runs []*lab.PingRun
	for _, to := range []int{0, 2} {
		r, err := p.site.Lab.StartPing(ctx, lab.Ping{
			Host: p.workloads[1].Host, Workload: p.workloads[1].Name, To: p.workloads[to].Prefixes[0].Addr(), Interval: 10 * time.Millisecond,
		})
		if err != nil {
			return "", err
		}
		runs = append(runs, r)
	}
	faultErr := fault()
	t := time.NewTimer(time.Second) // of traffic without it
	select {
	case <-ctx.Done():
	case <-t.C:
	}
	t.Stop()
	if faultErr == nil {
		faultErr = mend()
	}
	sent, lost := 0, 0
	for _, r := range runs {
		got, err := r.Stop(ctx)
		if err != nil {
			return "", errors.Join(faultErr, err)
		}
		sent, lost = sent+got.Sent, lost+got.Lost
	}
	p.result.Sent, p.result.Lost = p.result.Sent+sent, p.result.Lost+lost
	if faultErr != nil {
		return "", faultErr
	}
	if lost > 0 {
		return "", fmt.Errorf("%d of %d pings were lost", lost, sent)
	}
	return fmt.Sprintf("%d of %d pings at 10 ms answered", sent, sent), nil
}

// devices lists a host's devices that carry meshvpc's names.
func (p *play) devices(ctx context.Context, host string) ([]string, error) {
	all, err := p.site.Lab.Devices(ctx, host)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(d string) bool {
		return d != vpcName && !strings.HasPrefix(d, "mv4-") && !strings.HasPrefix(d, "mv6-") && !strings.HasPrefix(d, "mn-")
	}), nil
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Microseconds()) / 1000
}
