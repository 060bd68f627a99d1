package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// attachWait is how long an attach waits: longer than the agent has patience.
const attachWait = 30 * time.Second

func (p *program) endpointAttachCommand() *cli.Command {
	return p.verb("attach", "E", "attach a workload of this host to an endpoint, and wait until frames pass", localFlags(
		inVPCFlag(),
		&cli.StringFlag{Name: "netns", Usage: "its network namespace: a `NAME|PID|PATH` (a name of /run/netns, a number always a process)"},
		&cli.StringFlag{Name: "inner", Usage: "`NAME` of the device in the namespace (default eth0)"},
		&cli.BoolFlag{Name: "no-gateway", Usage: "leave the namespace's routes alone, though the VPC has a gateway"},
		&cli.StringFlag{Name: "tap", Usage: "make the tap device `NAME`, for a virtual machine"},
		&cli.StringFlag{Name: "owner", Usage: "`USER|UID` who may open the tap (default root)"},
		&cli.StringFlag{Name: "device", Usage: "lend the device `DEV` of this host to the VPC"},
		&cli.BoolFlag{Name: "trust", Usage: "let it send whatever it likes"},
		&cli.BoolFlag{Name: "standby", Usage: "attach it though another node has the endpoint: no frame passes until \"endpoint move\""},
	), p.endpointAttach)
}

func (p *program) endpointDetachCommand() *cli.Command {
	return p.verb("detach", "E", "take a workload's port away; its addresses and MAC stay the endpoint's", localFlags(inVPCFlag()), p.endpointDetach)
}

// localFlags are the flags of a command that asks this host's agent alone.
func localFlags(more ...cli.Flag) []cli.Flag {
	return append(more, timeoutFlag(attachWait, "how long to wait"), outputFlag())
}

func inVPCFlag() cli.Flag {
	return &cli.StringFlag{Name: "vpc", Usage: "in VPC `V` (default: the one that has such an endpoint)"}
}

func (p *program) endpointAttach(ctx context.Context, c *cli.Context) error {
	request, err := attachRequest(c)
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	done, err := agentClient().Attach(wait, request)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return notSo("nothing of it stays; see \"meshvpc status\"", "attach endpoint %q: not done after %s", clean(request.Endpoint), c.Duration("timeout"))
	}
	if err != nil {
		return err
	}
	return p.print(c, done, func(w io.Writer) { attachedText(w, done) })
}

// attachRequest reads the command line.
func attachRequest(c *cli.Context) (r local.AttachRequest, err error) {
	r = local.AttachRequest{VPC: c.String("vpc"), Endpoint: c.Args().First(), Inner: c.String("inner"), NoGateway: c.Bool("no-gateway"), Tap: c.String("tap"),
		Device: c.String("device"), Trust: c.Bool("trust"), Standby: c.Bool("standby")}
	if err := checkLocalNames(r.VPC, r.Endpoint); err != nil {
		return r, err
	}
	var given []string
	for _, name := range []string{"netns", "tap", "device"} {
		if c.IsSet(name) {
			given = append(given, "--"+name)
			if c.String(name) == "" {
				return r, usage("see \"meshvpc endpoint attach --help\"", "--%s is empty", name)
			}
		}
	}
	switch {
	case len(given) == 0:
		return r, usage("name one: --netns NAME|PID|PATH, --tap NAME or --device DEV", "attach endpoint %q: to what is missing", clean(r.Endpoint))
	case len(given) > 1:
		return r, usage("one endpoint, one workload: choose one of them", "attach endpoint %q: %s exclude each other", clean(r.Endpoint), strings.Join(given, " and "))
	case c.IsSet("inner") && given[0] != "--netns":
		return r, usage("leave --inner out", "--inner names a device in a namespace, and %s has none", given[0])
	case c.IsSet("owner") && given[0] != "--tap":
		return r, usage("leave --owner out", "--owner may open a tap, and %s is none", given[0])
	}
	if c.IsSet("netns") {
		if r.Netns, err = namespacePath(c.String("netns")); err != nil {
			return r, err
		}
	}
	if c.IsSet("owner") {
		id, err := userID(c.String("owner"))
		if err != nil {
			return r, err
		}
		r.TapOwner = &id
	}
	return r, nil
}

// checkLocalNames refuses names that no record can have.
func checkLocalNames(vpc, endpoint string) error {
	if err := cluster.CheckNodeName(endpoint); err != nil {
		return &refusal{exitUsage, fmt.Errorf("endpoint: %w", err), ""}
	}
	if vpc == "" {
		return nil
	}
	if err := cluster.CheckVPCName(vpc); err != nil {
		return &refusal{exitUsage, err, ""}
	}
	return nil
}

// namespacePath is the path of a network namespace by name, process or path.
func namespacePath(word string) (string, error) {
	if strings.Contains(word, "/") {
		path, err := filepath.Abs(word)
		if err != nil {
			return "", fmt.Errorf("find namespace %s: %w", clean(word), err)
		}
		return path, nil
	}
	if pid, err := strconv.ParseUint(word, 10, 31); err == nil && pid > 0 {
		return fmt.Sprintf("/proc/%d/ns/net", pid), nil
	}
	if word == "." || word == ".." || clean(word) != word {
		return "", usage("want a name of /run/netns, a process's number or a path", "no namespace can be called %q", clean(word))
	}
	return "/run/netns/" + word, nil
}

// userID is a user's number.
func userID(word string) (int, error) {
	if n, err := strconv.ParseUint(word, 10, 32); err == nil {
		return int(n), nil
	}
	u, err := user.Lookup(word)
	if err != nil {
		return 0, usage("want a user of this host, or a number", "--owner: %v", err)
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return 0, usage("give the number", "--owner: the user %s has the id %q", clean(word), clean(u.Uid))
	}
	return int(n), nil
}

func attachedText(w io.Writer, a local.Attached) {
	to := a.Device
	if a.Netns != "" {
		to = fmt.Sprintf("%s in %s, by the port %s", a.Inner, clean(a.Netns), a.Device)
	}
	if a.Trusted {
		to += ", trusted"
	}
	gateways := ""
	for _, g := range a.Gateways {
		gateways += fmt.Sprintf("gateway:    %s\n", g)
	}
	if len(a.Routes) > 0 {
		gateways += fmt.Sprintf("routes:     %s\n", prefixes(a.Routes))
	}
	fmt.Fprintf(w, "endpoint:   %s of VPC %s\nattached:   %s\naddresses:  %s\n%smac:        %s\nmtu:        %d\nstate:      %s\n", a.Endpoint, a.VPC, to,
		cmp.Or(prefixes(a.Addresses), "-"), gateways, a.MAC, a.MTU, string(a.State)+suffix(": ", clean(a.Reason)))
}

func prefixes(list []netip.Prefix) string {
	var words []string
	for _, p := range list {
		words = append(words, p.String())
	}
	return strings.Join(words, ", ")
}

func (p *program) endpointDetach(ctx context.Context, c *cli.Context) error {
	vpc, endpoint := c.String("vpc"), c.Args().First()
	if err := checkLocalNames(vpc, endpoint); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	err := agentClient().Detach(wait, local.DetachRequest{VPC: vpc, Endpoint: endpoint})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return notSo("it goes on by itself; see \"meshvpc status\"", "detach endpoint %q: not done after %s", clean(endpoint), c.Duration("timeout"))
	}
	if err != nil {
		return err
	}
	return p.print(c, map[string]any{"endpoint": endpoint, "attached": false}, func(w io.Writer) {
		fmt.Fprintf(w, "endpoint %s is not attached here\n", endpoint)
	})
}
