package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/yaml"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// Site is a cluster on a lab, run by the commands that an operator types.
type Site struct {
	Lab    *lab.Lab
	Server string // the host that begins the control plane
	// Servers are hosts that run servers, too, witnesses among them; none: Server
	// is the only one.
	Servers []lab.HostConfig
	// Race holds environment for the services, for tests.
	Env []string
}

// Meshvpc runs a meshvpc command on a host and returns what it printed. A
// command that fails is an error with its words.
func (s *Site) Meshvpc(ctx context.Context, host string, args ...string) (string, error) {
	var out, words bytes.Buffer
	code, err := s.Lab.Exec(ctx, lab.Command{
		Host: host, Argv: append([]string{"meshvpc"}, args...), Stdout: &out, Stderr: &words,
	})
	if err != nil {
		return "", err
	}
	if code != 0 {
		return out.String(), fmt.Errorf("meshvpc %s on %s: exit %d: %s", strings.Join(args, " "), host, code, strings.TrimSpace(words.String()))
	}
	return out.String(), nil
}

// JSON runs a meshvpc command with -o json and decodes what it printed.
func (s *Site) JSON(ctx context.Context, v any, host string, args ...string) error {
	out, err := s.Meshvpc(ctx, host, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return fmt.Errorf("read what meshvpc %s printed: %w", strings.Join(args, " "), err)
	}
	return nil
}

var (
	serverService = lab.Service{Name: "server", Argv: []string{"meshvpc", "server"}}
	agentService  = lab.Service{Name: "agent", Argv: []string{"meshvpc", "agent"}}
)

// Found makes the cluster on the server's host and waits until its store
// answers.
func (s *Site) Found(ctx context.Context) error {
	h, err := s.Lab.Host(ctx, s.Server)
	if err != nil {
		return err
	}
	if _, err := s.Meshvpc(ctx, s.Server, "cluster", "init", "--name", h.Name, "--datacenter", h.Datacenter, "--underlay", lab.UnderlayDevice); err != nil {
		return err
	}
	if err := s.handOver(s.Server); err != nil {
		return err
	}
	if err := s.listen(h); err != nil {
		return err
	}
	if err := s.start(ctx, s.Server, serverService, agentService); err != nil {
		return err
	}
	return s.Until(ctx, func() error {
		_, err := s.Meshvpc(ctx, s.Server, "cluster", "status", "--timeout", "2s")
		return err
	})
}

// listen has the server of a host with two families listen on both: init takes
// the first.
func (s *Site) listen(h lab.Host) error {
	if len(h.Underlay) < 2 {
		return nil
	}
	path := filepath.Join(s.Lab.Disk(h.Name).Etc, "server.yaml")
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := string(b)
	for field, port := range map[string]uint16{"listen": 2379, "listen_join": 2378} {
		second := netip.AddrPortFrom(h.Underlay[1].Addr(), port)
		text = strings.Replace(text, "\n"+field+":\n", fmt.Sprintf("\n%s:\n- %q\n", field, second), 1)
	}
	return os.WriteFile(path, []byte(text), 0o600)
}

// handOver gives the commands on a host the first admin's credential, with the
// endpoints that the host's own client file names.
func (s *Site) handOver(host string) error {
	admin, err := readClient(filepath.Join(s.Lab.Disk(s.Server).Etc, "client.yaml"))
	if err != nil {
		return err
	}
	own, err := readClient(filepath.Join(s.Lab.Disk(host).Etc, "client.yaml"))
	if err != nil {
		return err
	}
	admin["endpoints"] = own["endpoints"]
	b, err := yaml.Marshal(admin)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.Lab.Disk(host).Etc, "admin.yaml"), b, 0o600)
}

func readClient(path string) (map[string]any, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	return fields, yaml.Unmarshal(b, &fields)
}

// Join makes hosts nodes of the cluster, side by side, and starts their agents,
// and servers where Servers says so.
func (s *Site) Join(ctx context.Context, hosts ...string) error {
	server, err := s.Lab.Host(ctx, s.Server)
	if err != nil {
		return err
	}
	tokens, err := s.tokens(ctx, hosts)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, name := range hosts {
		g.Go(func() error {
			h, err := s.Lab.Host(ctx, name)
			if err != nil {
				return err
			}
			file := filepath.Join(s.Lab.Disk(name).Etc, "token")
			role := s.role(name)
			if err := os.WriteFile(file, []byte(tokens[role]), 0o600); err != nil {
				return err
			}
			if _, err := s.Meshvpc(ctx, name, "cluster", "join", reachable(server, h).String(), "--token-file", file,
				"--name", h.Name, "--datacenter", h.Datacenter, "--underlay", lab.UnderlayDevice); err != nil {
				return err
			}
			if err := errors.Join(os.Remove(file), s.handOver(name)); err != nil {
				return err
			}
			return s.start(ctx, name, role.services()...)
		})
	}
	return g.Wait()
}

// role is what a host is in the cluster.
type role string

const (
	isNode    role = "node"
	isServer  role = "server"
	isWitness role = "witness"
)

func (r role) services() []lab.Service {
	switch r {
	case isServer:
		return []lab.Service{serverService, agentService}
	case isWitness:
		return []lab.Service{serverService}
	default:
		return []lab.Service{agentService}
	}
}

func (s *Site) role(host string) role {
	for _, h := range s.Servers {
		switch {
		case h.Name == host && h.Witness:
			return isWitness
		case h.Name == host:
			return isServer
		}
	}
	return isNode
}

// tokens makes one for each role that hosts have.
func (s *Site) tokens(ctx context.Context, hosts []string) (map[role]string, error) {
	uses, texts := map[role]int{}, map[role]string{}
	for _, h := range hosts {
		uses[s.role(h)]++
	}
	for r, n := range uses {
		var token struct {
			Token string `json:"token"`
		}
		if err := s.JSON(ctx, &token, s.Server, "cluster", "token", "create", "--role", string(r), "--uses", fmt.Sprint(n)); err != nil {
			return nil, err
		}
		texts[r] = token.Token
	}
	return texts, nil
}

// Hosts are those of a lab, and a witness, if several servers are wanted and there
// are two datacenters only. With one, there is one server.
func Hosts(hosts, datacenters int, several bool) ([]lab.HostConfig, error) {
	list, err := lab.Topology(hosts, datacenters, false)
	if err != nil || !several || len(ServersOf(list)) != 1 {
		return list, err
	}
	return lab.Topology(hosts, datacenters, true)
}

// ServersOf are the hosts, but the first, that run servers: the first of each of
// three datacenters, and the witness.
func ServersOf(hosts []lab.HostConfig) (servers []lab.HostConfig) {
	seen := map[string]bool{hosts[0].Datacenter: true}
	for _, h := range hosts[1:] {
		if !seen[h.Datacenter] && len(seen) < 3 {
			seen[h.Datacenter] = true
			servers = append(servers, h)
		}
	}
	return servers
}

// Member is a server in `meshvpc cluster members -o json`.
type Member struct {
	Name    string `json:"name"`
	Voter   bool   `json:"voter"`
	Healthy bool   `json:"healthy"`
	Why     string `json:"why"`
}

// Members asks on a host which servers there are.
func (s *Site) Members(ctx context.Context, host string) (list []Member, err error) {
	return list, s.JSON(ctx, &list, host, "cluster", "members", "--timeout", "2s")
}

// AwaitVoters waits until n servers vote, all healthy, as a host sees them.
func (s *Site) AwaitVoters(ctx context.Context, host string, n int) error {
	return s.Until(ctx, func() error {
		list, err := s.Members(ctx, host)
		if err != nil {
			return err
		}
		voters := 0
		for _, m := range list {
			if m.Voter && m.Healthy {
				voters++
			}
		}
		if voters != n || len(list) != n {
			return fmt.Errorf("want %d voters: %+v", n, list)
		}
		return nil
	})
}

// reachable is the server's address of a family that the host has.
func reachable(server, host lab.Host) netip.Addr {
	for _, p := range server.Underlay {
		if p.Addr().Is4() == host.Underlay[0].Addr().Is4() {
			return p.Addr()
		}
	}
	return server.Underlay[0].Addr()
}

func (s *Site) start(ctx context.Context, host string, services ...lab.Service) error {
	for i := range services {
		services[i].Env = s.Env
	}
	if err := s.Lab.SetServices(ctx, host, services...); err != nil {
		return err
	}
	return s.Lab.StartServices(ctx, host, "")
}

// Node is a line of `meshvpc node list -o json`.
type Node struct {
	Node       string `json:"node"`
	Datacenter string `json:"datacenter"`
	Underlay   string `json:"underlay"`
	State      string `json:"state"`
	Live       bool   `json:"live"`
}

// AwaitNodes waits until n nodes are live.
func (s *Site) AwaitNodes(ctx context.Context, n int) error {
	return s.Until(ctx, func() error {
		var nodes []Node
		if err := s.JSON(ctx, &nodes, s.Server, "node", "list"); err != nil {
			return err
		}
		live := 0
		for _, n := range nodes {
			if n.Live && n.State == "active" {
				live++
			}
		}
		if live != n {
			return fmt.Errorf("%d of %d nodes are live", live, n)
		}
		return nil
	})
}

// Until tries f, at growing distances up to 200 ms, until it succeeds or ctx
// ends; then the error is f's last.
func (s *Site) Until(ctx context.Context, f func() error) error {
	wait := 20 * time.Millisecond
	for {
		err := f()
		if err == nil {
			return nil
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("%w (gave up: %w)", err, ctx.Err())
		case <-t.C:
		}
		wait = min(wait*3/2, 200*time.Millisecond)
	}
}

// Pairs pings every ordered pair of workloads and sums up.
func (s *Site) Pairs(ctx context.Context, workloads []lab.Workload, count int) (sent, lost int, err error) {
	for _, from := range workloads {
		for _, to := range workloads {
			if from.Name == to.Name {
				continue
			}
			r, err := s.Lab.Ping(ctx, lab.Ping{Host: from.Host, Workload: from.Name, To: to.Prefixes[0].Addr(), Count: count})
			if err != nil {
				return sent, lost, err
			}
			sent, lost = sent+r.Sent, lost+r.Lost
		}
	}
	return sent, lost, nil
}
