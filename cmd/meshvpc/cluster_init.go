package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
)

func (p *program) clusterInitCommand() *cli.Command {
	return p.verb("init", "", "make this host the first node and server of a new cluster", []cli.Flag{
		&cli.StringFlag{Name: "datacenter", Usage: "`NAME` of the datacenter that this host is in (required)"},
		&cli.StringFlag{Name: "name", Usage: "`NAME` of this node (default: the host's name)"},
		underlayFlag(),
		&cli.StringFlag{Name: "engine", Value: "etcd", Usage: "what keeps the records: etcd"},
		&cli.StringFlag{Name: "cluster", Value: "meshvpc", Usage: "`NAME` of the cluster, for people"},
		&cli.UintFlag{Name: "underlay-port", Value: cluster.DefaultUnderlayPort, Usage: "UDP `PORT` of all tunnels"},
		&cli.StringFlag{Name: "vni-range", Value: fmt.Sprintf("%d-%d", cluster.DefaultVNIRange.First, cluster.DefaultVNIRange.Last), Usage: "`FIRST-LAST` of the VNIs to allocate"},
		outputFlag(),
	}, p.clusterInit)
}

func underlayFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "underlay", Usage: "where tunnels end: a device, or `BIND[=ADVERTISE]`, once a family (default: found by itself)"}
}

// initReport is `cluster init -o json`.
type initReport struct {
	Cluster    string `json:"cluster"`
	Node       string `json:"node"`
	Datacenter string `json:"datacenter"`
	Endpoint   string `json:"endpoint"`
	Join       string `json:"join"`
	Encryption string `json:"encryption"`
	Trust      string `json:"trust"`
}

// clusterInit decides everything and writes the three files; the records
// follow when `meshvpc server` first starts. It needs no network.
func (p *program) clusterInit(_ context.Context, c *cli.Context) error {
	d := hostDirs()
	if err := refuseInitialised(d); err != nil {
		return err
	}
	dc, err := datacenterOf(c)
	if err != nil {
		return err
	}
	name, err := chooseName(c.String("name"), os.Hostname)
	if err != nil {
		return err
	}
	if e := c.String("engine"); e != "etcd" {
		return usage("want --engine etcd", "unknown engine %q", e)
	}
	vnis, err := parseVNIRange(c.String("vni-range"))
	if err != nil {
		return err
	}
	port := c.Uint("underlay-port")
	if port == 0 || port > 65535 {
		return usage("want a UDP port, 1 to 65535", "invalid underlay port %d", port)
	}
	have, err := hostAddresses()
	if err != nil {
		return err
	}
	bind, advertise, err := checkUnderlay(c.StringSlice("underlay"), have)
	if err != nil {
		return err
	}
	id := randomID()
	endpoint := joinHost(advertise, clientPort)
	server := serverConfig{Name: name, Datacenter: dc, Engine: "etcd", DataDir: filepath.Join(d.state, "store"),
		Listen: []string{joinHost(bind, clientPort)}, Advertise: []string{endpoint}, ListenPeers: []string{joinHost(bind, peerPort)},
		Bootstrap: &bootstrap{Cluster: c.String("cluster"), ClusterID: randomID(), NodeID: id, UnderlayPort: uint16(port), VNIs: vnis}}
	err = writeConfigs(
		file{d.client(), clientConfig{Endpoints: []string{endpoint}}},
		file{d.agent(), agentConfig{Node: name, ID: id, Endpoints: []string{endpoint}, Underlay: c.StringSlice("underlay")}},
		file{d.server(), server})
	if err != nil {
		return err
	}
	r := initReport{Cluster: c.String("cluster"), Node: name, Datacenter: dc, Endpoint: endpoint,
		Join: "meshvpc cluster join " + endpoint + " --datacenter DC", Encryption: "none", Trust: "none"}
	return p.print(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "node %s in datacenter %s is the first of cluster %s; its store will be at %s\n", r.Node, r.Datacenter, r.Cluster, r.Endpoint)
		fmt.Fprintf(w, "start with:   meshvpc server   and   meshvpc agent   (two services)\n")
		fmt.Fprintf(w, "join others:  %s\n", r.Join)
		fmt.Fprintf(w, "encryption: none\ntrust: none (who reaches port %d can join and change everything: keep it private)\n", clientPort)
	})
}

// refuseInitialised refuses a host that is a node already.
func refuseInitialised(d dirs) error {
	for _, path := range []string{d.server(), d.agent()} {
		_, err := os.Stat(path)
		if err == nil {
			return failed("to begin anew, take this node out of its cluster (meshvpc node remove, meshvpc node purge) and remove that file",
				"initialise cluster: this host is a node already: %s exists", path)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("initialise cluster: %w", err)
		}
	}
	return nil
}

func datacenterOf(c *cli.Context) (string, error) {
	dc := c.String("datacenter")
	if dc == "" {
		return "", usage("say where this host is: --datacenter NAME", "the datacenter is missing")
	}
	if cluster.CheckNodeName(dc) != nil {
		return "", usage("want 1 to 63 of a-z, 0-9 and -, not beginning or ending with -", "invalid datacenter name %q", dc)
	}
	return dc, nil
}

func parseVNIRange(s string) (cluster.VNIRange, error) {
	first, last, ok := strings.Cut(s, "-")
	a, err1 := strconv.ParseUint(first, 10, 32)
	b, err2 := strconv.ParseUint(last, 10, 32)
	r := cluster.VNIRange{First: cluster.VNI(a), Last: cluster.VNI(b)}
	if !ok || err1 != nil || err2 != nil || r.Validate() != nil {
		return r, usage(fmt.Sprintf("want FIRST-LAST, both from 1 to %d", cluster.MaxVNI), "invalid VNI range %q", s)
	}
	return r, nil
}

// file is a configuration to write.
type file struct {
	path   string
	config any
}

// writeConfigs writes files that are not there yet, all or none.
func writeConfigs(files ...file) error {
	for i, f := range files {
		if err := writeConfig(f.path, f.config); err != nil {
			for _, g := range files[:i] {
				err = errors.Join(err, os.Remove(g.path))
			}
			return err
		}
	}
	return nil
}
