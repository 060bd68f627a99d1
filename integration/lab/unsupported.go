//go:build !linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Start makes a lab. It needs Linux; here it is errors.ErrUnsupported.
func Start(_ context.Context, cfg Config) (*Lab, error) {
	if _, err := cfg.withDefaults(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("start lab: hosts as network namespaces need Linux: %w", errors.ErrUnsupported)
}

// Stage runs the lab's inner processes. There are none on this platform.
func Stage(args []string) (handled bool, exit int) {
	if len(args) < 2 || args[1] != stageWord {
		return false, 0
	}
	fmt.Fprintln(os.Stderr, "meshvpc: hosts as network namespaces need Linux")
	return true, 1
}

type peer struct{}

func peerOf(*conn) (peer, error)        { return peer{}, errors.ErrUnsupported }
func (peer) wait(context.Context) error { return errors.ErrUnsupported }
func (peer) kill() error                { return errors.ErrUnsupported }
func (peer) close()                     {}
