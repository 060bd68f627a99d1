package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"sigs.k8s.io/yaml"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/integration/demo"
	"github.com/meshvpc/meshvpc/integration/lab"
)

// trafficWord in the environment makes the test binary a program that writes to
// the store and watches what it writes.
const trafficWord = "MESHVPC_TEST_TRAFFIC"

// trafficKey is no record of ours, and only an admin may write it.
const trafficKey = cluster.Root + "traffic"

// crowdWord in the environment is how many more write without a pause, elsewhere.
const crowdWord = "MESHVPC_TEST_CROWD"

// tally is what a traffic program says in the end. Each write has a number of its
// own, from 1 on.
type tally struct {
	Acked   int    `json:"acked"`
	Refused int    `json:"refused"` // no answer, or an error; the crowd's, too
	Crowd   int    `json:"crowd"`   // acknowledged writes of the crowd
	GapMS   int64  `json:"gap_ms"`  // the longest time between two writes that were acknowledged
	Missed  []int  `json:"missed"`  // acknowledged, and not seen by the watcher
	Doubled []int  `json:"doubled"` // seen twice, or out of order
	Error   string `json:"error"`
}

// writeEvery and writeWithin are the pace of the writer and the patience for one write.
const (
	writeEvery  = 10 * time.Millisecond
	writeWithin = time.Second
	afterFault  = 50 // writes in a row that say that writes work again
)

// traffic is that program on a host.
type traffic struct {
	t    *testing.T
	in   io.WriteCloser
	out  *bufio.Scanner
	done sync.WaitGroup
}

// startTraffic returns once writes are acknowledged and seen.
func startTraffic(ctx context.Context, t *testing.T, s *demo.Site, host string, env ...string) *traffic {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	inRead, in := io.Pipe()
	outRead, out := io.Pipe()
	f := &traffic{t: t, in: in, out: bufio.NewScanner(outRead)}
	f.out.Buffer(nil, 1<<20)
	f.done.Go(func() {
		_, err := s.Lab.Exec(ctx, lab.Command{Host: host, Argv: []string{self}, Env: append(env, trafficWord+"=1"), Stdin: inRead, Stdout: out, Stderr: t.Output()})
		out.CloseWithError(err)
		inRead.Close()
	})
	f.expect("ready")
	return f
}

func (f *traffic) expect(word string) {
	f.t.Helper()
	if !f.out.Scan() || f.out.Text() != word {
		f.t.Fatalf("traffic says %q, want %q: %v", f.out.Text(), word, f.out.Err())
	}
}

func (f *traffic) say(word string) {
	f.t.Helper()
	if _, err := fmt.Fprintln(f.in, word); err != nil {
		f.t.Fatal(err)
	}
}

// through has the program go on while something happens, and until writes work
// after it. Nothing that was acknowledged may be lost.
func (f *traffic) through(happens func()) tally {
	f.t.Helper()
	happens()
	f.say("happened")
	f.expect("works")
	f.say("end")
	if !f.out.Scan() {
		f.t.Fatalf("traffic says nothing: %v", f.out.Err())
	}
	var r tally
	if err := json.Unmarshal(f.out.Bytes(), &r); err != nil {
		f.t.Fatal(err)
	}
	f.in.Close()
	f.done.Wait()
	if len(r.Missed) > 0 || len(r.Doubled) > 0 || r.Error != "" {
		f.t.Errorf("of %d acknowledged writes the watcher missed %v and saw twice or late %v: %s", r.Acked, r.Missed, r.Doubled, r.Error)
	}
	return r
}

// trafficClient is the part of a client file that the program needs.
type trafficClient struct {
	Endpoints     []string
	CA, Cert, Key string
}

func readTrafficClient() (file trafficClient, err error) {
	b, err := os.ReadFile(os.Getenv("MESHVPC_CONFIG"))
	if err == nil {
		err = yaml.Unmarshal(b, &file)
	}
	return file, err
}

// runTraffic is the program.
func runTraffic() error {
	file, err := readTrafficClient()
	if err != nil {
		return err
	}
	urls := make([]string, len(file.Endpoints))
	for i, e := range file.Endpoints {
		urls[i] = "https://" + e
	}
	load := func() (membership.Credential, error) { // for each connection: the file may change
		now, err := readTrafficClient()
		return membership.Credential{CA: []byte(now.CA), Cert: []byte(now.Cert), Key: []byte(now.Key)}, err
	}
	cli, err := client.Dial(client.Config{Endpoints: urls, SyncInterval: 5 * time.Second, TLS: membership.Dialer(load)})
	if err != nil {
		return err
	}
	defer cli.Close()
	if err := cli.Sync(context.Background()); err != nil {
		return err
	}
	first, err := cli.Put(context.Background(), trafficKey, "0")
	if err != nil {
		return err
	}
	words := make(chan string)
	go func() {
		defer close(words)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			words <- in.Text()
		}
	}()
	fmt.Println("ready")
	w := &watched{seen: map[int]bool{}}
	watching, stop := context.WithCancel(context.Background())
	var watcher sync.WaitGroup
	watcher.Go(func() { w.run(watching, cli, first.Header.Revision+1) })
	crowd, _ := strconv.Atoi(os.Getenv(crowdWord)) // none
	var acks, refusals atomic.Int64
	var writers sync.WaitGroup
	for i := range crowd {
		writers.Go(func() { push(watching, cli, fmt.Sprintf("%s-%d", trafficKey, i), &acks, &refusals) })
	}
	r, acked := write(cli, words)
	w.await(acked)
	stop()
	watcher.Wait()
	writers.Wait()
	r.Crowd, r.Refused = int(acks.Load()), r.Refused+int(refusals.Load())
	w.judge(acked, &r)
	return json.NewEncoder(os.Stdout).Encode(r)
}

// push writes without a pause until ctx ends.
func push(ctx context.Context, cli *clientv3.Client, key string, acks, refusals *atomic.Int64) {
	for ctx.Err() == nil {
		call, cancel := context.WithTimeout(ctx, writeWithin)
		began := time.Now()
		_, err := cli.Put(call, key, "x")
		cancel()
		switch {
		case err == nil:
			acks.Add(1)
		case ctx.Err() == nil:
			refusals.Add(1)
			fmt.Fprintf(os.Stderr, "write of the crowd: %v, after %v\n", err, time.Since(began))
		}
	}
}

// write writes until it is told to end.
func write(cli *clientv3.Client, words <-chan string) (r tally, acked []int) {
	last, inRow, happened := time.Now(), 0, false
	for n := 1; ; n++ {
		select {
		case word, ok := <-words:
			if !ok || word == "end" {
				return r, acked
			}
			happened, inRow = true, 0
		case <-time.After(writeEvery):
		}
		ctx, cancel := context.WithTimeout(context.Background(), writeWithin)
		began := time.Now()
		_, err := cli.Put(ctx, trafficKey, strconv.Itoa(n))
		cancel()
		if err != nil {
			r.Refused++
			fmt.Fprintf(os.Stderr, "write %d: %v, after %v\n", n, err, time.Since(began))
			inRow = 0
			continue
		}
		acked = append(acked, n)
		r.Acked++
		r.GapMS = max(r.GapMS, time.Since(last).Milliseconds())
		last = time.Now()
		if inRow++; happened && inRow == afterFault {
			fmt.Println("works")
		}
	}
}

// watched is what a watcher sees, by write.
type watched struct {
	mu      sync.Mutex
	seen    map[int]bool
	doubled []int
	last    int64 // revision
	err     error
}

// run goes on after what it has seen whenever the watch ends, as etcd's clients do.
func (w *watched) run(ctx context.Context, cli *clientv3.Client, from int64) {
	for ctx.Err() == nil {
		for r := range cli.Watch(clientv3.WithRequireLeader(ctx), trafficKey, clientv3.WithRev(from)) {
			if r.CompactRevision != 0 {
				w.err = r.Err()
				return
			}
			w.mu.Lock()
			for _, e := range r.Events {
				n, err := strconv.Atoi(string(e.Kv.Value))
				if err != nil || w.seen[n] || e.Kv.ModRevision <= w.last {
					w.doubled = append(w.doubled, n)
				}
				w.seen[n], w.last = true, e.Kv.ModRevision
				from = w.last + 1
			}
			w.mu.Unlock()
		}
	}
}

// await gives the watcher the time to see the last write.
func (w *watched) await(acked []int) {
	for end := time.Now().Add(30 * time.Second); len(acked) > 0 && time.Now().Before(end); {
		w.mu.Lock()
		done := w.seen[acked[len(acked)-1]]
		w.mu.Unlock()
		if done {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
}

func (w *watched) judge(acked []int, r *tally) {
	for _, n := range acked {
		if !w.seen[n] {
			r.Missed = append(r.Missed, n)
		}
	}
	r.Doubled = w.doubled
	if w.err != nil {
		r.Error = w.err.Error()
	}
}
