//go:build linux

package bench

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/meshvpc/meshvpc/integration/lab"
)

var (
	hostsFlag  = flag.Int("hosts", 100, "members of the VPC, the joining one included")
	joinsFlag  = flag.Int("joins", 30, "joins of each side, over all rounds")
	putsFlag   = flag.Int("puts", 60, "puts of each side, over all rounds")
	roundsFlag = flag.Int("rounds", 3, "turns of each side")
	// Another build, to compare with.
	programFlag = flag.String("program", "", "meshvpc binary to measure; by default it is built")
)

// What this binary is when run again in a host, as first argument.
const (
	idealWord = "ideal-agent"
	handWord  = "hand-over"
)

var program string // meshvpc

func TestMain(m *testing.M) {
	if handled, exit := lab.Stage(os.Args); handled {
		os.Exit(exit)
	}
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case idealWord:
			os.Exit(exitOf(runIdeal(os.Args[2:])))
		case handWord:
			os.Exit(exitOf(handOver()))
		}
	}
	os.Exit(run(m))
}

func exitOf(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func run(m *testing.M) int {
	flag.Parse()
	if program = *programFlag; program != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "meshvpc-bench-")
	if err != nil {
		return exitOf(err)
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "meshvpc")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/meshvpc").CombinedOutput(); err != nil {
		return exitOf(fmt.Errorf("build meshvpc: %w\n%s", err, out))
	}
	return m.Run()
}
