package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/membership/reach"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/watcher"
)

// presence answers the servers that ask whether this host is at its underlay
// addresses.
type presence struct{ answerer *reach.Answerer }

// newPresence answers by the node's key. Without one there is nothing to answer
// by; the agent does the rest of its work nevertheless.
func newPresence(files *pemFiles, log *zap.Logger) presence {
	if files == nil {
		return presence{}
	}
	a, err := answererOf(files.Key, log)
	if err != nil {
		log.Error("cannot answer the servers that ask whether this host is at its underlay address", zap.Error(err))
	}
	return presence{a}
}

func answererOf(file string, log *zap.Logger) (*reach.Answerer, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the node's key: %w", err)
	}
	key, err := membership.ReadKey(text)
	if err != nil {
		return nil, err
	}
	return reach.NewAnswerer(key.Signer(), log)
}

// move answers where tunnels end from now on.
func (p presence) move(u cluster.Underlay) {
	if p.answerer == nil {
		return
	}
	p.answerer.Move(u.Binds()...)
}

// answerAt answers there by a key, in this process, until stop is called.
func answerAt(ctx context.Context, key membership.Key, u cluster.Underlay) (stop func(), err error) {
	a, err := reach.NewAnswerer(key.Signer(), nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { a.Run(ctx) })
	presence{a}.move(u)
	return func() { cancel(); running.Wait() }, nil
}

// underlayFor is what the agent will report first, of a host with these addresses.
func underlayFor(cfg agentConfig, have []hostAddress) (u cluster.Underlay, err error) {
	specs, err := underlaySpecs(cfg.Underlay)
	if err != nil {
		return u, err
	}
	var host []hostops.Address
	for _, a := range have {
		host = append(host, hostops.Address{Device: a.device, Prefix: netip.PrefixFrom(a.addr, a.addr.BitLen()), Up: true})
	}
	return watcher.FindUnderlay(specs, towards(cfg.Endpoints), host), nil
}

func underlaySpecs(words []string) (specs []watcher.UnderlaySpec, err error) {
	for _, word := range words {
		spec, err := watcher.ParseUnderlay(word)
		if err != nil {
			return nil, err
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

// run answers until ctx ends.
func (p presence) run(ctx context.Context) {
	if p.answerer != nil {
		p.answerer.Run(ctx)
	}
}
