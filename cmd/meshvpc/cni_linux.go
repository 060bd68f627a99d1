package main

import (
	"os"
	"path/filepath"

	"github.com/meshvpc/meshvpc/watcher/cni"
)

// cniName is the program's name as a CNI plugin alone.
const cniName = "meshvpc-cni"

// byRuntime reports whether a container runtime has started the program: by the
// plugin's name, or with CNI_COMMAND in the environment and without a command.
func byRuntime(args []string, cniCommand string) bool {
	return filepath.Base(args[0]) == cniName || len(args) == 1 && cniCommand != ""
}

// cniPlugin answers a container runtime on the standard output, if one has started
// the program.
func cniPlugin(args []string) (handled bool, exit int) {
	if !byRuntime(args, os.Getenv("CNI_COMMAND")) {
		return false, 0
	}
	node := func() (string, error) {
		var cfg agentConfig
		err := readConfig(hostDirs().agent(), &cfg)
		return cfg.Node, err
	}
	return true, cni.Main(cni.Config{Socket: hostDirs().socket(), Node: node, Version: version()})
}
