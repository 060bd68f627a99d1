package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func (p *program) getCommand() *cli.Command {
	c := p.verb("get", "[KEY]", "print records as they are", storeFlags(
		&cli.StringFlag{Name: "prefix", Usage: "all records whose key begins with `P`"},
		&cli.BoolFlag{Name: "watch", Usage: "then every change, until interrupted"},
	), p.withStore(p.get))
	c.Description = "meshvpc get config\nmeshvpc get vpcs/vpc1/spec -o yaml\nmeshvpc get --prefix nodes/\nmeshvpc get --prefix status/ --watch"
	return c
}

// rawRecord is one key as `get -o json` prints it.
type rawRecord struct {
	Key     string          `json:"key"`
	Value   json.RawMessage `json:"value"` // a string if it is no JSON
	Mod     int64           `json:"mod_revision"`
	Version int64           `json:"version"`
	Deleted bool            `json:"deleted,omitempty"`
}

func (p *program) get(ctx context.Context, c *cli.Context, s *session) error {
	request, err := getRange(c)
	if err != nil {
		return err
	}
	revision := int64(0)
	if !c.Bool("watch") {
		_, err := p.getOnce(ctx, c, s, request)
		return err
	}
	if revision, err = p.getOnce(ctx, c, s, request); err != nil {
		return err
	}
	for {
		err := p.getWatch(ctx, c, s, request, &revision)
		switch {
		case ctx.Err() != nil:
			return nil // interrupted, as it was to be
		case errors.Is(err, mvcc.ErrCompacted):
			p.warn("changes were lost: %v; here is all again", err)
			if revision, err = p.getOnce(ctx, c, s, request); err != nil {
				return err
			}
		case !errors.Is(err, mvcc.ErrUnavailable) && !errors.Is(err, mvcc.ErrNoLeader):
			return err
		default:
			p.warn("no contact with the store, will retry: %v", err)
			store.Sleep(ctx, time.Second)
		}
	}
}

// getRange reads KEY or --prefix; both may leave out the root of all keys.
func getRange(c *cli.Context) (mvcc.RangeRequest, error) {
	key, prefix := c.Args().First(), c.String("prefix")
	switch {
	case key != "" && c.IsSet("prefix"), key == "" && !c.IsSet("prefix"):
		return mvcc.RangeRequest{}, usage(`like "meshvpc get config" or "meshvpc get --prefix nodes/"`, "get: want one of KEY and --prefix")
	case key != "":
		return mvcc.RangeRequest{Key: rooted(key)}, nil
	}
	return mvcc.Prefix(rooted(prefix)), nil
}

func rooted(key string) string {
	if strings.HasPrefix(key, "/") {
		return key
	}
	return cluster.Root + key
}

func (p *program) getOnce(ctx context.Context, c *cli.Context, s *session, request mvcc.RangeRequest) (revision int64, err error) {
	callCtx, cancel := context.WithTimeout(ctx, s.call)
	defer cancel()
	got, err := s.store.KV().Range(callCtx, request)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", request.Key, err)
	}
	if len(got.Keys) == 0 && request.End == "" && !c.Bool("watch") {
		return 0, failed(`"meshvpc get --prefix /" lists all`, "record %q does not exist", request.Key)
	}
	list := make([]rawRecord, 0, len(got.Keys))
	for _, kv := range got.Keys {
		list = append(list, rawOf(kv))
	}
	if c.Bool("watch") {
		for _, r := range list {
			if err := p.printNext(c, r, func(w io.Writer) { rawTable(w, r) }); err != nil {
				return 0, err
			}
		}
		return got.Revision, nil
	}
	if request.End == "" {
		return got.Revision, p.print(c, list[0], func(w io.Writer) { rawTable(w, list[0]) })
	}
	return got.Revision, p.print(c, list, func(w io.Writer) {
		for _, r := range list {
			rawTable(w, r)
		}
	})
}

// getWatch prints what changes after *revision, which it keeps current.
func (p *program) getWatch(ctx context.Context, c *cli.Context, s *session, request mvcc.RangeRequest, revision *int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for answer := range s.store.KV().Watch(ctx, mvcc.WatchRequest{Key: request.Key, End: request.End, From: *revision + 1}) {
		if answer.Err != nil {
			return answer.Err
		}
		for _, e := range answer.Events {
			r := rawOf(e.KV)
			r.Deleted = e.Deleted
			if err := p.printNext(c, r, func(w io.Writer) { rawTable(w, r) }); err != nil {
				return err
			}
		}
		if n := len(answer.Events); n > 0 { // the store may have more of them than it sent
			*revision = answer.Events[n-1].KV.ModRevision
		} else {
			*revision = max(*revision, answer.Revision)
		}
	}
	return mvcc.ErrUnavailable
}

func rawTable(w io.Writer, r rawRecord) {
	if r.Deleted {
		fmt.Fprintf(w, "%s\ndeleted at revision %d\n", r.Key, r.Mod)
		return
	}
	fmt.Fprintf(w, "%s\n%s\n", r.Key, r.Value)
}

// rawOf makes a key printable without changing what it says: characters that
// could do harm on a terminal become JSON escapes, what is no JSON a string.
func rawOf(kv mvcc.KeyValue) rawRecord {
	r := rawRecord{Key: printable(kv.Key), Mod: kv.ModRevision, Version: kv.Version}
	var compact bytes.Buffer
	if json.Compact(&compact, kv.Value) != nil {
		compact.Reset()
		compact.WriteString(strconv.QuoteToASCII(string(kv.Value)))
		if !json.Valid(compact.Bytes()) { // Go escapes that JSON does not have
			quoted, err := json.Marshal(strings.ToValidUTF8(string(kv.Value), "�"))
			if err != nil {
				quoted = []byte(`""`)
			}
			compact.Reset()
			compact.Write(quoted)
		}
	}
	var b strings.Builder
	for _, c := range compact.String() {
		if unprintable(c) && c <= 0xffff {
			fmt.Fprintf(&b, `\u%04x`, c)
		} else if unprintable(c) {
			b.WriteString(`\ufffd`)
		} else {
			b.WriteRune(c)
		}
	}
	r.Value = json.RawMessage(b.String())
	return r
}
