package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/meshvpc/meshvpc/watcher/local"
)

// del takes an attachment away, and the endpoint that was made for it.
func (p *plugin) del(ctx context.Context, c call) error {
	patience, gone := p.patience, p.isGone(c)
	if gone {
		patience = 0 // what the agent does not hear, it sees
	}
	err := p.detach(ctx, patience, c)
	switch {
	case isRefusal(err, local.CodeNotFound), gone && errors.Is(err, local.ErrNoAgent):
		return nil
	case err != nil:
		return explain(fmt.Sprintf("detach container %s from VPC %s", c.container, c.VPC), err)
	}
	return nil
}

// detach asks for what the attachment has. If the agent knows of nothing, an
// endpoint may all the same have been made for it.
func (p *plugin) detach(ctx context.Context, patience time.Duration, c call) error {
	port, err := p.port(ctx, patience, c.attachment())
	if err != nil {
		return err
	}
	if port == nil {
		name, made, err := p.endpoint(c)
		if !made || err != nil {
			return err
		}
		port = &local.Attached{VPC: c.VPC, Endpoint: name}
	}
	return p.ask(ctx, patience, func(ctx context.Context) error {
		return p.agent.Detach(ctx, local.DetachRequest{VPC: port.VPC, Endpoint: port.Endpoint, Delete: isMade(port.Endpoint)})
	})
}

// isGone reports whether the container's namespace is no more, or the host is no
// node any more.
func (p *plugin) isGone(c call) bool {
	if _, err := p.node(); c.netns == "" || errors.Is(err, fs.ErrNotExist) {
		return true
	}
	_, err := p.look(c.netns, c.device)
	return errors.Is(err, errNoNamespace)
}

// collect takes away all attachments of the network that the runtime does not know.
func (p *plugin) collect(ctx context.Context, c call) error {
	valid := map[string]bool{}
	for _, v := range c.ValidAttachments {
		valid[attachment{c.Name, v.ContainerID, v.IfName}.owner()] = true
	}
	what := "collect what is left of network " + c.Name
	var ports []local.Attached
	err := p.ask(ctx, p.patience, func(ctx context.Context) (err error) {
		ports, err = p.agent.Ports(ctx)
		return err
	})
	if err != nil {
		return explain(what, err)
	}
	var failures []string
	code := types.ErrIOFailure
	for _, port := range ports {
		if !strings.HasPrefix(port.For, ownersOf(c.Name)) || valid[port.For] {
			continue
		}
		err := p.agent.Detach(ctx, local.DetachRequest{VPC: port.VPC, Endpoint: port.Endpoint, Delete: isMade(port.Endpoint)})
		if err != nil && !isRefusal(err, local.CodeNotFound) {
			e := explain(fmt.Sprintf("endpoint %s of VPC %s", port.Endpoint, port.VPC), err)
			code, failures = e.Code, append(failures, e.Msg)
		}
	}
	if failures != nil {
		return types.NewError(code, fmt.Sprintf("%s: %d stay", what, len(failures)), strings.Join(failures, "; "))
	}
	return nil
}
