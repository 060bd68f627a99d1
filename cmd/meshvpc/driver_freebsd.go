package main

import (
	"fmt"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/hostops"
)

// newDriver says that this system has no driver yet.
func newDriver(*zap.Logger) (hostops.Driver, error) {
	return nil, fmt.Errorf("drive this host's network: not supported on FreeBSD yet: %w", hostops.ErrUnsupported)
}

func bootID() string { return "" }

func osName() string { return "freebsd" }
