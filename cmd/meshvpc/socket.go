package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"

	"github.com/meshvpc/meshvpc/watcher"
)

// errNoAgent is returned when no agent listens on the host's socket.
var errNoAgent = errors.New("no agent runs on this host")

// askAgent gets a path of the local agent's socket.
func askAgent[T any](ctx context.Context, path string) (T, error) {
	var answer T
	socket := hostDirs().socket()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		return answer, fmt.Errorf("ask agent: %w", err)
	}
	response, err := client.Do(request)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return answer, fmt.Errorf("ask agent at %s: %w", socket, errNoAgent)
	}
	if err != nil {
		return answer, fmt.Errorf("ask agent: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, err := io.ReadAll(io.LimitReader(response.Body, 1000))
		return answer, fmt.Errorf("ask agent: %w", errors.Join(errors.New(clean(string(text))), err))
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return answer, fmt.Errorf("ask agent: read answer: %w", err)
	}
	return answer, nil
}

// agentState is the local agent's view.
func agentState(ctx context.Context) (watcher.State, error) {
	return askAgent[watcher.State](ctx, "/v1/state")
}
