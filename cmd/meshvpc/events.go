package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func (p *program) eventsCommand() *cli.Command {
	c := p.verb("events", "", "who changed what, the newest last", storeFlags(
		&cli.BoolFlag{Name: "follow", Usage: "then each change as it comes, until interrupted"},
		&cli.StringFlag{Name: "since", Usage: "only what is younger than `TIME`: 1h, 2026-01-31 or 2026-01-31T12:00:00Z"},
		&cli.IntFlag{Name: "limit", Value: 100, Usage: "the newest `N` at most, 0 for all"},
		&cli.StringFlag{Name: "who", Usage: "only what `SUBJECT` did: user:alice, node:N, server:N"},
		&cli.StringFlag{Name: "vpc", Usage: "only what is about VPC `V`"},
		&cli.StringFlag{Name: "node", Usage: "only what is about node `N`"},
	), p.withStore(p.events))
	c.Description = "meshvpc events --since 1h\nmeshvpc events --vpc vpc1 --limit 20\nmeshvpc events --who user:alice -o json\nmeshvpc events --follow"
	return c
}

// eventReport is one change as `events -o json` prints it. Several that were made
// together have one id and revision.
type eventReport struct {
	ID       string       `json:"id"`
	Revision int64        `json:"revision"`
	Time     cluster.Time `json:"time"`
	Who      string       `json:"who"`
	Verb     cluster.Verb `json:"verb"`
	Kind     cluster.Kind `json:"kind,omitempty"` // of the record; empty for what is none
	Key      string       `json:"key"`
	VPC      string       `json:"vpc,omitempty"`
	Node     string       `json:"node,omitempty"`
	Nodes    []string     `json:"nodes,omitempty"`
	Detail   string       `json:"detail,omitempty"`
	Why      string       `json:"why,omitempty"`
	Text     string       `json:"text"` // all of it, as the table has it
}

// eventFilter is which changes are asked for.
type eventFilter struct {
	since          time.Time // zero: any
	who, vpc, node string    // "": any
}

func (p *program) events(ctx context.Context, c *cli.Context, s *session) error {
	f, err := eventFilterOf(c, p.now())
	if err != nil {
		return err
	}
	if c.Bool("follow") {
		return p.followEvents(ctx, c, s, f)
	}
	from := cluster.PrefixEvents
	if !f.since.IsZero() {
		from = cluster.KeyEventsSince(f.since)
	}
	items, err := p.readEvents(ctx, s, from)
	if err != nil {
		return err
	}
	list := newest(p.reportEvents(items, f), c.Int("limit"))
	return p.print(c, list, func(w io.Writer) {
		for _, r := range list {
			eventLine(w, r)
		}
	})
}

// eventFilterOf reads the flags.
func eventFilterOf(c *cli.Context, now time.Time) (eventFilter, error) {
	f := eventFilter{who: c.String("who"), vpc: c.String("vpc"), node: c.String("node")}
	if c.Int("limit") < 0 {
		return f, usage("want a number, or 0 for all", "invalid --limit %d", c.Int("limit"))
	}
	if f.who != "" {
		if _, err := cluster.ParseSubject(f.who); err != nil {
			return f, usage("want user:NAME, node:NAME or server:NAME", "invalid --who %q", clean(f.who))
		}
	}
	if f.vpc != "" && cluster.CheckVPCName(f.vpc) != nil {
		return f, usage(`see "meshvpc vpc list"; VPCs that are gone are known here, too`, "invalid --vpc %q", clean(f.vpc))
	}
	if f.node != "" && cluster.CheckNodeName(f.node) != nil {
		return f, usage(`see "meshvpc node list"; nodes that are gone are known here, too`, "invalid --node %q", clean(f.node))
	}
	since := c.String("since")
	if since == "" {
		return f, nil
	}
	var ok bool
	if f.since, ok = parseSince(since, now); !ok {
		return f, usage("want how long ago, like 90m or 24h, or a time in UTC, like 2026-01-31 or 2026-01-31T12:00:00Z", "invalid --since %q", clean(since))
	}
	return f, nil
}

// parseSince reads a duration before now, or a time, in UTC if it names no zone.
func parseSince(s string, now time.Time) (time.Time, bool) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), d >= 0
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.UTC); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// readEvents reads the history from a key on.
func (p *program) readEvents(ctx context.Context, s *session, from string) ([]store.Item[*cluster.Event], error) {
	const page = 2000
	var items []store.Item[*cluster.Event]
	q := mvcc.RangeRequest{Key: from, End: mvcc.PrefixEnd(cluster.PrefixEvents), Limit: page}
	for {
		callCtx, cancel := context.WithTimeout(ctx, s.call)
		got, err := s.store.KV().Range(callCtx, q)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("read events: %w", err)
		}
		for _, kv := range got.Keys {
			r, err := cluster.Decode(kv.Key, kv.Value)
			if err != nil {
				p.warn("an event cannot be read and is passed over: %v", err)
			} else if e, ok := r.(*cluster.Event); ok {
				items = append(items, store.Item[*cluster.Event]{Key: kv.Key, Value: e, Create: kv.CreateRevision, Mod: kv.ModRevision})
			}
		}
		if !got.More || len(got.Keys) == 0 {
			return items, nil
		}
		q.Revision, q.Key = got.Revision, got.Keys[len(got.Keys)-1].Key+"\x00"
	}
}

// reportEvents lists the changes of items that f asks for, in the order in which
// they were made.
func (p *program) reportEvents(items []store.Item[*cluster.Event], f eventFilter) []eventReport {
	slices.SortStableFunc(items, func(a, b store.Item[*cluster.Event]) int {
		return cmp.Or(cmp.Compare(a.Create, b.Create), cmp.Compare(a.Key, b.Key))
	})
	list := []eventReport{}
	for _, it := range items {
		e := it.Value
		if f.who != "" && e.By != f.who || e.Time.Before(f.since) {
			continue
		}
		for i := range e.Changes {
			if c := &e.Changes[i]; c.About(f.vpc, f.node) {
				list = append(list, reportChange(it, c))
			}
		}
		if e.More > 0 && f.vpc == "" && f.node == "" {
			last := reportChange(it, &cluster.Change{Verb: cluster.VerbChanged, Detail: fmt.Sprintf("%d more records", e.More)})
			last.Text = fmt.Sprintf("%s changed %d more records", clean(e.By), e.More)
			list = append(list, last)
		}
	}
	return list
}

func reportChange(it store.Item[*cluster.Event], c *cluster.Change) eventReport {
	k, _ := cluster.ParseKey(cluster.Root + c.Key) // of what is no record, nothing is known
	r := eventReport{ID: last(it.Key), Revision: it.Create, Time: it.Value.Time, Who: it.Value.By, Verb: c.Verb, Kind: k.Kind, Key: c.Key,
		VPC: k.VPC, Node: k.Node, Nodes: c.Nodes, Detail: c.Detail, Why: it.Value.Why, Text: it.Value.By + " " + c.String()}
	if r.Why != "" {
		r.Text += " (" + r.Why + ")"
	}
	return r
}

// newest are the last n of list, all if n is 0.
func newest(list []eventReport, n int) []eventReport {
	if n == 0 || n > len(list) {
		return list
	}
	return list[len(list)-n:]
}

func eventLine(w io.Writer, r eventReport) {
	fmt.Fprintf(w, "%s  %s\n", r.Time.UTC().Format("2006-01-02 15:04:05Z"), clean(r.Text))
}

// followEvents prints what there is, as --limit says, and then what comes. A
// mirror follows the history over lost connections and other leaders, so that
// nothing is left out or comes twice.
func (p *program) followEvents(ctx context.Context, c *cli.Context, s *session, f eventFilter) error {
	var tail eventTail
	lost := false
	err := s.follow(ctx, func(_ *store.Mirror, v *store.View) error {
		_, err := v.Stale()
		switch {
		case err != nil && (tail.seen == nil || errors.Is(err, mvcc.ErrDenied)):
			return err
		case err != nil && !lost:
			p.warn("no contact with the store, will retry: %v", err)
		}
		lost = err != nil
		if !v.Synced(cluster.PrefixEvents) {
			return nil
		}
		first := tail.seen == nil
		list := p.reportEvents(tail.fresh(v), f)
		if first {
			list = newest(list, c.Int("limit"))
		}
		for _, r := range list {
			if err := p.printNext(c, r, func(w io.Writer) { eventLine(w, r) }); err != nil {
				return err
			}
		}
		return nil
	}, cluster.PrefixEvents)
	if ctx.Err() != nil {
		return nil // interrupted, as it was to be
	}
	return err
}

// eventTail knows by its key what was seen of the history.
type eventTail struct{ seen map[string]bool } // nil: nothing was read yet

// fresh lists the events of v that were not there before. What is trimmed does not
// come back.
func (t *eventTail) fresh(v *store.View) []store.Item[*cluster.Event] {
	var fresh []store.Item[*cluster.Event]
	there := map[string]bool{}
	for it := range store.Below[*cluster.Event](v, cluster.PrefixEvents) {
		if there[it.Key] = true; !t.seen[it.Key] {
			fresh = append(fresh, it)
		}
	}
	t.seen = there
	return fresh
}
