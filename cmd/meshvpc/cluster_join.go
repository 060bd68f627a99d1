package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
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
		timeoutFlag(defaultJoin, "how long the server may take to answer"),
		outputFlag(),
	}, p.clusterJoin)
}

// defaultJoin bounds a join. A server that has just been started serves joins a
// moment later, so it is tried again until then.
const defaultJoin = 10 * time.Second

// joinReport is `cluster join -o json`.
type joinReport struct {
	Cluster    string   `json:"cluster"`
	Node       string   `json:"node"`
	Datacenter string   `json:"datacenter"`
	Endpoints  []string `json:"endpoints"`
}

// clusterJoin has a server make this host a node, and writes the host's files.
// The node's id and keys are on disk before they are in the store, so that a
// join that was cut short goes on as the same node.
func (p *program) clusterJoin(ctx context.Context, c *cli.Context) error {
	d := hostDirs()
	address, err := hostPort(c.Args().First(), joinPort)
	if err != nil {
		return err
	}
	dc, err := datacenterOf(c)
	if err != nil {
		return err
	}
	had, rejoin, err := joinedAs(d)
	if err != nil {
		return err
	}
	given := c.String("name")
	if given == "" && rejoin {
		given = had.Node
	}
	name, err := chooseName(given, os.Hostname)
	if err != nil {
		return err
	}
	if rejoin && had.Node != name {
		return failed("take that node out first: meshvpc node remove "+had.Node+", then meshvpc node purge on this host",
			"join cluster as %s: this host is node %s already (%s)", name, had.Node, d.agent())
	}
	if _, err := os.Stat(d.server()); err == nil {
		return failed("it is a node already: start \"meshvpc server\" and \"meshvpc agent\"", "join cluster: this host is a server: %s exists", d.server())
	}
	token, err := p.joinToken(c)
	if err != nil {
		return err
	}
	have, err := hostAddresses()
	if err != nil {
		return err
	}
	if _, _, err := checkUnderlay(c.StringSlice("underlay"), have); err != nil {
		return err
	}
	endpoint, err := storeOf(address)
	if err != nil {
		return err
	}
	pem := d.pem(cluster.SubjectNode)
	agent := agentConfig{Node: name, ID: cmp.Or(had.ID, randomID()), Endpoints: []string{endpoint}, Underlay: c.StringSlice("underlay"), TLS: &pem}
	if rejoin && !c.IsSet("underlay") {
		agent.Underlay = had.Underlay
	}
	ctx, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	r, err := joinAs(ctx, d, address, token, agent, dc)
	if err != nil {
		return explainJoin(err, address, name, c.Duration("timeout"))
	}
	return p.print(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "node %s in datacenter %s is in cluster %s\nstart with:   meshvpc service install   (or, by hand: meshvpc agent)\n", r.Node, r.Datacenter, r.Cluster)
	})
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
		b, err = io.ReadAll(io.LimitReader(p.in, 1<<16))
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
	if t.Role != cluster.TokenNode {
		return t, usage("use a token of the role node", "the token is for a %s", t.Role)
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

// joinAs joins. What it has written it takes away again if it is certain that
// nothing has happened on the server.
func joinAs(ctx context.Context, d dirs, address string, t membership.Token, agent agentConfig, dc string) (r joinReport, err error) {
	var made []string
	node, fresh, err := newKeyFile(agent.TLS.Key)
	if fresh {
		made = append(made, agent.TLS.Key)
	}
	var asked bool
	defer func() {
		if err != nil && !asked {
			for _, path := range made {
				err = errors.Join(err, os.Remove(path))
			}
		}
	}()
	if err != nil {
		return r, err
	}
	viewerKey := d.pem(cluster.SubjectUser).Key
	viewer, fresh, err := newKeyFile(viewerKey)
	if fresh {
		made = append(made, viewerKey)
	}
	if err != nil {
		return r, err
	}
	if _, err := os.Stat(d.agent()); errors.Is(err, fs.ErrNotExist) {
		made = append(made, d.agent())
		if err := writeConfig(d.agent(), agent); err != nil {
			return r, err
		}
	}
	q := membership.JoinRequest{Name: agent.Node, ID: agent.ID, Datacenter: dc}
	for _, x := range []struct {
		key  membership.Key
		text *string
	}{{node, &q.Request}, {viewer, &q.Viewer}} {
		b, err := x.key.Request()
		if err != nil {
			return r, err
		}
		*x.text = string(b)
	}
	answer, ca, asked, err := askToJoin(ctx, address, t, q)
	if err != nil {
		return r, err
	}
	if answer.StoreCA != "" {
		agent.Endpoints, agent.Servers = nil, answer.Servers
		agent.TLS.StoreCA = filepath.Join(filepath.Dir(agent.TLS.CA), "store-ca.crt")
		if err := writeFile(agent.TLS.StoreCA, []byte(answer.StoreCA)); err != nil {
			return r, err
		}
	}
	for _, e := range answer.Endpoints {
		if !slices.Contains(agent.Endpoints, e) {
			agent.Endpoints = append(agent.Endpoints, e)
		}
	}
	reader := newClientConfig(agent.Endpoints, membership.Credential{CA: ca, Cert: []byte(answer.Viewer), Key: viewer.PEM, StoreCA: []byte(answer.StoreCA)})
	reader.Servers = agent.Servers
	for _, f := range []file{{agent.TLS.CA, ca}, {agent.TLS.Cert, []byte(answer.Certificate)},
		{d.client(), reader}, {d.agent(), agent}} {
		if err := f.write(); err != nil {
			return r, err
		}
	}
	return joinReport{Cluster: clean(answer.Cluster), Node: agent.Node, Datacenter: clean(answer.Datacenter), Endpoints: agent.Endpoints}, nil
}

// askToJoin asks until there is an answer or ctx ends. asked: the host may have
// been let in, also with an error.
func askToJoin(ctx context.Context, address string, t membership.Token, q membership.JoinRequest) (answer membership.JoinAnswer, ca []byte, asked bool, err error) {
	wait := 50 * time.Millisecond
	for {
		answer, ca, err = membership.Join(ctx, address, t, q)
		var code membership.Code
		if r, refused := errors.AsType[*membership.Refusal](err); refused {
			code = r.Code
		}
		dial, cut := errors.AsType[*net.OpError](err)
		switch {
		case err == nil, errors.Is(err, membership.ErrUntrusted):
			return answer, ca, asked, err
		case code == membership.CodeUnavailable, code == "" && !(cut && dial.Op == "dial"):
			asked = true
		case code != "" && code != membership.CodeNoCluster:
			return answer, ca, asked, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return answer, ca, asked, err
		case <-timer.C:
		}
		wait = min(2*wait, time.Second)
	}
}

// explainJoin says what to do about a join that failed.
func explainJoin(err error, address, name string, timeout time.Duration) error {
	if errors.Is(err, membership.ErrUntrusted) {
		return failed("is ADDR a server of the cluster that made the token? if it is, somebody is between you and it", "join cluster: the server at %s: %w", address, err)
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
		membership.CodeUnavailable: "look at the log of \"meshvpc server\" there",
	}
	return failed(hints[r.Code], "join cluster: %w", err)
}
