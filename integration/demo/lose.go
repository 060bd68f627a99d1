package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// Failover is what the loss of a datacenter came to.
type Failover struct {
	GapMS float64 `json:"gap_ms"` // the longest time without an answer of the service
	From  string  `json:"from"`   // the node that had it
	To    string  `json:"to"`     // the node that has it now
}

const (
	service       = "www"
	serviceIP     = "10.10.11.100"
	lostDC        = "hetzner"
	serviceOwner  = "gold-hoster-01"
	serviceBackup = "jhoster1"
)

// lose takes the power of a datacenter in which a service runs, and sees it answer in
// another one, at the same address.
func (p *play) lose(ctx context.Context) (string, error) {
	if err := p.serve(ctx); err != nil {
		return "", err
	}
	if err := p.seated(ctx); err != nil {
		return "", err
	}
	client := p.workloads[0]
	run, err := p.site.Lab.StartPing(ctx, lab.Ping{Host: client.Host, Workload: client.Name, To: netip.MustParseAddr(serviceIP), Interval: 10 * time.Millisecond})
	if err != nil {
		return "", err
	}
	p.say("  %s loses its power: %s is gone, and one server of three", lostDC, serviceOwner)
	lost := p.site.Lab.PowerOff(ctx, lostDC)
	if lost == nil {
		lost = p.awaitService(ctx, serviceBackup)
	}
	if lost == nil {
		lost = p.site.Until(ctx, func() error { return p.answers(ctx, client) })
	}
	got, err := run.Stop(ctx)
	if err := errors.Join(lost, err); err != nil {
		return "", err
	}
	p.result.Failover = &Failover{GapMS: milliseconds(got.Gap), From: serviceOwner, To: serviceBackup}
	return fmt.Sprintf("%s answers at %s after %.1f s, same address", service, serviceBackup, got.Gap.Seconds()), nil
}

// serve runs a service at two places.
func (p *play) serve(ctx context.Context) error {
	for _, args := range [][]string{
		{"failover", "profile", "fast"},
		{"vpc", "set", vpcName, "--network", "10.10.11.0/24"},
		{"endpoint", "create", service, "--vpc", vpcName, "--ip", serviceIP, "--place", "dc=" + lostDC + ",dc=skynet", "--mode", "stateless"},
	} {
		p.command(args)
		if _, err := p.site.Meshvpc(ctx, p.site.Server, args...); err != nil {
			return err
		}
	}
	for _, host := range []string{serviceOwner, serviceBackup} {
		if err := p.site.Lab.AddWorkload(ctx, lab.Workload{Host: host, Name: service}); err != nil {
			return err
		}
		args := []string{"endpoint", "attach", service, "--netns", service}
		p.say("  on %s: meshvpc endpoint attach %s --netns %s", host, service, service)
		if _, err := p.site.Meshvpc(ctx, host, args...); err != nil {
			return err
		}
	}
	return p.site.Until(ctx, func() error { return p.answers(ctx, p.workloads[0]) })
}

// seated waits until the controller does not lead from where the service is, for with
// the loss of both nobody decides for some seconds.
func (p *play) seated(ctx context.Context) error {
	return p.site.Until(ctx, func() error {
		leader, err := p.site.Meshvpc(ctx, p.site.Server, "get", "leader/controller")
		if err == nil && strings.Contains(leader, serviceOwner) {
			err = fmt.Errorf("the controller still leads from %s", serviceOwner)
		}
		return err
	})
}

func (p *play) command(args []string) {
	line := "  meshvpc"
	for _, a := range args {
		line += " " + a
	}
	p.say("%s", line)
}

// answers wants one answer of the service.
func (p *play) answers(ctx context.Context, client lab.Workload) error {
	r, err := p.site.Lab.Ping(ctx, lab.Ping{Host: client.Host, Workload: client.Name, To: netip.MustParseAddr(serviceIP), Count: 1, Timeout: 200 * time.Millisecond})
	if err == nil && r.Lost > 0 {
		err = fmt.Errorf("%s does not answer", service)
	}
	return err
}

// awaitService waits until a node has the service.
func (p *play) awaitService(ctx context.Context, node string) error {
	return p.site.Until(ctx, func() error {
		var where struct{ Node, State string }
		err := p.site.JSON(ctx, &where, p.site.Server, "endpoint", "where", service, "--timeout", "2s")
		if err == nil && where.Node != node {
			err = fmt.Errorf("%s is at %s, %s", service, where.Node, where.State)
		}
		return err
	})
}

// comeBack boots the lost datacenter and wants its host to keep silent about what it
// had.
func (p *play) comeBack(ctx context.Context) (string, error) {
	client := p.workloads[0]
	run, err := p.site.Lab.StartPing(ctx, lab.Ping{Host: client.Host, Workload: client.Name, To: netip.MustParseAddr(serviceIP), Interval: 10 * time.Millisecond})
	if err != nil {
		return "", err
	}
	p.say("  %s has its power back", lostDC)
	back := p.site.Lab.Boot(ctx, lostDC)
	if back == nil {
		back = p.site.AwaitNodes(ctx, p.result.Hosts)
	}
	if back == nil {
		back = p.site.Until(ctx, func() error { return p.unfenced(ctx) })
	}
	got, err := run.Stop(ctx)
	if err := errors.Join(back, err); err != nil {
		return "", err
	}
	p.result.Sent, p.result.Lost = p.result.Sent+got.Sent, p.result.Lost+got.Lost
	if got.Lost > 0 || got.Duplicates > 0 {
		return "", fmt.Errorf("%d of %d pings were lost, %d answered twice", got.Lost, got.Sent, got.Duplicates)
	}
	if err := p.awaitService(ctx, serviceBackup); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s is still at %s; %d of %d pings answered, none twice", service, serviceBackup, got.Sent, got.Sent), nil
}

// unfenced wants no fence in force.
func (p *play) unfenced(ctx context.Context) error {
	var status struct{ Fences []struct{ Node string } }
	err := p.site.JSON(ctx, &status, p.site.Server, "failover", "status")
	if err == nil && len(status.Fences) > 0 {
		err = fmt.Errorf("%s is fenced", status.Fences[0].Node)
	}
	return err
}
