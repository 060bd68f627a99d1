package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/meshvpc/meshvpc/integration/lab"
)

func main() {
	if handled, exit := lab.Stage(os.Args); handled {
		os.Exit(exit) // a process of a lab
	}
	os.Exit(run(os.Args))
}

// run is one invocation, from its arguments to its exit code.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return newProgram(os.Stdin, os.Stdout, os.Stderr).run(ctx, args)
}
