package integration

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/integration/history"
	"github.com/meshvpc/meshvpc/integration/lab"
)

// registersWord in the environment makes the test binary a program that reads and
// writes a few keys, and says of each operation what became of it; or, if its value
// is pastWord, one that says what the store remembers of them, or, if requestsWord,
// how many requests each server has had.
const (
	registersWord = "MESHVPC_TEST_REGISTERS"
	pastWord      = "past"
	requestsWord  = "requests"
)

// registers are no records of ours, and only an admin may write them.
const registers = cluster.Root + "registers/"

// How a program works: so many operations at a time on so many keys, each after a
// pause, each with a patience.
const (
	registerWorkers = 2
	registerKeys    = 3
	registerEvery   = 50 * time.Millisecond
	registerWithin  = 2 * time.Second
)

// registerClient is what the program is told: its name, and the one endpoint that it
// speaks to, "" for all that it learns of; its patience, 0 for registerWithin; and
// how much it does at a time, 0 for registerWorkers.
type registerClient struct {
	Name, Endpoint string
	Within         time.Duration
	Workers        int
}

// recorder hears such a program out.
type recorder struct {
	registerClient
	in   io.Closer
	done sync.WaitGroup
	err  error

	mu  sync.Mutex
	ops []history.Op
}

// startRegisters starts the program on a host. The test ends it, too, if nobody else has.
func (c *trio) startRegisters(ctx context.Context, host string, who registerClient) *recorder {
	c.t.Helper()
	inRead, in := io.Pipe()
	outRead, out := io.Pipe()
	r := &recorder{registerClient: who, in: in}
	text, err := json.Marshal(who)
	c.must(err)
	r.done.Go(func() {
		out.CloseWithError(c.runRegisters(ctx, host, string(text), inRead, out))
		inRead.Close()
	})
	r.done.Go(func() { r.err = r.hear(outRead) })
	c.t.Cleanup(func() { r.end() })
	return r
}

func (c *trio) runRegisters(ctx context.Context, host, word string, in io.Reader, out io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	code, err := c.Lab.Exec(ctx, lab.Command{Host: host, Argv: []string{self}, Env: []string{registersWord + "=" + word}, Stdin: in, Stdout: out, Stderr: c.t.Output()})
	if err == nil && code != 0 {
		err = fmt.Errorf("the program on %s: exit %d", host, code)
	}
	return err
}

func (r *recorder) hear(from io.Reader) error {
	for in := json.NewDecoder(from); ; {
		var o history.Op
		if err := in.Decode(&o); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		}
		r.mu.Lock()
		r.ops = append(r.ops, o)
		r.mu.Unlock()
	}
}

// end has the program end and returns all that it did.
func (r *recorder) end() ([]history.Op, error) {
	r.in.Close()
	r.done.Wait()
	return r.ops, r.err
}

// within are the operations that were called and have returned in a span of time,
// those with an answer and those without.
func (r *recorder) within(from, to int64) (answered, unknown []history.Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.ops {
		switch {
		case o.Call < from || o.Return > to:
		case o.Outcome == history.Unknown:
			unknown = append(unknown, o)
		default:
			answered = append(answered, o)
		}
	}
	return answered, unknown
}

// past asks on a host what the store remembers of the registers.
func (c *trio) past(ctx context.Context, host string) []history.Event {
	c.t.Helper()
	var out bytes.Buffer
	c.must(c.runRegisters(ctx, host, pastWord, nil, &out))
	var events []history.Event
	for in := json.NewDecoder(&out); in.More(); {
		var e history.Event
		c.must(in.Decode(&e))
		events = append(events, e)
	}
	return events
}

// runRegistersProgram is the program.
func runRegistersProgram(word string) error {
	file, err := readTrafficClient()
	if err != nil {
		return err
	}
	var who registerClient
	if word != pastWord && word != requestsWord {
		if err := json.Unmarshal([]byte(word), &who); err != nil {
			return err
		}
	}
	dial := client.Config{SyncInterval: 5 * time.Second, TLS: membership.Dialer(func() (membership.Credential, error) {
		return membership.Credential{CA: []byte(file.CA), Cert: []byte(file.Cert), Key: []byte(file.Key)}, nil
	})}
	if who.Endpoint != "" {
		file.Endpoints, dial.SyncInterval = []string{who.Endpoint}, 0
	}
	for _, e := range file.Endpoints {
		dial.Endpoints = append(dial.Endpoints, "https://"+e)
	}
	cli, err := client.Dial(dial)
	if err != nil {
		return err
	}
	defer cli.Close()
	out := json.NewEncoder(os.Stdout)
	if word == pastWord {
		return tellPast(client.New(cli), out)
	}
	if who.Endpoint == "" {
		if err := cli.Sync(context.Background()); err != nil {
			return err
		}
	}
	if word == requestsWord {
		return tellRequests(cli.Endpoints(), dial.TLS, out)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		}
	}()
	var (
		workers sync.WaitGroup
		mu      sync.Mutex
		broken  error
	)
	for n := range cmp.Or(who.Workers, registerWorkers) {
		w := &registerWorker{kv: client.New(cli), name: fmt.Sprintf("%s/%d", who.Name, n), within: cmp.Or(who.Within, registerWithin), last: map[string]int64{}}
		workers.Go(func() {
			w.run(ended, func(o history.Op) {
				mu.Lock()
				defer mu.Unlock()
				broken = errors.Join(broken, out.Encode(o))
			})
		})
	}
	workers.Wait()
	return broken
}

// tellPast says all events of the registers, up to the newest now.
func tellPast(kv mvcc.KV, out *json.Encoder) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	all := mvcc.Prefix(registers)
	now, err := kv.Range(ctx, all)
	if err != nil {
		return err
	}
	newest := int64(0)
	for _, k := range now.Keys {
		newest = max(newest, k.ModRevision)
	}
	for w := range kv.Watch(ctx, mvcc.WatchRequest{Key: all.Key, End: all.End, From: 1}) {
		if w.Err != nil {
			return w.Err
		}
		for _, e := range w.Events {
			if err := out.Encode(history.Event{Key: e.KV.Key, Value: string(e.KV.Value), Rev: e.KV.ModRevision}); err != nil {
				return err
			}
			if e.KV.ModRevision >= newest {
				return nil
			}
		}
	}
	return ctx.Err()
}

// registerWorker does one operation after the other.
type registerWorker struct {
	kv     mvcc.KV
	name   string
	within time.Duration
	last   map[string]int64 // the revision of each key that it saw last
}

func (w *registerWorker) run(ended <-chan struct{}, tell func(history.Op)) {
	kinds := []history.Kind{history.Get, history.Put, history.Guarded}
	for n := 0; ; n++ {
		select {
		case <-ended:
			return
		case <-time.After(registerEvery):
		}
		o := history.Op{Client: w.name, Kind: kinds[rand.IntN(len(kinds))], Key: fmt.Sprint(registers, rand.IntN(registerKeys))}
		if o.Kind != history.Get {
			o.Value = fmt.Sprint(w.name, "/", n)
		}
		if o.Kind == history.Guarded {
			o.Guard = w.last[o.Key]
		}
		ctx, cancel := context.WithTimeout(context.Background(), w.within)
		o.Call = history.Now()
		err := w.do(ctx, &o)
		o.Return = history.Now()
		cancel()
		if err != nil {
			o.Outcome = history.Unknown
		} else {
			w.last[o.Key] = o.Rev
		}
		tell(o)
	}
}

// do fills in what the store answers.
func (w *registerWorker) do(ctx context.Context, o *history.Op) error {
	put := []mvcc.Op{{Kind: mvcc.OpPut, Key: o.Key, Value: []byte(o.Value)}}
	var txn mvcc.TxnRequest
	switch o.Kind {
	case history.Put:
		txn.Then = put
	case history.Guarded:
		txn = mvcc.TxnRequest{If: []mvcc.Compare{mvcc.Unchanged(o.Key, o.Guard)}, Then: put, Else: []mvcc.Op{mvcc.Get(o.Key)}}
	default:
		r, err := w.kv.Range(ctx, mvcc.RangeRequest{Key: o.Key})
		o.Outcome = history.Done
		saw(o, r.Keys)
		return err
	}
	r, err := w.kv.Txn(ctx, txn)
	if err != nil {
		return err
	}
	o.Outcome, o.Rev = history.Done, r.Revision
	if !r.Succeeded {
		o.Outcome, o.Rev = history.Refused, 0
		saw(o, r.Responses[0].Keys)
	}
	return nil
}

// saw notes a key's value; one that is not there has none, of revision 0.
func saw(o *history.Op, keys []mvcc.KeyValue) {
	if len(keys) > 0 {
		o.Seen, o.Rev = string(keys[0].Value), keys[0].ModRevision
	}
}

// judge checks what all saw against what the store remembers.
func (c *trio) judge(ctx context.Context, clients []*recorder) {
	c.t.Helper()
	var all []history.Op
	outcomes := map[history.Outcome]int{}
	for _, r := range clients {
		ops, err := r.end()
		c.must(err)
		for _, o := range ops {
			outcomes[o.Outcome]++
		}
		all = append(all, ops...)
	}
	events := c.past(ctx, c.plain)
	began := time.Now()
	if err := history.Check(all, events); err != nil {
		c.t.Error(err)
	}
	c.t.Logf("%d operations of %d clients %v, %d writes in the store, checked in %v", len(all), len(clients), outcomes, len(events), time.Since(began).Round(time.Millisecond))
}
