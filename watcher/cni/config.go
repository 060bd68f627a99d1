package cni

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/meshvpc/meshvpc/cluster"
)

// config is a plugin's part of a network's configuration, as a runtime passes it.
type config struct {
	types.PluginConf
	VPC string `json:"vpc"`
	// Endpoint is a fixed one; "": each attachment has one of its own.
	Endpoint string `json:"endpoint"`
	// Trust lets containers send whatever they like.
	Trust bool `json:"trust"`

	IPMasq        bool                       `json:"ipMasq"`
	RuntimeConfig map[string]json.RawMessage `json:"runtimeConfig"`

	previous *types100.Result // of plugins before this one, or of ADD; nil: none
}

// known are the keys that a configuration may have, beside those that begin with
// "cni.dev/". Of those that are not ours, "args" is a runtime's, and not heeded.
var known = []string{"cniVersion", "cniVersions", "name", "type", "args", "capabilities", "dns", "ipam", "ipMasq", "prevResult", "runtimeConfig",
	"vpc", "endpoint", "trust"}

// readConfig reads and checks a configuration; errors are *types.Error.
func readConfig(text []byte) (c config, err error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(text, &keys); err != nil {
		return c, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("read network configuration: %v", err), "")
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if !slices.Contains(known, k) && !strings.HasPrefix(k, "cni.dev/") {
			return c, unsupported(k, keys[k], `the keys of meshvpc are "vpc", "endpoint" and "trust"`)
		}
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return c, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("read network configuration: %v", err), "")
	}
	if err := c.check(keys); err != nil {
		return c, err
	}
	return c, c.readPrevious()
}

// check refuses what this plugin cannot do.
func (c *config) check(keys map[string]json.RawMessage) error {
	switch {
	case !c.IPAM.IsEmpty():
		return unsupported("ipam", keys["ipam"], "leave it out: addresses come from the VPC's network")
	case c.IPMasq:
		return unsupported("ipMasq", keys["ipMasq"], "leave it out: what leaves a VPC leaves by its gateway")
	case len(c.RuntimeConfig) > 0:
		return unsupported("runtimeConfig", keys["runtimeConfig"], `take "capabilities" out of the configuration: there are none`)
	case c.VPC == "":
		return types.NewError(types.ErrInvalidNetworkConfig, "network configuration names no VPC", `add "vpc": "NAME"; "meshvpc vpc list" shows which there are`)
	}
	if err := cluster.CheckVPCName(c.VPC); err != nil {
		return types.NewError(types.ErrInvalidNetworkConfig, err.Error(), `"meshvpc vpc list" shows which VPCs there are`)
	}
	if c.Endpoint != "" && cluster.CheckNodeName(c.Endpoint) != nil {
		return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("invalid endpoint %q in network configuration", cluster.CleanText(c.Endpoint)),
			`"meshvpc endpoint list" shows which there are; without "endpoint" each container gets one of its own`)
	}
	return nil
}

func (c *config) readPrevious() error {
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return types.NewError(types.ErrDecodingFailure, fmt.Sprintf("read prevResult: %v", err), "")
	}
	if c.PrevResult == nil {
		return nil
	}
	r, err := types100.NewResultFromResult(c.PrevResult)
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, fmt.Sprintf("read prevResult: %v", err), "")
	}
	c.previous = r
	return nil
}

// unsupported names key and value, as the specification wants it.
func unsupported(key string, value json.RawMessage, do string) error {
	return types.NewError(types.ErrUnsupportedField,
		fmt.Sprintf("unsupported field in network configuration: %q: %s", cluster.CleanText(key), cluster.CleanText(string(value))), do)
}
