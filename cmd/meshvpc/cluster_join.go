package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

func (p *program) clusterJoinCommand() *cli.Command {
	return p.verb("join", "ADDR", "make this host a node of the cluster that has a server at ADDR", []cli.Flag{
		&cli.StringFlag{Name: "token", Usage: "the `TOKEN` of \"meshvpc cluster token create\", or - to read it from standard input"},
		&cli.StringFlag{Name: "token-file", Usage: "read the token from `FILE`"},
		&cli.StringFlag{Name: "datacenter", Usage: "`NAME` of the datacenter that this host is in (required)"},
		&cli.StringFlag{Name: "name", Usage: "`NAME` of this node (default: the host's name)"},
		underlayFlag(),
		&cli.BoolFlag{Name: "server", Usage: "become a server, too; the token, which decides, has to be a server's"},
		&cli.BoolFlag{Name: "witness", Usage: "become a witness: a server that votes, without an agent and a part in any VPC; the token has to be a witness's"},
		&cli.BoolFlag{Name: "no-ask-back", Usage: "join though the server cannot ask this host back at its underlay address, UDP port 4788 (VPCs take it when that can be done)"},
		timeoutFlag(defaultJoin, "how long the server may take to answer"),
		outputFlag(),
	}, p.clusterJoin)
}

// defaultJoin bounds a join. A server that has just been started serves joins a
// moment later, so it is tried again until then.
const defaultJoin = 10 * time.Second

// joinReport is `cluster join -o json`.
type joinReport struct {
	Cluster    string       `json:"cluster"`
	Node       string       `json:"node"`
	Role       string       `json:"role"`
	Datacenter string       `json:"datacenter"`
	Endpoints  []string     `json:"endpoints"`
	Silent     []netip.Addr `json:"silent,omitempty"` // underlay addresses where the server got no answer
}

// clusterJoin has a server make this host a node, and writes the host's files.
// The node's id and keys are on disk before they are in the store, so that a
// join that was cut short goes on as the same node.
func (p *program) clusterJoin(ctx context.Context, c *cli.Context) error {
	address, err := hostPort(c.Args().First(), joinPort)
	if err != nil {
		return err
	}
	j, err := p.joinerOf(c, hostDirs(), address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	r, err := j.join(ctx, address)
	if err != nil {
		return explainJoin(err, address, j.agent.Node, c.Duration("timeout"))
	}
	return p.print(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "%s %s in datacenter %s is in cluster %s\nstart with:   meshvpc service install   (or, by hand: %s)\n", r.Role, r.Node, r.Datacenter, r.Cluster, byHand(j.token.Role))
		for _, a := range r.Silent {
			fmt.Fprintf(w, "note: the server got no answer at %s: VPCs do without that address until UDP port 4788 is open there\n", a)
		}
	})
}

// joinerOf is this host as the flags, and the files of a join before, have it.
func (p *program) joinerOf(c *cli.Context, d dirs, address string) (*joiner, error) {
	dc, err := datacenterOf(c)
	if err != nil {
		return nil, err
	}
	had, rejoin, err := joinedAs(d)
	if err != nil {
		return nil, err
	}
	name, err := joiningName(c.String("name"), d, had, rejoin)
	if err != nil {
		return nil, err
	}
	token, err := p.joinToken(c)
	if err != nil {
		return nil, err
	}
	have, err := hostAddresses()
	if err != nil {
		return nil, err
	}
	bind, advertise, err := checkUnderlay(c.StringSlice("underlay"), have)
	if err != nil {
		return nil, err
	}
	j := &joiner{d: d, token: token, dc: dc}
	if j.server, err = joiningServer(d, token.Role, name, dc, bind, advertise); err != nil {
		return nil, err
	}
	if j.server != nil {
		j.server.Follow = followed(c.StringSlice("underlay"))
	}
	endpoint, err := storeOf(address)
	if err != nil {
		return nil, err
	}
	pem := d.pem(cluster.SubjectNode)
	j.agent = agentConfig{Node: name, ID: cmp.Or(had.ID, randomID()), Endpoints: []string{endpoint}, Underlay: c.StringSlice("underlay"), TLS: &pem}
	if rejoin && !c.IsSet("underlay") {
		j.agent.Underlay = had.Underlay
	}
	if j.server != nil && j.server.Witness {
		j.agent.ID, j.agent.TLS = j.server.Joined.NodeID, nil
	}
	if j.agent.TLS != nil && !c.Bool("no-ask-back") {
		j.here, err = underlayFor(j.agent, have)
	}
	return j, err
}

// joiningName is the name that a host joins by: it keeps the one that it has.
func joiningName(given string, d dirs, had agentConfig, rejoin bool) (string, error) {
	if given == "" && rejoin {
		given = had.Node
	}
	name, err := chooseName(given, os.Hostname)
	if err == nil && rejoin && had.Node != name {
		err = failed("take that node out first: meshvpc node remove "+had.Node+", then meshvpc node purge on this host",
			"join cluster as %s: this host is node %s already (%s)", name, had.Node, d.agent())
	}
	return name, err
}

// joinToken reads the token from where the flags say.
func (p *program) joinToken(c *cli.Context) (membership.Token, error) {
	text, file := c.String("token"), c.String("token-file")
	const hint = "get one by \"meshvpc cluster token create\" where an admin is, and give it by --token -, --token-file FILE or --token TOKEN"
	var b []byte
	var err error
	switch {
	case (text == "") == (file == ""):
		return membership.Token{}, usage(hint, "the token is missing, or given twice")
	case file != "":
		b, err = os.ReadFile(file)
	case text == "-":
		b, err = readUntil(c.Done(), func() ([]byte, error) { return io.ReadAll(io.LimitReader(p.in, 1<<16)) })
	default:
		b = []byte(text)
	}
	if err != nil {
		return membership.Token{}, fmt.Errorf("read token: %w", err)
	}
	words := strings.Fields(string(b))
	if i := slices.IndexFunc(words, membership.IsToken); i > 0 { // all that create has printed
		words = words[i:]
	}
	if len(words) == 0 {
		return membership.Token{}, usage(hint, "the token is empty")
	}
	t, err := membership.ParseToken(words[0])
	if err != nil {
		return t, &refusal{exitUsage, err, hint}
	}
	for flag, role := range map[string]cluster.TokenRole{"server": cluster.TokenServer, "witness": cluster.TokenWitness} {
		if c.Bool(flag) && t.Role != role {
			return t, usage(fmt.Sprintf("get one by \"meshvpc cluster token create --role %s\"", role), "the token is for a %s", t.Role)
		}
	}
	return t, nil
}

// storeOf is the store's address on the server whose join service has an address.
func storeOf(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(port)
	return net.JoinHostPort(host, strconv.Itoa(n-joinPort+clientPort)), err
}

// joinAddress is what to write after "cluster join" for a server with a store
// address: without the port where it is the usual one.
func joinAddress(endpoint string) string {
	address, err := joinService(endpoint)
	if err != nil {
		return endpoint
	}
	if host, port, err := net.SplitHostPort(address); err == nil && port == strconv.Itoa(joinPort) {
		return host
	}
	return address
}

// joinedAs is the agent.yaml of a host that joined before.
func joinedAs(d dirs) (agentConfig, bool, error) {
	var had agentConfig
	err := readConfig(d.agent(), &had)
	if errors.Is(err, fs.ErrNotExist) {
		return agentConfig{}, false, nil
	}
	return had, err == nil, err
}

// explainJoin says what to do about a join that failed.
func explainJoin(err error, address, name string, timeout time.Duration) error {
	if errors.Is(err, membership.ErrUntrusted) {
		return failed("is ADDR a server of the cluster that made the token? if it is, its CA was replaced since (get another token), or somebody is between you and it", "join cluster: the server at %s: %w", address, err)
	}
	r, refused := errors.AsType[*membership.Refusal](err)
	if !refused {
		return failed("is \"meshvpc server\" running there, and does its firewall let TCP port "+strconv.Itoa(joinPort)+" in?",
			"join cluster: no answer from %s within %v: %w", address, timeout, err)
	}
	hints := map[membership.Code]string{
		membership.CodeToken:       "get another by \"meshvpc cluster token create\"",
		membership.CodeTaken:       "choose another name by --name; if that host is gone for good: meshvpc node remove " + name,
		membership.CodeRemoved:     "run \"meshvpc node purge\" on this host, then join again",
		membership.CodeLeaving:     "try again when it is gone from \"meshvpc node show " + name + "\", or choose another --name",
		membership.CodeNoCluster:   "start \"meshvpc server\" there, on the host where \"meshvpc cluster init\" ran",
		membership.CodeWitness:     "give the address of another server: see \"meshvpc cluster members\"",
		membership.CodeUnreachable: "have that port let in, see --underlay BIND=ADVERTISE, or use --no-ask-back; a node that is gone for good is taken out by \"meshvpc node remove\"",
		membership.CodeVersion:     "versions whose minor numbers are the same or neighbours work together",
		membership.CodeUnavailable: "look at the log of \"meshvpc server\" there",
	}
	return failed(hints[r.Code], "join cluster: %w", err)
}
