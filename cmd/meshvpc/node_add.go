package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func (p *program) nodeAddCommand() *cli.Command {
	return p.verb("add", "[USER@]HOST[:PORT]", "log in to a host by SSH and make it a node", waitFlags(10*time.Minute,
		&cli.StringFlag{Name: "datacenter", Usage: "`NAME` of the datacenter that the host is in (required)"},
		&cli.StringFlag{Name: "name", Usage: "`NAME` of the node (default the host's name)"},
		underlayFlag(),
		&cli.StringFlag{Name: "join", Usage: "`ADDR` of a server, as the host reaches it (default the first of the client file)"},
		&cli.StringFlag{Name: "identity", Usage: "log in with the private key in `FILE` alone (default the SSH agent's, then ~/.ssh/id_*)"},
		&cli.StringFlag{Name: "known-hosts", Usage: "`FILE` of known hosts (default ~/.ssh/known_hosts)"},
		&cli.StringFlag{Name: "host-key", Usage: "accept the unknown host if its key has this `FINGERPRINT`, SHA256:..."},
		&cli.StringFlag{Name: "binary", Usage: "`FILE` to copy (default this program, or meshvpc-OS-ARCH beside it)"},
		&cli.StringFlag{Name: "path", Value: "/usr/local/bin/meshvpc", Usage: "where it goes on the host"},
		&cli.BoolFlag{Name: "dry-run", Usage: "look at the host, print the steps, and change nothing"},
	), p.withStore(p.nodeAdd))
}

// addReport is `node add -o json`.
type addReport struct {
	Host       string    `json:"host"`
	HostKey    string    `json:"host_key"`
	OS         string    `json:"os"`
	Arch       string    `json:"arch"`
	Node       string    `json:"node"`
	Datacenter string    `json:"datacenter"`
	DryRun     bool      `json:"dry_run"`
	Live       bool      `json:"live"`
	Steps      []addStep `json:"steps"`
}

func (p *program) nodeAdd(ctx context.Context, c *cli.Context, s *session) error {
	q, err := addRequestOf(c, s.endpoints)
	if err != nil {
		return err
	}
	ask := p.asks
	login, err := newLogin(q.target, c.String("identity"), ask)
	defer login.close()
	if err != nil {
		return err
	}
	keys, err := newHostKeys(c.String("known-hosts"), c.String("host-key"), !c.Bool("dry-run"), ask, p.warn)
	if err != nil {
		return err
	}
	if _, _, err := store.List[*cluster.Token](ctx, s.store, cluster.PrefixToks); err != nil {
		return fmt.Errorf("add node: %w", err) // who sees no tokens cannot make one
	}
	ctx, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	a := adding{program: p, session: s, request: q, asker: ask, bound: c.Duration("timeout"), at: "log in"}
	host, err := dialSSH(ctx, q.target, keys, login)
	if err != nil {
		return a.stepFailed(ctx, err)
	}
	defer host.close()
	a.remote = host
	r, err := a.add(ctx, c.Bool("dry-run"))
	if err != nil {
		return err
	}
	r.HostKey = host.key
	return p.print(c, r, func(w io.Writer) { printAdded(w, r) })
}

func printAdded(w io.Writer, r addReport) {
	for _, s := range r.Steps {
		fmt.Fprintf(w, "%-8s %s\n", s.Step, s)
		if r.DryRun && s.Command != "" {
			fmt.Fprintf(w, "         there: %s\n", s.Command)
		}
	}
	if r.DryRun {
		fmt.Fprintf(w, "nothing was done on %s (%s/%s, host key %s)\n", r.Host, r.OS, r.Arch, r.HostKey)
		return
	}
	fmt.Fprintf(w, "node %s in datacenter %s is live\n", r.Node, r.Datacenter)
}

// addRequest is what was asked for.
type addRequest struct {
	target     sshTarget
	datacenter string
	name       string // "" is the host's
	underlay   []string
	join       string // ADDR of cluster join
	binary     string // "" is to be found
	path       string // of the program there
	unique     string // in the name of what is half copied
}

func addRequestOf(c *cli.Context, endpoints []string) (q addRequest, err error) {
	q = addRequest{name: c.String("name"), underlay: c.StringSlice("underlay"), join: c.String("join"), binary: c.String("binary"), path: c.String("path"), unique: randomID()}
	if q.target, err = parseTarget(c.Args().First(), currentUser()); err != nil {
		return q, err
	}
	if q.datacenter, err = datacenterOf(c); err != nil {
		return q, err
	}
	if q.name != "" {
		if _, err := chooseName(q.name, nil); err != nil {
			return q, err
		}
	}
	if !plainPath.MatchString(q.path) {
		return q, usage("want an absolute path of letters, digits and /._+@-", "invalid --path %q", q.path)
	}
	if q.join != "" {
		_, err = hostPort(q.join, joinPort)
		return q, err
	}
	i := slices.IndexFunc(endpoints, seenFromOutside)
	if i < 0 {
		return q, usage("say how the host reaches a server: --join ADDR", "the client file knows a server by %s only, which is this host's own", few(endpoints))
	}
	q.join = joinAddress(endpoints[i])
	return q, nil
}

// seenFromOutside reports whether another host could mean the same by an address.
func seenFromOutside(endpoint string) bool {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		host = endpoint
	}
	a, err := netip.ParseAddr(host)
	return host != "localhost" && (err != nil || !a.IsLoopback() && !a.IsUnspecified())
}

// adding is one host on its way into the cluster.
type adding struct {
	*program
	*session
	request addRequest
	remote  remote
	asker   asker
	bound   time.Duration
	at      string // the step that is under way
}

// add looks at the host, decides, and does it unless it is a dry run.
func (a *adding) add(ctx context.Context, dry bool) (addReport, error) {
	q := a.request
	r := addReport{Host: q.target.String(), Datacenter: q.datacenter, DryRun: dry}
	a.at = "look"
	root, facts, err := a.look(ctx)
	if err != nil {
		return r, a.stepFailed(ctx, err)
	}
	r.OS, r.Arch = facts.os, facts.arch
	plan, err := a.decide(ctx, facts)
	if err != nil {
		return r, err
	}
	r.Node = plan.node
	if facts.os == "freebsd" {
		a.warn("meshvpc agent does not run on FreeBSD yet: the node joins, and is not live until it does")
	}
	r.Steps = plan.steps
	if dry {
		return r, nil
	}
	err = a.apply(ctx, root, plan, r.Steps)
	r.Live = err == nil
	return r, err
}

// decide finds what the plan depends on, and makes it.
func (a *adding) decide(ctx context.Context, facts hostFacts) (addPlan, error) {
	a.at = "plan"
	name, err := nameToAdd(a.request, facts)
	if err != nil {
		return addPlan{}, a.stepFailed(ctx, err)
	}
	records, err := a.recordsOf(ctx, name)
	if err != nil {
		return addPlan{}, err
	}
	file, err := findProgram(a.request.binary, facts.os, facts.arch, programFile{os: runtime.GOOS, arch: runtime.GOARCH})
	if err != nil {
		return addPlan{}, a.stepFailed(ctx, err)
	}
	plan, err := planAdd(a.request, name, facts, records, file)
	if err != nil {
		return addPlan{}, a.stepFailed(ctx, err)
	}
	return plan, nil
}

// recordsOf is what the cluster knows of a name.
func (a *adding) recordsOf(ctx context.Context, name string) (known nodeRecords, err error) {
	v, err := a.read(ctx, nil, cluster.KeyNode(name), cluster.KeyLive(name))
	if err != nil {
		return known, err
	}
	if it, ok := store.At[*cluster.Node](v, cluster.KeyNode(name)); ok {
		known.node = it.Value
		known.live = isLive(v, name, it.Value.ID)
	}
	return known, nil
}

func isLive(v *store.View, name, id string) bool {
	live, ok := store.At[*cluster.Live](v, cluster.KeyLive(name))
	return ok && live.Value.NodeID == id
}
