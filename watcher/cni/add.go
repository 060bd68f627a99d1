package cni

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// add attaches a container, and returns when frames pass.
func (p *plugin) add(ctx context.Context, c call) (*types100.Result, error) {
	endpoint, made, err := p.endpoint(c)
	if err != nil {
		return nil, explain("attach container "+c.container, err)
	}
	what := fmt.Sprintf("attach endpoint %s of VPC %s", endpoint, c.VPC)
	if err := p.isFree(c); err != nil {
		return nil, explain(what, err)
	}
	var a local.Attached
	err = p.ask(ctx, p.patience, func(ctx context.Context) (err error) {
		a, err = p.agent.Attach(ctx, local.AttachRequest{
			VPC: c.VPC, Endpoint: endpoint, Netns: c.netns, Inner: c.device, Trust: c.Trust, Create: made, For: c.attachment().owner(),
		})
		return err
	})
	if err == nil && a.State != cluster.PortReady {
		err = &local.Refusal{Code: local.CodeUnavailable, Text: fmt.Sprintf("it is %s: %s", a.State, a.Reason)}
	}
	if err == nil {
		return resultOf(c, a), nil
	}
	if made {
		err = p.withdraw(ctx, c, endpoint, err)
	}
	return nil, explain(what, err)
}

// withdraw takes back what is asked for and was not to be had, so that nothing
// comes of it later. It returns why it was not to be had, and the code of that.
func (p *plugin) withdraw(ctx context.Context, c call, endpoint string, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.patience)
	defer cancel()
	err := p.agent.Detach(ctx, local.DetachRequest{VPC: c.VPC, Endpoint: endpoint, Delete: true})
	if err == nil || isRefusal(err, local.CodeNotFound) || errors.Is(err, local.ErrNoAgent) {
		return why
	}
	return fmt.Errorf("%w; and to take it back: %w", why, err)
}

// isFree wants the namespace to be there, another than the host's, and without a
// device of that name.
func (p *plugin) isFree(c call) error {
	_, err := p.look(c.netns, c.device)
	switch {
	case errors.Is(err, errNoDevice):
		return nil
	case err == nil:
		return types.NewError(codeTaken, fmt.Sprintf("device %s is in the container's network namespace %s already", c.device, c.netns),
			"name another device (CNI_IFNAME), or delete the attachment first")
	case errors.Is(err, errNoNamespace):
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_NETNS: %v", err), "it is the path of a network namespace, like /run/netns/NAME")
	case errors.Is(err, errOwnNamespace):
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_NETNS: %v", err), "a container needs a network namespace of its own")
	}
	return err
}
