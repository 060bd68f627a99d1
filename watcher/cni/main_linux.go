package cni

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/meshvpc/meshvpc/watcher/local"
)

// Main answers the call that is in the environment and on the standard input, and
// returns the exit code.
func Main(cfg Config) int { return run(cfg, patience) }

func run(cfg Config, patience time.Duration) int {
	m := program{plugin: plugin{agent: local.New(cfg.Socket), node: cfg.Node, look: lookAt, patience: patience}}
	e := skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add:    m.add,
		Del:    func(args *skel.CmdArgs) error { return m.do(args, m.plugin.del) },
		Check:  func(args *skel.CmdArgs) error { return m.do(args, m.plugin.check) },
		GC:     func(args *skel.CmdArgs) error { return m.do(args, m.plugin.collect) },
		Status: func(args *skel.CmdArgs) error { return m.do(args, m.plugin.status) },
	}, version.All, "CNI plugin meshvpc "+cfg.Version)
	if e == nil {
		return 0
	}
	if err := printError(os.Stdout, m.version, e); err != nil {
		fmt.Fprintf(os.Stderr, "meshvpc: %v: %v\n", e, err)
	}
	return 1
}

// program is the plugin as a process.
type program struct {
	plugin  plugin
	version string // of the specification, as asked for; "": not known yet
}

func (m *program) add(args *skel.CmdArgs) error {
	return m.do(args, func(ctx context.Context, c call) error {
		r, err := m.plugin.add(ctx, c)
		if err != nil {
			return err
		}
		return types.PrintResult(r, c.CNIVersion)
	})
}

// do reads what is asked for and does it, within limit.
func (m *program) do(args *skel.CmdArgs, f func(context.Context, call) error) error {
	c, err := readConfig(args.StdinData)
	m.version = c.CNIVersion
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return f(ctx, call{c, args.ContainerID, args.Netns, args.IfName})
}
