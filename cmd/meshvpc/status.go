package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/watcher"
)

// statusStore is how long `status` waits for the store before it tells what
// the agent of this host knows: with that, an answer within 2 s.
const statusStore = 1500 * time.Millisecond

func (p *program) statusCommand() *cli.Command {
	c := p.verb("status", "", "what is wrong, and what mends it (exit 3 if anything is)", []cli.Flag{
		&cli.BoolFlag{Name: "check", Usage: "one line, for a monitor"},
		timeoutFlag(statusStore, "how long to wait for the store"), configFlag(), outputFlag(),
	}, p.status)
	c.Description = "meshvpc status\nmeshvpc status --check\nmeshvpc status -o json"
	return c
}

// finding is a problem and the command that mends it.
type finding struct {
	What string `json:"what"`
	Mend string `json:"mend"`
}

// statusReport is `status -o json`.
type statusReport struct {
	OK         bool         `json:"ok"`
	Cluster    string       `json:"cluster"`
	Problems   []finding    `json:"problems"`
	Notes      []string     `json:"notes,omitempty"` // worth knowing, and nothing is wrong
	Store      string       `json:"store"`           // reachable, unreachable
	StaleSince cluster.Time `json:"stale_since,omitzero"`
	Nodes      int          `json:"nodes"`
	Live       int          `json:"live"`
	Controller string       `json:"controller"`
	VPCs       []vpcState   `json:"vpcs"`
	Encryption string       `json:"encryption"`
	Trust      string       `json:"trust"`
}

type vpcState struct {
	VPC     string `json:"vpc"`
	Ready   bool   `json:"ready"`
	Reason  string `json:"reason"`
	Members int    `json:"members"`
}

func (p *program) status(ctx context.Context, c *cli.Context) error {
	wait, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	local := make(chan localView, 1)
	go func() { local <- askLocal(wait) }()
	view, err := p.readAll(wait, c)
	agent := <-local
	var r statusReport
	switch {
	case err == nil:
		r = judge(view)
		r.addLocal(agent)
	case agent.err == nil:
		r = judgeLocal(agent.state, err)
		r.judgeServer()
	default:
		return err
	}
	r.OK = len(r.Problems) == 0
	r.Trust = trustOf(clientPath(c.String("config")))
	if c.Bool("check") {
		err = p.print(c, r, func(w io.Writer) { fmt.Fprintln(w, r.oneLine()) })
	} else {
		err = p.print(c, r, func(w io.Writer) { p.statusText(w, r) })
	}
	if err == nil && !r.OK {
		return exitCode(exitNotSo)
	}
	return err
}

// trustOf is how the commands of this host and the store know one another.
func trustOf(path string) string {
	var cfg clientConfig
	if err := readConfig(path, &cfg); err != nil || cfg.CA == "" {
		return "none"
	}
	if s, err := cfg.credential().Subject(); err == nil {
		return "mTLS, as " + s.String()
	}
	return "mTLS"
}

// readAll brings the whole state into a view.
func (p *program) readAll(ctx context.Context, c *cli.Context) (*store.View, error) {
	s, err := openSession(clientPath(c.String("config")), c.Duration("timeout"))
	if err != nil {
		return nil, err
	}
	defer s.cli.Close()
	v, err := s.read(ctx, nil, cluster.KeyConfig, cluster.PrefixNodes, cluster.PrefixLive, cluster.PrefixVPCs, cluster.PrefixStat, cluster.PrefixSrvs, cluster.KeyLeader)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, mvcc.ErrUnavailable) {
		err = &unreachable{s.endpoints, s.call, s.source, err}
	}
	return v, err
}

// localView is what this host's agent says, or why it says nothing.
type localView struct {
	state watcher.State
	err   error
}

func askLocal(ctx context.Context) localView {
	state, err := agentState(ctx)
	return localView{state, err}
}

// judge finds what is wrong in the records, the gravest first.
func judge(v *store.View) statusReport {
	r := statusReport{Store: "reachable", Problems: []finding{}, VPCs: []vpcState{}, Encryption: "none"}
	if it, ok := store.At[*cluster.Config](v, cluster.KeyConfig); ok {
		r.Cluster = clean(it.Value.Cluster)
		if it.Value.Unconfirmed() {
			r.add("the store was restored: hosts keep their network as it is until that is confirmed", "meshvpc cluster confirm")
		}
	} else {
		r.add("the store holds no readable config", "meshvpc server, on the node where \"meshvpc cluster init\" ran")
	}
	if it, ok := store.At[*cluster.Leader](v, cluster.KeyLeader); ok {
		r.Controller = clean(it.Value.Name)
	} else {
		r.add("no controller leads: changes wait, traffic goes on", "meshvpc server, on "+serversOf(v))
	}
	for it := range store.Below[*cluster.Node](v, cluster.PrefixNodes) {
		if it.Value.State == cluster.NodeLeft {
			continue
		}
		r.Nodes++
		n := nodeOf(v, it)
		if n.Live {
			r.Live++
		} else if it.Value.Agent {
			r.add(fmt.Sprintf("node %s: its agent is not live", n.Node), "meshvpc agent, on "+n.Node+"; if it is gone for good: meshvpc node remove "+n.Node)
		}
		for _, problem := range n.Problems {
			r.add(fmt.Sprintf("node %s: %s", n.Node, problem), "meshvpc node show "+n.Node)
		}
		for _, note := range n.Notes {
			r.Notes = append(r.Notes, fmt.Sprintf("node %s: %s", n.Node, note))
		}
	}
	for _, name := range vpcNames(v) {
		r.judgeVPC(meshOf(v, name))
	}
	r.judgePorts(v)
	r.judgeQuorum(v)
	r.judgeVanished(v)
	for _, problem := range v.Problems() {
		r.add(fmt.Sprintf("record %s cannot be read: %s", printable(problem.Key), clean(problem.Err.Error())), "meshvpc get "+printable(problem.Key))
	}
	return r
}

func (r *statusReport) add(what, mend string) {
	r.Problems = append(r.Problems, finding{what, mend})
}

func (r *statusReport) judgeVPC(m *mesh) {
	report := m.report()
	r.VPCs = append(r.VPCs, vpcState{m.name, report.Ready, report.Reason, len(m.members)})
	r.Notes = append(append(r.Notes, report.floods()...), report.refusals()...)
	for _, d := range report.Duplicates {
		r.add(fmt.Sprintf("VPC %s: MAC %s", m.name, d), mendDuplicate)
	}
	if report.Ready {
		return
	}
	if m.spec != nil && m.spec.State == cluster.VPCDeleting {
		r.add(fmt.Sprintf("VPC %s is being deleted and awaits %s", m.name, cmp.Or(few(m.heldBy()), "the controller")),
			"meshvpc vpc delete "+m.name+" --force, if those hosts are gone for good")
		return
	}
	told := false
	if report.pending {
		r.add(fmt.Sprintf("VPC %s: %s", m.name, report.Reason), "meshvpc vpc set "+m.name+", or delete it and create it anew")
		return
	}
	for _, b := range report.Members {
		if !b.Ready && (m.live[b.Node] || m.members[b.Node] == nil) {
			r.add(fmt.Sprintf("VPC %s on %s: %s", m.name, b.Node, b.Reason), "meshvpc vpc status "+m.name)
			told = true
		}
	}
	down := m.downLinks(report)
	for i, link := range down {
		if left := len(down) - i; i == mostLinks && left > 1 {
			r.add(fmt.Sprintf("VPC %s: %d more links are down", m.name, left), "meshvpc vpc status "+m.name)
			break
		}
		r.add(fmt.Sprintf("VPC %s: link %s", m.name, link), "meshvpc vpc ping "+m.name)
		told = true
	}
	if !told {
		r.add(fmt.Sprintf("VPC %s: %s", m.name, report.Reason), "meshvpc vpc status "+m.name)
	}
}

// mostLinks is how many links that are down are told one by one.
const mostLinks = 8

// downLinks says which links are down, but those of nodes whose agent is not
// live: that is told of the node.
func (m *mesh) downLinks(report meshReport) []string {
	var list []string
	for _, b := range report.Members {
		for _, l := range b.Links {
			if b.Node < l.Peer && l.State == cluster.LinkDown && m.live[b.Node] && m.live[l.Peer] {
				list = append(list, fmt.Sprintf("%s – %s is down%s", b.Node, l.Peer, suffix(": ", l.Reason)))
			}
		}
	}
	return list
}

// judgeVanished finds the VPCs of which hosts have something and the store has
// nothing any more.
func (r *statusReport) judgeVanished(v *store.View) {
	known := map[string]bool{}
	for _, name := range vpcNames(v) {
		known[name] = true
	}
	hosts, vnis := map[string][]string{}, map[string]cluster.VNI{}
	for it := range store.Below[*cluster.VPCStatus](v, cluster.PrefixStat) {
		k, err := cluster.ParseKey(it.Key)
		if err != nil || known[k.VPC] || it.Value.State == cluster.HostLeft {
			continue
		}
		hosts[k.VPC], vnis[k.VPC] = append(hosts[k.VPC], k.Node), it.Value.VNI
	}
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		r.add(fmt.Sprintf("VPC %s: all its records are gone; %s keep what they have (VNI %d)", name, few(hosts[name]), vnis[name]),
			"meshvpc vpc create "+name+", as it was: VNI and addresses are found again; then delete it if it is not wanted")
		r.VPCs = append(r.VPCs, vpcState{name, false, "its records are gone", 0})
	}
}

// addLocal adds what only this host's agent knows.
func (r *statusReport) addLocal(agent localView) {
	// Without an agent this host may be no node; a node without one is not live above.
	if agent.err == nil && !agent.state.StaleSince.IsZero() {
		r.add(fmt.Sprintf("this host's agent has had no contact with the store since %s: %s", stamp(agent.state.StaleSince), clean(agent.state.StaleError)),
			"see that the endpoints of "+hostDirs().agent()+" are right")
	}
}

// judgeLocal is the status of a host whose store did not answer in time. An
// agent that has not lost the store may just not have noticed: a connection
// that broke silently and a store that is slow look alike for a while.
func judgeLocal(s watcher.State, why error) statusReport {
	r := statusReport{Store: "unreachable", StaleSince: s.StaleSince, Problems: []finding{}, VPCs: []vpcState{}, Encryption: "none"}
	if r.StaleSince.IsZero() {
		r.add(oneLine(why.Error())+"; this host's agent has not noticed that it lost the store, what follows is what it knows",
			"meshvpc status --timeout 15s, if the store is slow; if that has no answer either: meshvpc server, on the servers, and see the endpoints of "+clientPath(""))
	} else {
		r.add(fmt.Sprintf("%s; what follows is stale since %s", oneLine(why.Error()), stamp(s.StaleSince)), "meshvpc server, on the servers; traffic goes on meanwhile")
	}
	for _, problem := range s.Problems {
		r.add("this host: "+clean(problem), "meshvpc plan")
	}
	for _, note := range s.Notes {
		r.Notes = append(r.Notes, "this host: "+clean(note))
	}
	for _, note := range droppedPorts(s.Ports) {
		r.Notes = append(r.Notes, "this host: "+note)
	}
	for _, f := range failedPorts(s.Ports) {
		r.add("this host: "+f.What, f.Mend)
	}
	for _, name := range slices.Sorted(maps.Keys(s.VPCs)) {
		v := s.VPCs[name]
		r.VPCs = append(r.VPCs, vpcState{name, v.Ready, clean(v.Reason), len(v.Members)})
		if v.FloodDropped > 0 {
			r.Notes = append(r.Notes, fmt.Sprintf("VPC %s: this host kept %d frames from the others that were over the flood limit", name, v.FloodDropped))
		}
		if !v.Ready {
			r.add(fmt.Sprintf("VPC %s on this host: %s", name, cmp.Or(clean(v.Reason), "not ready")), "meshvpc plan")
		}
		for _, l := range v.Links {
			if l.State == cluster.LinkDown {
				r.add(fmt.Sprintf("VPC %s: the link to %s is down%s", name, l.Peer, suffix(": ", clean(l.Reason))), "see that "+l.Peer+" is up")
			}
		}
	}
	return r
}

// judgeServer finds a server on this host that has lost its address.
func (r *statusReport) judgeServer() {
	var cfg serverConfig
	path := hostDirs().server()
	own, err := ownAddresses()
	if err != nil || readConfig(path, &cfg) != nil {
		return // no server, or it says so itself
	}
	if lost := lostListen(cfg, own); lost != "" {
		r.add("the server of this host cannot be reached: "+lost, fmt.Sprintf(moveServer, path))
	}
}

func stamp(t cluster.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

func serversOf(v *store.View) string {
	var list []string
	for it := range store.Below[*cluster.Server](v, cluster.PrefixSrvs) {
		list = append(list, last(it.Key))
	}
	return cmp.Or(few(list), "the servers")
}

// oneLine is the status for a monitor.
func (r statusReport) oneLine() string {
	if r.OK {
		return fmt.Sprintf("OK: %d of %d nodes live, %d VPCs ready", r.Live, r.Nodes, len(r.VPCs))
	}
	if n := len(r.Problems); n > 1 {
		return fmt.Sprintf("DEGRADED: %d problems, the first: %s", n, r.Problems[0].What)
	}
	return "DEGRADED: " + r.Problems[0].What
}

func (p *program) statusText(w io.Writer, r statusReport) {
	for _, f := range r.Problems {
		fmt.Fprintf(w, "%s %s\n   mend: %s\n", p.paint(red, "problem:"), f.What, f.Mend)
	}
	for _, note := range r.Notes {
		fmt.Fprintln(w, "note: "+note)
	}
	if r.OK {
		fmt.Fprintln(w, p.paint(green, "all is well"))
	}
	fmt.Fprintln(w)
	if r.Store == "reachable" {
		fmt.Fprintf(w, "cluster:     %s, controller %s\nnodes:       %d, %d live\n", cmp.Or(r.Cluster, "-"), cmp.Or(r.Controller, "none"), r.Nodes, r.Live)
	}
	fmt.Fprintf(w, "encryption:  %s\ntrust:       %s\n", r.Encryption, r.Trust)
	if len(r.VPCs) == 0 {
		return
	}
	var rows [][]string
	for _, v := range r.VPCs {
		rows = append(rows, []string{v.VPC, yesNo(v.Ready), fmt.Sprint(v.Members), v.Reason})
	}
	fmt.Fprintln(w)
	columns(w, []string{"vpc", "ready", "members", "reason"}, rows)
}
