package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"
)

// release is this version's name.
const release = "0.1.0"

// version is the release and, of a build from a checkout, its commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return release
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return release + "+" + s.Value[:12]
		}
	}
	return release
}

func (p *program) versionCommand() *cli.Command {
	c := p.verb("version", "", "print the version", []cli.Flag{outputFlag()}, func(_ context.Context, c *cli.Context) error {
		v := struct {
			Version string `json:"version"`
			Go      string `json:"go"`
			OS      string `json:"os"`
			Arch    string `json:"arch"`
		}{version(), runtime.Version(), runtime.GOOS, runtime.GOARCH}
		return p.print(c, v, func(w io.Writer) { fmt.Fprintf(w, "meshvpc %s %s %s/%s\n", v.Version, v.Go, v.OS, v.Arch) })
	})
	c.Description = "meshvpc version -o json"
	return c
}
