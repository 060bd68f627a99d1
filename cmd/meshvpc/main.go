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
	os.Exit(newProgram(os.Stdin, os.Stdout, os.Stderr).main(os.Args))
}

// main is one invocation, from its arguments to its exit code.
func (p *program) main(args []string) int {
	if handled, exit := cniPlugin(args); handled {
		return exit
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return p.run(ctx, args)
}
