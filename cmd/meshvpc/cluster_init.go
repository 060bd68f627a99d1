package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

func (p *program) clusterInitCommand() *cli.Command {
	return p.verb("init", "", "make this host the first node and server of a new cluster", append([]cli.Flag{
		&cli.StringFlag{Name: "datacenter", Usage: "`NAME` of the datacenter that this host is in (required)"},
		&cli.StringFlag{Name: "name", Usage: "`NAME` of this node (default: the host's name)"},
		underlayFlag(),
		&cli.StringFlag{Name: "cluster", Value: "meshvpc", Usage: "`NAME` of the cluster, for people"},
		&cli.UintFlag{Name: "underlay-port", Value: cluster.DefaultUnderlayPort, Usage: "UDP `PORT` of all tunnels"},
		&cli.StringFlag{Name: "vni-range", Value: fmt.Sprintf("%d-%d", cluster.DefaultVNIRange.First, cluster.DefaultVNIRange.Last), Usage: "`FIRST-LAST` of the VNIs to allocate"},
		outputFlag(),
	}, externalFlags()...), p.clusterInit)
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
	Engine     string `json:"engine"`
	ClientCA   string `json:"client_ca,omitempty"` // file that an external etcd has to trust
}

// clusterInit decides everything and writes the three files; the records
// follow when `meshvpc server` first starts. It needs no network, but for a look
// at an external etcd.
func (p *program) clusterInit(ctx context.Context, c *cli.Context) error {
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
	theirs, err := chosenEngine(c)
	if err != nil {
		return err
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
	server := newServerConfig(d, name, dc, bind, advertise)
	server.Follow = followed(c.StringSlice("underlay"))
	if theirs != nil {
		if err := theirs.fresh(ctx, "initialise cluster"); err != nil {
			return err
		}
		server = newExternalServer(d, name, dc, bind, advertise, theirs)
	}
	server.Bootstrap = &bootstrap{Cluster: c.String("cluster"), ClusterID: randomID(), NodeID: id, UnderlayPort: uint16(port), VNIs: vnis}
	node := d.pem(cluster.SubjectNode)
	node.StoreCA = server.TLS.StoreCA
	agent := agentConfig{Node: name, ID: id, Endpoints: server.endpoints(), elsewhere: server.elsewhere(), Underlay: c.StringSlice("underlay"), TLS: &node}
	token, err := found(d, server, agent, p.now())
	if err != nil {
		return err
	}
	r := initReport{Cluster: c.String("cluster"), Node: name, Datacenter: dc, Endpoint: server.endpoints()[0], Engine: server.Engine,
		Join: "meshvpc cluster join " + advertise.String() + " --datacenter DC --token " + token.String(), Encryption: "none", Trust: "mTLS"}
	if theirs != nil {
		r.ClientCA = server.TLS.CA
	}
	return p.print(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "node %s in datacenter %s is the first of cluster %s; its store will be at %s\n", r.Node, r.Datacenter, r.Cluster, r.Endpoint)
		if theirs != nil {
			tellExternal(w, server)
		}
		fmt.Fprintf(w, "start with:   meshvpc service install   (or, by hand: meshvpc server and meshvpc agent)\n")
		fmt.Fprintf(w, "join another: %s\n", r.Join)
		fmt.Fprintf(w, "              (that token is for one host, within %v; more: meshvpc cluster token create --uses 5)\n", tokenLife)
		fmt.Fprintf(w, "trust: control plane by certificates (mTLS); %s is an admin's: keep it, and %s, to yourself\n", d.client(), server.TLS.CAKey)
		fmt.Fprintf(w, "encryption: none (VXLAN carries tenants' frames in the clear)\n")
	})
}

// newServerConfig is a server with the default ports and directories.
func newServerConfig(d dirs, name, dc string, bind, advertise netip.Addr) serverConfig {
	return serverConfig{Name: name, Datacenter: dc, Engine: engineEtcd, DataDir: d.store(),
		Listen: []string{joinHost(bind, clientPort)}, Advertise: []string{joinHost(advertise, clientPort)}, ListenPeers: []string{joinHost(bind, peerPort)},
		ListenJoin: []string{joinHost(bind, joinPort)}, AdvertisePeers: []string{joinHost(advertise, peerPort)}, TLS: d.pem(cluster.SubjectServer)}
}

// firstAdmin is the user whose credential `cluster init` makes.
const firstAdmin = "admin"

// found makes the CA, the credentials of this host and of the first admin, and a
// first token, and writes all files, or none.
func found(d dirs, server serverConfig, agent agentConfig, now time.Time) (membership.Token, error) {
	b := server.Bootstrap
	ca, err := membership.NewCA(b.Cluster, now)
	if err != nil {
		return membership.Token{}, err
	}
	addresses, err := serverAddresses(server)
	if err != nil {
		return membership.Token{}, err
	}
	files := []file{{server.TLS.CA, ca.CertPEM()}}
	credentials := map[cluster.SubjectKind]membership.Credential{}
	for _, x := range []struct {
		subject cluster.Subject
		keep    *pemFiles
	}{
		{serverSubject(server), &server.TLS},
		{cluster.Subject{Kind: cluster.SubjectNode, Name: agent.Node}, agent.TLS},
		{cluster.Subject{Kind: cluster.SubjectUser, Name: firstAdmin}, nil},
	} {
		c, err := ca.Credential(x.subject, addresses, now)
		if err != nil {
			return membership.Token{}, err
		}
		credentials[x.subject.Kind] = c
		if x.keep != nil {
			files = append(files, file{x.keep.Cert, c.Cert}, file{x.keep.Key, c.Key})
		}
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return membership.Token{}, err
	}
	if b.NodeKey, err = credentials[cluster.SubjectNode].KeyHash(); err != nil {
		return membership.Token{}, err
	}
	admin, err := credentials[cluster.SubjectUser].KeyHash()
	if err != nil {
		return membership.Token{}, err
	}
	if err := os.Remove(markFounded(server)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return membership.Token{}, fmt.Errorf("initialise cluster: %w", err)
	}
	token := membership.NewToken(cluster.TokenNode, ca.Pin())
	b.Admin = &cluster.User{Role: cluster.UserAdmin, Key: admin, Created: cluster.At(now), By: "cluster init"}
	b.TokenID = token.RecordID()
	b.Token = token.Record(1, now, tokenLife, "cluster init")
	mine, err := clientOf(server, credentials[cluster.SubjectUser])
	if err != nil {
		return membership.Token{}, err
	}
	return token, writeConfigs(append(files, file{server.TLS.CAKey, key}, file{d.client(), mine},
		file{d.agent(), agent}, file{d.server(), server})...)
}

// refuseInitialised refuses a host that is a node already.
func refuseInitialised(d dirs) error {
	for _, path := range []string{d.server(), d.agent(), d.pem(cluster.SubjectServer).CAKey} {
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

// file is a file to write: a configuration, or text as it is.
type file struct {
	path    string
	content any
}

func (f file) write() error {
	if text, ok := f.content.([]byte); ok {
		return writeFile(f.path, text)
	}
	return writeConfig(f.path, f.content)
}

// writeConfigs writes files that are not there yet, all or none.
func writeConfigs(files ...file) error {
	for i, f := range files {
		if err := f.write(); err != nil {
			for _, g := range files[:i] {
				err = errors.Join(err, os.Remove(g.path))
			}
			return err
		}
	}
	return nil
}
