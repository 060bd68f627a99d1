package main

import (
	"context"

	"github.com/meshvpc/meshvpc/watcher"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// agentClient asks this host's agent.
func agentClient() *local.Client { return local.New(hostDirs().socket()) }

// agentState is the local agent's view.
func agentState(ctx context.Context) (s watcher.State, err error) {
	return s, agentClient().Get(ctx, "/v1/state", &s)
}
