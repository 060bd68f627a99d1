package main

import (
	"fmt"
	"path"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// nodeRecords is what the cluster knows of a node; node is nil if nothing.
type nodeRecords struct {
	node *cluster.Node
	live bool
}

// Steps of adding a node, in their order.
const (
	addCopy    = "copy"
	addJoin    = "join"
	addService = "service"
	addLive    = "live"
)

// addStep is one thing that node add does.
type addStep struct {
	Step    string `json:"step"`
	What    string `json:"what"`
	Command string `json:"command,omitempty"` // what root runs there
	State   string `json:"state"`             // planned, skipped, done
}

func (s addStep) String() string { return s.What + ": " + s.State }

// addPlan is what is to be done.
type addPlan struct {
	file  programFile
	node  string
	steps []addStep
}

// nameToAdd is the name that the host gets, or has already.
func nameToAdd(q addRequest, h hostFacts) (string, error) {
	if h.server {
		return "", failed("a server is a node already: see \"meshvpc node list\"", "the host runs a server of a cluster")
	}
	if h.agent && q.name != "" && q.name != h.node {
		return "", failed("take that node out first: meshvpc node remove "+h.node+", then meshvpc node purge there", "the host is node %s already", h.node)
	}
	if h.agent {
		return h.node, cluster.CheckNodeName(h.node)
	}
	return chooseName(q.name, func() (string, error) { return h.hostname, nil })
}

// planAdd decides, from what the host and the records say, what is left to do.
// What an earlier run did stays done.
func planAdd(q addRequest, name string, h hostFacts, known nodeRecords, file programFile) (addPlan, error) {
	n := known.node
	switch {
	case n != nil && n.State == cluster.NodeLeft && h.agent && n.ID == h.id:
		return addPlan{}, failed("run \"meshvpc node purge\" there, then this again", "the host is node %s, which was removed", name)
	case n != nil && n.State != cluster.NodeLeft && (!h.agent || n.ID != h.id):
		return addPlan{}, failed("choose another --name; if that host is gone for good: meshvpc node remove "+name, "there is a node %s already, which is another host", name)
	case h.joined && (n == nil || n.ID != h.id):
		return addPlan{}, failed("run \"meshvpc node purge\" there, then this again", "the host is node %s of another cluster, or of one that knows it no more", name)
	case n != nil && n.State != cluster.NodeLeft && n.Datacenter != q.datacenter:
		return addPlan{}, failed("give --datacenter "+n.Datacenter, "the host is node %s in datacenter %s already", name, n.Datacenter)
	case known.live:
		return addPlan{}, failed("nothing is left to do: see \"meshvpc node show "+name+"\"", "the host is node %s already, and live", name)
	}
	p, copying := addPlan{file: file, node: name}, h.sum != file.sum
	what := fmt.Sprintf("%s, %.1f MB, to %s", file.path, float64(file.size)/1e6, q.path)
	if h.version != "" && copying {
		what += ", in the place of " + h.version
	}
	p.plan(addCopy, what, scriptCopy(q.path, file.sum, q.unique), copying)
	p.plan(addJoin, fmt.Sprintf("as node %s in datacenter %s, by %s, with a token on its standard input", name, q.datacenter, q.join), scriptJoin(q, name), !h.joined)
	p.plan(addService, "install and start the agent", scriptService(q.path), true)
	p.plan(addLive, "wait until "+name+" is live", "", true)
	return p, nil
}

func (p *addPlan) plan(step, what, command string, needed bool) {
	s := addStep{Step: step, What: what, Command: command, State: "planned"}
	if !needed {
		s.Command, s.State = "", "skipped, it was done before"
	}
	p.steps = append(p.steps, s)
}

// scriptCopy puts standard input at a path, in one step and only if it is whole
// and runs; unique names its place until then.
func scriptCopy(program, sum, unique string) string {
	dir := path.Dir(program)
	prefix := path.Join(dir, ".meshvpc-add.")
	return strings.Join([]string{
		`set -eu`,
		`mkdir -p ` + dir, // with root's own umask: others are to run it
		`rm -rf ` + prefix + `*`,
		`t=` + prefix + unique,
		`trap "rm -rf $t" EXIT`,
		`trap "exit 1" HUP INT TERM`,
		`umask 077`,
		`mkdir $t`,
		`cat > $t/meshvpc`,
		`s=$(` + scriptSum("$t/meshvpc") + `)`,
		`if [ "${s%% *}" = ` + sum + ` ]; then :; else echo "the copy is not whole, its SHA-256 is ${s%% *}" >&2; exit 1; fi`,
		`chmod 755 $t/meshvpc`,
		`$t/meshvpc version`,
		`sync $t/meshvpc`,
		`mv -f $t/meshvpc ` + program,
	}, "; ")
}

// scriptJoin makes the host a node; the token comes by standard input.
func scriptJoin(q addRequest, name string) string {
	words := []string{q.path, "cluster", "join", q.join, "--datacenter", q.datacenter, "--name", name, "--token", "-", "--timeout", "30s"}
	for _, u := range q.underlay {
		words = append(words, "--underlay", u)
	}
	for i, w := range words {
		words[i] = shellWord(w)
	}
	return "exec " + strings.Join(words, " ")
}

func scriptService(program string) string { return "exec " + program + " service install" }
