package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/demo"
)

// outage is how long there is no server, and agents how many hosts wait for one.
const (
	outage = 10 * time.Second
	agents = 9
)

// TestOutage has no server for a while: no frame is lost; when all are back, hosts
// follow, and ask little more than what one host needs to begin.
func TestOutage(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), outage+4*time.Minute)
	defer cancel()
	hosts, err := demo.Hosts(agents, 3, true)
	if err != nil {
		t.Fatal(err)
	}
	c := newServers(ctx, t, "testoutage", hosts, hosts[3].Name)
	m := &mesh{Site: c.Site, t: t}
	for _, h := range hosts[:3] {
		m.hosts = append(m.hosts, h.Name)
	}
	c.must(c.AwaitNodes(ctx, agents))
	m.createAs(ctx)
	m.awaitPings(ctx)
	m.through(ctx, func() {
		for _, s := range c.servers() {
			c.must(c.Lab.Kill(ctx, s, "server"))
		}
		<-time.After(outage)
		for _, s := range c.servers() {
			c.must(c.Lab.StartServices(ctx, s, "server"))
		}
		began := time.Now()
		m.must(m.Until(ctx, func() error {
			_, err := m.Meshvpc(ctx, c.plain, "vpc", "create", "vpc2", "--peer-network", "10.101.0.0/24", "--no-wait", "--timeout", "5s")
			return err
		}))
		t.Logf("a VPC was made %v after the servers were started", time.Since(began).Round(time.Millisecond))
		m.must(m.Until(ctx, func() error {
			_, err := m.Meshvpc(ctx, c.plain, "vpc", "wait", "vpc2", "--timeout", "10s")
			return err
		}))
		t.Logf("all %d hosts have it after %v", agents, time.Since(began).Round(time.Millisecond))
	})
	requests := c.requests(ctx)
	sum := 0
	for _, n := range requests {
		sum += n
	}
	t.Logf("the servers have had %d requests since they started, %d for each of %d agents: %v", sum, sum/agents, agents, requests)
	if sum > agents*requestsPerAgent {
		t.Errorf("%d requests for each agent, want %d at most", sum/agents, requestsPerAgent)
	}
}

// requestsPerAgent is what an agent may ask to begin and to bring up a VPC, with its
// share of what the servers and commands ask meanwhile.
const requestsPerAgent = 200

// requests are those that all servers have had since they started, by method.
func (c *trio) requests(ctx context.Context) map[string]int {
	c.t.Helper()
	var out bytes.Buffer
	c.must(c.runRegisters(ctx, c.plain, requestsWord, nil, &out))
	var r map[string]int
	c.must(json.Unmarshal(out.Bytes(), &r))
	return r
}

// tellRequests sums up what each server says of itself.
func tellRequests(endpoints []string, conf *tls.Config, out *json.Encoder) error {
	const metric = "grpc_server_started_total{"
	sums := map[string]int{}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	for _, e := range endpoints {
		r, err := client.Get(e + "/metrics")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return fmt.Errorf("metrics of %s: %s", e, r.Status)
		}
		for in := bufio.NewScanner(r.Body); in.Scan(); {
			labels, is := strings.CutPrefix(in.Text(), metric)
			if !is {
				continue
			}
			_, method, _ := strings.Cut(labels, `grpc_method="`)
			method, _, _ = strings.Cut(method, `"`)
			_, value, _ := strings.Cut(labels, "} ")
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return err
			}
			if n > 0 {
				sums[method] += int(n)
			}
		}
	}
	if len(sums) == 0 {
		return fmt.Errorf("servers %v count no requests", endpoints)
	}
	return out.Encode(sums)
}
