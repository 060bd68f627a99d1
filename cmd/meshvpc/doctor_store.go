package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// mostOffset is how far clocks may differ. Certificates begin an hour early, but
// what people read of times should agree.
const mostOffset = 5 * time.Second

const setClock = "set the clock by NTP, as by: timedatectl set-ntp true, or: chronyc makestep"

// lookEndpoint dials a server's store and sees whom its certificate names.
func (t *patient) lookEndpoint(ctx context.Context, endpoint string) seen {
	c, source, err := t.credential()
	if err != nil {
		return skip("%v", err)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", endpoint)
	if err != nil {
		return judgeReach(endpoint, source, err)
	}
	defer conn.Close()
	if len(c.CA) == 0 {
		return seen{good: "TCP, in the clear"}
	}
	cfg, err := membership.StoreDialer(c.Load)
	if err != nil {
		return skip("%v", err)
	}
	if cfg.ServerName, _, err = net.SplitHostPort(endpoint); err != nil {
		return skip("%v", err)
	}
	if err := tls.Client(conn, cfg).HandshakeContext(ctx); err != nil {
		return judgeReach(endpoint, source, fmt.Errorf("after TCP connected: %w", err))
	}
	if c.StoreCA != nil {
		return seen{good: "TCP, and a trusted external etcd"}
	}
	return seen{good: "TCP, and a trusted server of this cluster"}
}

// judgeReach says what an error of dialling a server means.
func judgeReach(address, source string, err error) (s seen) {
	op, network := errors.AsType[*net.OpError](err)
	switch {
	case errors.Is(err, membership.ErrUntimely):
		s.add(gradeProblem, setClock+"; if the clock is right, start \"meshvpc server\" there again: it renews its certificate", "%s: %v", address, err)
	case errors.Is(err, membership.ErrUntrusted):
		s.add(gradeProblem, "see that the endpoints of "+source+" are servers of this cluster; if they are, somebody is between you and it", "%s: %v", address, err)
	case network && op.Op == "dial", errors.Is(err, context.DeadlineExceeded):
		_, port, _ := net.SplitHostPort(address)
		s.add(gradeProblem, fmt.Sprintf("see that \"meshvpc server\" runs there and that firewalls let TCP port %s in; the address comes from %s", port, source), "%s cannot be reached: %v", address, err)
	default:
		s.add(gradeProblem, "see the log of \"meshvpc server\" there", "%s: %v", address, err)
	}
	return s
}

// lookJoins asks a server's join service for its time.
func (t *patient) lookJoins(ctx context.Context, address string) seen {
	c, source, err := t.credential()
	if err != nil {
		return skip("%v", err)
	}
	if len(c.CA) == 0 {
		return skip("the store is spoken to in the clear")
	}
	off, err := membership.ClockOffset(ctx, address, c, t.now)
	if err != nil {
		return judgeReach(address, source, err)
	}
	return judgeClock(address, off)
}

// judgeClock wants this host's clock and a server's to agree.
func judgeClock(address string, off membership.Offset) (s seen) {
	switch {
	case off.Low > mostOffset:
		s.add(gradeProblem, setClock+", on the host whose clock is wrong", "the clock of this host is %s behind that of the server at %s: certificates and times care", off.Low.Round(time.Second), address)
	case off.High < -mostOffset:
		s.add(gradeProblem, setClock+", on the host whose clock is wrong", "the clock of this host is %s ahead of that of the server at %s: certificates and times care", -off.High.Round(time.Second), address)
	default:
		s.good = "a trusted server answers, and its clock agrees"
	}
	return s
}

// lookQuorum reads from the store what only a quorum can tell.
func (t *patient) lookQuorum(ctx context.Context) seen {
	call := doctorLook
	if end, ok := ctx.Deadline(); ok {
		call = (time.Until(end) * 4 / 5).Round(100 * time.Millisecond) // and not so late that nobody hears it
	}
	s, err := t.session(call)
	if err != nil {
		return skip("%v", err)
	}
	if s == nil {
		return skip("no file names a server")
	}
	defer s.cli.Close()
	if _, err := store.Get[*cluster.Config](ctx, s.store, cluster.KeyConfig); err != nil {
		return judgeQuorum(clusterReport{}, s.explain(ctx, err))
	}
	r, err := clusterHealth(ctx, s)
	if errors.Is(err, mvcc.ErrDenied) { // a node's certificate reads no more
		r, err = clusterReport{Quorum: true}, nil
	}
	return judgeQuorum(r, err)
}

// session is a connection to the store, as whom the client file names, else as
// the node; nil if no file names a server.
func (t *patient) session(call time.Duration) (*session, error) {
	switch {
	case t.client != nil && len(t.client.Endpoints) > 0:
		return dialSession(*t.client, t.clientFile, call)
	case t.agent != nil && len(t.agent.Endpoints) > 0:
		c, source, err := t.credential()
		if err != nil {
			return nil, err
		}
		as := newClientConfig(t.agent.Endpoints, c)
		as.elsewhere = t.agent.elsewhere
		return dialSession(as, source, call)
	}
	return nil, nil
}

// judgeQuorum tells what cluster status warns of. err is that of a read that
// only a quorum answers.
func judgeQuorum(r clusterReport, err error) (s seen) {
	if err != nil {
		_, mend := remedy(context.Background(), err)
		what := "the store does not answer: changes wait, traffic goes on"
		if errors.Is(err, mvcc.ErrDenied) {
			what = "the store lets this host read nothing"
		}
		s.add(gradeProblem, cmp.Or(mend, "meshvpc cluster status"), "%s: %v", what, err)
		return s
	}
	for _, m := range r.Members {
		if !m.Healthy {
			s.add(gradeProblem, "start \"meshvpc server\" on "+m.Name+"; if it runs, see that this host reaches "+strings.Join(m.Endpoints, ", "), "server %s does not answer", m.Name)
		}
	}
	for _, warning := range voterWarnings(r.Members) {
		s.add(gradeNote, warning.Mend, "%s", warning.What)
	}
	s.good = "a linearizable read was answered"
	if r.Leader != "" {
		s.good += ", " + r.Leader + " leads"
	}
	return s
}
