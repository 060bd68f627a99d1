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
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/store"
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
	token, err := p.joinToken(c)
	if err != nil {
		return err
	}
	have, err := hostAddresses()
	if err != nil {
		return err
	}
	bind, advertise, err := checkUnderlay(c.StringSlice("underlay"), have)
	if err != nil {
		return err
	}
	server, err := joiningServer(d, token.Role, name, dc, bind, advertise)
	if err != nil {
		return err
	}
	if server != nil {
		server.Follow = followed(c.StringSlice("underlay"))
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
	if server != nil && server.Witness {
		agent.ID, agent.TLS = server.Joined.NodeID, nil
	}
	here := cluster.Underlay{}
	if agent.TLS != nil && !c.Bool("no-ask-back") {
		if here, err = underlayFor(agent, have); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	r, err := joiner{d, token, agent, server, dc, here}.join(ctx, address)
	if err != nil {
		return explainJoin(err, address, name, c.Duration("timeout"))
	}
	return p.print(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "%s %s in datacenter %s is in cluster %s\nstart with:   meshvpc service install   (or, by hand: %s)\n", r.Role, r.Node, r.Datacenter, r.Cluster, byHand(token.Role))
		for _, a := range r.Silent {
			fmt.Fprintf(w, "note: the server got no answer at %s: VPCs do without that address until UDP port 4788 is open there\n", a)
		}
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

// joiner is a host that is about to join.
type joiner struct {
	d      dirs
	token  membership.Token
	agent  agentConfig
	server *serverConfig // nil: it will be none
	dc     string
	here   cluster.Underlay // where to answer the server; empty: it does not ask
}

// join joins. What it has written it takes away again if it is certain that
// nothing has happened on the server.
func (j joiner) join(ctx context.Context, address string) (r joinReport, err error) {
	var (
		made                   []string
		asked                  bool
		d, agent, server, here = j.d, j.agent, j.server, j.here
		q                      = membership.JoinRequest{Name: agent.Node, ID: agent.ID, Datacenter: j.dc, Underlay: here.Advertised(), Version: version()}
	)
	defer func() {
		if err != nil && !asked {
			for _, path := range made {
				err = errors.Join(err, os.Remove(path))
			}
		}
	}()
	// keyed makes a key, or takes the one that is there, and asks for a certificate.
	keyed := func(path string, request *string) (membership.Key, error) {
		key, fresh, err := newKeyFile(path)
		if fresh {
			made = append(made, path)
		}
		if err != nil {
			return key, err
		}
		b, err := key.Request()
		*request = string(b)
		return key, err
	}
	viewer, err := keyed(d.pem(cluster.SubjectUser).Key, &q.Viewer)
	if err != nil {
		return r, err
	}
	var node membership.Key
	before := map[string]any{} // files that say who this host is, before a server knows
	if agent.TLS != nil {
		if node, err = keyed(agent.TLS.Key, &q.Request); err != nil {
			return r, err
		}
		before[d.agent()] = agent
	}
	var serverKey membership.Key
	if server != nil {
		if q.Server, err = serverRequest(*server); err != nil {
			return r, err
		}
		if serverKey, err = keyed(server.TLS.Key, &q.Server.Request); err != nil {
			return r, err
		}
		before[d.server()] = server
	}
	for path, content := range before {
		if _, err = os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			made = append(made, path)
			err = writeConfig(path, content)
		}
		if err != nil {
			return r, err
		}
	}
	var (
		answer membership.JoinAnswer
		ca     []byte
	)
	stop := func() {}
	if len(q.Underlay) > 0 {
		if stop, err = answerAt(ctx, node, here); err != nil {
			return r, err
		}
	}
	answer, ca, asked, err = askToJoin(ctx, address, j.token, q)
	stop()
	if err != nil {
		return r, err
	}
	asked = true
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
	files := []file{{d.client(), reader}}
	if agent.TLS != nil {
		files = append(files, file{agent.TLS.CA, ca}, file{agent.TLS.Cert, []byte(answer.Certificate)}, file{d.agent(), agent})
	}
	if server != nil {
		own := membership.Credential{CA: ca, Cert: []byte(answer.Server), Key: serverKey.PEM}
		more, err := serverFiles(ctx, d, address, *server, own, agent.Endpoints)
		if err != nil {
			return r, err
		}
		files = append(files, more...)
	}
	for _, f := range files {
		if err := f.write(); err != nil {
			return r, err
		}
	}
	return joinReport{Cluster: clean(answer.Cluster), Node: agent.Node, Role: string(j.token.Role), Datacenter: clean(answer.Datacenter), Endpoints: agent.Endpoints, Silent: answer.Silent}, nil
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
		if !store.Sleep(ctx, wait) {
			return answer, ca, asked, err
		}
		wait = min(2*wait, time.Second)
	}
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
