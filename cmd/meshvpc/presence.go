package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/membership/reach"
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
	var at []netip.Addr
	for _, a := range []*cluster.UnderlayAddress{u.IPv4, u.IPv6} {
		if a != nil {
			at = append(at, a.Bind)
		}
	}
	p.answerer.Move(at...)
}

// run answers until ctx ends.
func (p presence) run(ctx context.Context) {
	if p.answerer != nil {
		p.answerer.Run(ctx)
	}
}
