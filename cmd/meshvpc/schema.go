package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster/document"
)

func (p *program) schemaCommand() *cli.Command {
	c := p.verb("schema", "", "print the JSON schema of the files that apply reads", []cli.Flag{outputFlag()}, func(_ context.Context, c *cli.Context) error {
		text, err := json.MarshalIndent(document.Schema(), "", "  ")
		if err != nil {
			return fmt.Errorf("print schema: %w", err)
		}
		return p.print(c, document.Schema(), func(w io.Writer) { fmt.Fprintf(w, "%s\n", text) })
	})
	c.Description = "meshvpc schema > meshvpc.schema.json"
	return c
}
