package main

import (
	"os"
	"strings"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/linux"
)

// newDriver opens this host's network stack.
func newDriver(log *zap.Logger) (hostops.Driver, error) { return linux.New(linux.Config{Log: log}) }

// bootID is random for each start of the kernel; "" if it is unknown.
func bootID() string { return procText("/proc/sys/kernel/random/boot_id") }

// osName is the system for people: "linux 6.18".
func osName() string {
	return strings.TrimSpace("linux " + procText("/proc/sys/kernel/osrelease"))
}

func procText(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
