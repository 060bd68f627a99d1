package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/watcher"
)

// lookFiles tells of configuration that cannot be read.
func (t *patient) lookFiles(context.Context) (s seen) {
	for _, err := range t.bad {
		_, mend := remedy(context.Background(), err)
		s.add(gradeProblem, cmp.Or(mend, "mend that file"), "%v", err)
	}
	var have []string
	for _, f := range []struct {
		path  string
		there bool
	}{{t.dirs.agent(), t.agent != nil}, {t.dirs.server(), t.server != nil}, {t.clientFile, t.client != nil}} {
		if f.there {
			have = append(have, f.path)
		}
	}
	s.good = strings.Join(have, ", ")
	if len(have) == 0 && len(t.bad) == 0 {
		_, mend := remedy(context.Background(), notJoined(fs.ErrNotExist))
		s.add(gradeNote, mend, "this host is no node of a cluster: %s is not there", t.dirs.agent())
	}
	return s
}

// lookKernel tries what a VPC needs. A host that is to be a node can be asked,
// too; one that only has a client file needs none of it.
func (t *patient) lookKernel(ctx context.Context) seen {
	if t.agent == nil && (t.client != nil || t.server != nil) {
		return skip("this host is no node with an agent")
	}
	problems, err := checkFeatures(ctx)
	if errors.Is(err, hostops.ErrUnsupported) {
		return skip("not checked here: %v", err)
	}
	return judgeKernel(problems, os.Geteuid() == 0)
}

func judgeKernel(problems []hostops.Problem, root bool) (s seen) {
	if len(problems) > 0 && !root {
		return skip("run doctor as root to have that checked")
	}
	for _, p := range problems {
		what, mend, ok := strings.Cut(p.Reason, "): ")
		if ok {
			what += ")"
		}
		s.add(gradeProblem, cmp.Or(mend, "see "+osName()+"'s kernel and modules"), "%s", what)
	}
	s.good = "bridge, vxlan, veth, nf_tables and ICMP sockets can be used"
	if len(problems) > 0 {
		s.good = ""
	}
	return s
}

// lookAgent asks the agent for its view of this host.
func (t *patient) lookAgent(ctx context.Context) seen {
	if t.agent == nil {
		return skip("this host is no node with an agent")
	}
	state, err := agentState(ctx)
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EPERM):
		return skip("run doctor as root to have that checked")
	case err != nil:
		var s seen
		s.add(gradeProblem, "meshvpc agent, or start its service: systemctl start meshvpc-agent", "%v: this host's part of every VPC stays as it is", err)
		return s
	}
	return judgeAgent(state, *t.agent)
}

// judgeAgent tells what the agent says is wrong with this host.
func judgeAgent(state watcher.State, cfg agentConfig) (s seen) {
	s.good = fmt.Sprintf("version %s runs since %s, %d VPCs", clean(state.Version), stamp(state.Started), len(state.VPCs))
	const restart = "stop the agent and start it again"
	switch {
	case state.Left:
		s.add(gradeProblem, "meshvpc node purge, then join again", "this node was removed from the cluster")
	case state.Node != cfg.Node || state.NodeID != cfg.ID:
		s.add(gradeProblem, restart, "the agent runs as node %s, and the files say %s", clean(state.Node), cfg.Node)
	}
	if !state.StaleSince.IsZero() {
		s.add(gradeProblem, "see what is said of the store; traffic goes on meanwhile", "the agent has had no contact with the store since %s: %s", stamp(state.StaleSince), clean(state.StaleError))
	}
	for _, problem := range state.Problems {
		s.add(gradeProblem, "meshvpc plan", "%s", clean(problem))
	}
	for _, f := range failedPorts(state.Ports) {
		s.add(gradeProblem, f.Mend, "%s", f.What)
	}
	for _, name := range slices.Sorted(maps.Keys(state.VPCs)) {
		v := state.VPCs[name]
		if !v.Ready {
			s.add(gradeProblem, "meshvpc plan", "VPC %s on this host: %s", name, cmp.Or(clean(v.Reason), "not ready"))
		}
		for _, l := range v.Links {
			if l.State == cluster.LinkDown {
				s.add(gradeProblem, fmt.Sprintf("see that %s is up and that UDP of the tunnels passes both ways; then: meshvpc vpc ping %s", l.Peer, name),
					"VPC %s: the link to %s is down%s", name, clean(l.Peer), suffix(": ", clean(l.Reason)))
			}
		}
		if v.Repairs > 0 {
			s.add(gradeNote, "find the program that does it, and give networkd, NetworkManager and udev the files of deployments/",
				"VPC %s: what others changed of its devices was put right %d times", name, v.Repairs)
		}
	}
	for _, note := range state.Notes {
		s.add(gradeNote, "meshvpc status", "%s", clean(note))
	}
	return s
}

// lookServer sees whether the server of this host listens.
func (t *patient) lookServer(ctx context.Context) seen {
	if t.server == nil {
		return skip("this host is no server")
	}
	own, err := ownAddresses()
	if err != nil {
		return skip("%v", err)
	}
	var failed []error
	for _, v := range t.server.serves() {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", dialable(v))
		if err != nil {
			failed = append(failed, err)
			continue
		}
		_ = conn.Close() // nothing was sent
	}
	return judgeServing(*t.server, lostListen(*t.server, own), failed, t.dirs.server())
}

// judgeServing: lost is what lostListen says, failed are the dials of the
// server's own addresses.
func judgeServing(cfg serverConfig, lost string, failed []error, path string) (s seen) {
	switch {
	case lost != "":
		s.add(gradeProblem, fmt.Sprintf(moveServer, path), "the server of this host cannot be reached: %s", lost)
	case len(failed) > 0:
		s.add(gradeProblem, "meshvpc server, or start its service: systemctl start meshvpc-server",
			"%s is there, and no server answers: %v", path, errors.Join(failed...))
	default:
		s.good = fmt.Sprintf("%s answers at %s", cfg.Name, strings.Join(cfg.serves(), ", "))
	}
	return s
}

// dialable is where a listening address is reached on its own host.
func dialable(listen string) string {
	a, err := netip.ParseAddrPort(listen)
	switch {
	case err != nil || !a.Addr().IsUnspecified():
		return listen
	case a.Addr().Is4():
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port()).String()
	}
	return netip.AddrPortFrom(netip.IPv6Loopback(), a.Port()).String()
}
