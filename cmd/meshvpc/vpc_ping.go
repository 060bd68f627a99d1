package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func (p *program) vpcPingCommand() *cli.Command {
	return p.verb("ping", "V", "every member pings every other through the tunnels (exit 3 if any is lost)", waitFlags(20*time.Second,
		&cli.IntFlag{Name: "count", Value: 3, Usage: fmt.Sprintf("requests a pair, 1 to %d", cluster.MaxPingCount)},
		&cli.IntFlag{Name: "size", Usage: "`BYTES` of the IP packet (default: the least)"},
	), p.withStore(p.vpcPing))
}

// pingReport is `vpc ping -o json`.
type pingReport struct {
	VPC   string       `json:"vpc"`
	Pairs []pairReport `json:"pairs"`
	Lost  int          `json:"lost"`
	// Silent are members that did not answer the question; all of their
	// requests count as lost.
	Silent []string `json:"silent,omitempty"`
}

type pairReport struct {
	From     string  `json:"from"`
	To       string  `json:"to"`
	Sent     int     `json:"sent"`
	Received int     `json:"received"`
	RTT      float64 `json:"rtt_ms"`
}

// vpcPing asks by a record, and waits for a record of each member.
func (p *program) vpcPing(ctx context.Context, c *cli.Context, s *session) error {
	name := c.Args().First()
	request := &cluster.PingRequest{ID: randomID(), Count: c.Int("count"), Size: c.Int("size")}
	switch {
	case request.Count < 1 || request.Count > cluster.MaxPingCount:
		return usage(fmt.Sprintf("want 1 to %d requests a pair", cluster.MaxPingCount), "invalid --count %d", request.Count)
	case request.Size < 0 || request.Size > cluster.MaxPingSize:
		return usage(fmt.Sprintf("want at most %d bytes, or leave --size out", cluster.MaxPingSize), "invalid --size %d", request.Size)
	}
	m, err := p.readMesh(ctx, s, name)
	if err != nil {
		return err
	}
	members := slices.Sorted(maps.Keys(m.members))
	if len(members) < 2 {
		return notSo("wait for them: meshvpc vpc wait "+name, "ping VPC %q: it has %d members, no pair", name, len(members))
	}
	var change store.Change
	store.Set(&change, cluster.KeyVPCPing(name), request, nil, 0)
	if err := s.commit(ctx, change); err != nil {
		return err
	}
	bar := p.progress()
	results, err := s.pingResults(ctx, c.Duration("timeout"), name, request.ID, members, bar)
	bar.done()
	if err != nil {
		return err
	}
	r := sumPings(name, request.Count, members, results)
	err = p.print(c, r, func(w io.Writer) { pingTable(w, r) })
	if err == nil && r.Lost > 0 {
		return exitCode(exitNotSo)
	}
	return err
}

// pingResults collects the answers to one request until all have answered or
// timeout is over.
func (s *session) pingResults(ctx context.Context, timeout time.Duration, vpc, id string, members []string, bar *progress) (map[string]*cluster.PingResult, error) {
	keys := make([]string, len(members))
	for i, n := range members {
		keys[i] = cluster.KeyPingResult(n, vpc)
	}
	wait, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	results := map[string]*cluster.PingResult{}
	err := s.follow(wait, func(_ *store.Mirror, v *store.View) error {
		for i, n := range members {
			if it, ok := store.At[*cluster.PingResult](v, keys[i]); ok && it.Value.ID == id {
				results[n] = it.Value
			}
		}
		bar.show("VPC %s: %d of %d members have pinged", vpc, len(results), len(members))
		if len(results) == len(members) {
			return errLook
		}
		return nil
	}, keys...)
	if ctx.Err() == nil && wait.Err() != nil {
		err = nil // what is missing is in the result
	}
	return results, err
}

// sumPings makes the report: every ordered pair of members.
func sumPings(vpc string, count int, members []string, results map[string]*cluster.PingResult) pingReport {
	r := pingReport{VPC: vpc, Pairs: []pairReport{}}
	for _, from := range members {
		answer := results[from]
		if answer == nil {
			r.Silent = append(r.Silent, from)
		}
		for _, to := range members {
			if to == from {
				continue
			}
			pair := pairReport{From: from, To: to}
			if answer != nil {
				for _, got := range answer.Peers {
					if got.To == to {
						pair.Sent, pair.Received, pair.RTT = got.Sent, got.Received, got.RTT
					}
				}
			}
			r.Lost += max(count, pair.Sent) - pair.Received
			r.Pairs = append(r.Pairs, pair)
		}
	}
	return r
}

func pingTable(w io.Writer, r pingReport) {
	var rows [][]string
	for _, pair := range r.Pairs {
		rows = append(rows, []string{pair.From, pair.To, fmt.Sprint(pair.Sent), fmt.Sprint(pair.Received), milliseconds(pair.RTT)})
	}
	columns(w, []string{"from", "to", "sent", "received", "rtt"}, rows)
	for _, n := range r.Silent {
		fmt.Fprintf(w, "%s did not answer: its agent is not live, or slow\n", n)
	}
	fmt.Fprintf(w, "lost: %d\n", r.Lost)
}
