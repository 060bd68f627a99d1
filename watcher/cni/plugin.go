package cni

import (
	"context"
	"errors"
	"time"

	"github.com/meshvpc/meshvpc/watcher/local"
)

// Config is where the plugin finds what it asks.
type Config struct {
	Socket string // the agent's
	// Node is this host's name; the error wraps fs.ErrNotExist if it is no node.
	Node    func() (string, error)
	Version string // of the program, for people
}

const (
	// limit is how long one call may take: less than a runtime waits.
	limit = time.Minute
	// patience is how long an agent may be away, as when it is upgraded.
	patience = 3 * time.Second
	// pause is between two questions to an agent that is away.
	pause = 50 * time.Millisecond
)

// plugin answers one call.
type plugin struct {
	agent    *local.Client
	node     func() (string, error)
	look     func(netns, device string) (view, error) // see lookAt
	patience time.Duration
}

// call is what a runtime wants, of one attachment or of a network.
type call struct {
	config
	container string
	netns     string // path of the container's network namespace; "": gone
	device    string // in there
}

func (c call) attachment() attachment { return attachment{c.Name, c.container, c.device} }

// endpoint is the one that the attachment is to have, and whether it is made for it.
func (p *plugin) endpoint(c call) (name string, made bool, err error) {
	if c.Endpoint != "" {
		return c.Endpoint, false, nil
	}
	node, err := p.node()
	return endpointOf(node, c.attachment()), true, err
}

// ask puts a question until the agent answers it, or is away for longer than
// patience.
func (p *plugin) ask(ctx context.Context, patience time.Duration, question func(context.Context) error) error {
	away := time.Now().Add(patience)
	for {
		err := question(ctx)
		_, refused := errors.AsType[*local.Refusal](err)
		if err == nil || refused || ctx.Err() != nil || time.Now().After(away) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// port is the agent's port of an attachment; none is nil.
func (p *plugin) port(ctx context.Context, patience time.Duration, a attachment) (found *local.Attached, err error) {
	err = p.ask(ctx, patience, func(ctx context.Context) error {
		ports, err := p.agent.Ports(ctx)
		for _, port := range ports {
			if port.For == a.owner() {
				found = &port
			}
		}
		return err
	})
	return found, err
}
