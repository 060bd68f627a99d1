package watcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// State is the agent's own view, at GET /v1/state of its socket. It needs no
// store.
type State struct {
	Node       string               `json:"node"`
	NodeID     string               `json:"node_id"`
	Version    string               `json:"version"`
	Started    cluster.Time         `json:"started"`
	Left       bool                 `json:"left,omitempty"`
	StaleSince cluster.Time         `json:"stale_since,omitzero"` // zero: in contact with the store
	StaleError string               `json:"stale_error,omitempty"`
	Underlay   cluster.Underlay     `json:"underlay"`
	Problems   []string             `json:"problems"`
	Notes      []string             `json:"notes,omitempty"` // worth knowing, and nothing is wrong
	VPCs       map[string]VPCDetail `json:"vpcs"`
	Ports      []local.Attached     `json:"ports"` // of workloads
}

// VPCDetail is one VPC as this host has it.
type VPCDetail struct {
	cluster.VPCStatus
	Members map[string]*cluster.Member `json:"members"`
}

// Plan is what the agent would do now, at GET /v1/plan, from a full look at
// the host.
type Plan struct {
	Operations []PlannedOp `json:"operations"`
	Problems   []string    `json:"problems"`
}

// PlannedOp is one operation in words.
type PlannedOp struct {
	VPC       string `json:"vpc,omitempty"`
	Operation string `json:"operation"`
}

// ask is a question from the socket to the loop.
type ask struct {
	of    func(ctx context.Context) (any, error) // runs in the loop
	reply chan reply
}

type reply struct {
	body any
	err  error
}

// What the loop is asked.
func (r *runner) askState(context.Context) (any, error) { return r.agent.state(r.mirror.Pull()), nil }
func (r *runner) askPorts(context.Context) (any, error) { return r.agent.ports(), nil }
func (r *runner) askPlan(ctx context.Context) (any, error) {
	return r.agent.memory.plan(ctx, r.agent.host, r.agent.cfg.Node)
}

// OfflinePlan is what an agent would do on this host, from its cache, while
// none runs. It applies nothing.
func OfflinePlan(ctx context.Context, d hostops.Driver, node, nodeID, cache string) (Plan, error) {
	m, err := loadCache(cache, node, nodeID)
	if err != nil {
		return Plan{}, err
	}
	host, err := hostops.New(hostops.Config{Driver: d})
	if err != nil {
		return Plan{}, err
	}
	return m.plan(ctx, host, node)
}

func (m *memory) plan(ctx context.Context, host *hostops.Host, me string) (Plan, error) {
	desired, _ := m.desire(me)
	ops, problems, err := host.Plan(ctx, desired)
	if err != nil {
		return Plan{}, err
	}
	p := Plan{Operations: []PlannedOp{}, Problems: []string{}}
	for _, op := range ops {
		p.Operations = append(p.Operations, PlannedOp{VPC: op.On().VPC, Operation: op.String()})
	}
	for _, pr := range problems {
		p.Problems = append(p.Problems, cluster.CleanText(pr.Reason))
	}
	return p, nil
}

func (a *Agent) state(view *store.View) State {
	s := State{
		Node: a.cfg.Node, NodeID: a.cfg.NodeID, Version: a.cfg.Version, Started: cluster.At(a.started),
		Left: a.memory.Left, Underlay: a.memory.Underlay, Problems: a.problems(view), Notes: a.notes(), VPCs: map[string]VPCDetail{},
		Ports: a.ports().Ports,
	}
	if since, err := view.Stale(); err != nil {
		s.StaleSince, s.StaleError = cluster.At(since), cluster.CleanText(err.Error())
	}
	for name, v := range a.memory.VPCs {
		d := VPCDetail{*a.status(name), v.Members}
		d.Links = a.linksOf(name)
		s.VPCs[name] = d
	}
	return s
}

// serve answers on the local socket, which only root may open, until ctx ends.
func (r *runner) serve(ctx context.Context) error {
	l, err := listen(ctx, r.cfg.Socket)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/state", r.handle(r.askState))
	mux.HandleFunc("GET /v1/plan", r.handle(r.askPlan))
	mux.HandleFunc("GET "+local.PathPorts, r.handle(r.askPorts))
	mux.HandleFunc("POST "+local.PathAttach, question(r, func(q *Question, body *local.AttachRequest) { q.Attach = body }))
	mux.HandleFunc("POST "+local.PathDetach, question(r, func(q *Question, body *local.DetachRequest) { q.Detach = body }))
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ErrorLog: zap.NewStdLog(r.log),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // Serve returns the error
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", r.cfg.Socket, err)
	}
	return nil
}

// listen makes the socket. A file that nobody listens on is left over from an
// agent that was killed; the driver's lock has settled that there is no other.
func listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("make socket: %w", errors.Join(err, l.Close()))
	}
	return l, nil
}

func (r *runner) handle(of func(context.Context) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		q := ask{of: of, reply: make(chan reply, 1)}
		select {
		case r.asks <- q:
		case <-req.Context().Done():
			return
		}
		var got reply
		select {
		case got = <-q.reply:
		case <-req.Context().Done():
			return
		}
		if got.err != nil {
			http.Error(w, got.err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(got.body); err != nil {
			r.log.Debug("client went away", zap.Error(err))
		}
	}
}
