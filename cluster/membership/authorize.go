package membership

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// AuthorizerConfig configures an Authorizer. All has defaults.
type AuthorizerConfig struct {
	Node   *Quota // of a node; nil: NodeQuota
	Viewer *Quota // of a user that is neither admin nor operator; nil: ViewerQuota
	// Self is the server that it is on, which needs no record to be let in.
	Self cluster.Caller
	// Revoked is told of all keys of servers that were taken out, as Node.Revoked
	// has them, when the records have been read and whenever there are others. nil:
	// nobody is told.
	Revoked func(keys []string)
	Now     func() time.Time // nil: time.Now
	Log     *zap.Logger      // nil: none
}

// Authorizer stands before an etcd server of ours: its Unary and Stream are the
// server's interceptors, and ask cluster.Allowed about all that is called. It
// needs the cluster's records for that, which Run reads from that very server,
// or another; before they have been read, only that server passes, and all others
// are told to try again.
//
// What goes on, watches and the renewal of leases, is judged again whenever the
// records change, and ended. A refusal that a record on its way could turn into
// its opposite waits for that a moment: the controller tells a host of its new
// VPC, and the host may be here before the record is.
//
// Nodes and viewers have a Quota each. Who exceeds it is made to wait a little
// with each refusal, so that it costs the server less to refuse than to serve.
type Authorizer struct {
	node, viewer Quota
	self         cluster.Caller
	revoked      func([]string)
	now          func() time.Time
	log          *zap.Logger
	roster       *roster

	mu       sync.Mutex
	accounts map[cluster.Caller]*account
}

// account is what there is of one caller. It outlives the caller's connections,
// so that a new one brings no new quota.
type account struct {
	caller cluster.Caller

	mu      sync.Mutex
	used    used
	held    int // calls that are made to wait
	warned  time.Time
	streams map[*stream]bool
}

// NewAuthorizer starts nothing.
func NewAuthorizer(cfg AuthorizerConfig) *Authorizer {
	a := &Authorizer{node: NodeQuota(), viewer: ViewerQuota(), self: cfg.Self, revoked: cfg.Revoked,
		now: cfg.Now, log: cfg.Log, roster: newRoster(cfg.Self), accounts: map[cluster.Caller]*account{}}
	if cfg.Node != nil {
		a.node = *cfg.Node
	}
	if cfg.Viewer != nil {
		a.viewer = *cfg.Viewer
	}
	if a.now == nil {
		a.now = time.Now
	}
	if a.log == nil {
		a.log = zap.NewNop()
	}
	a.log = a.log.Named("authorizer")
	return a
}

// Ready is closed once the records have been read for the first time.
func (a *Authorizer) Ready() <-chan struct{} { return a.roster.ready }

// Run follows the records that s reads until ctx ends, then returns nil; s is a
// server's. It is called once.
func (a *Authorizer) Run(ctx context.Context, s *store.Store) error {
	var told []string
	first := true
	return a.roster.follow(ctx, s, a.log, func() {
		if keys := a.roster.Revoked(); a.revoked != nil && a.roster.isReady() && (first || !slices.Equal(keys, told)) {
			first, told = false, keys
			a.revoked(keys)
		}
		a.judgeAgain()
	})
}

// Unary is for etcd.Config.Unary.
func (a *Authorizer) Unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	d := demandOf(c.Subject, info.FullMethod, request)
	if c == a.self {
		if err := a.permit(c, d); err != nil {
			return nil, refuse(err)
		}
		return a.carryOut(ctx, c, d, request, info, handler)
	}
	acc, err := a.account(c)
	if err != nil {
		return nil, err
	}
	q := a.quota(c)
	if err := a.admit(ctx, acc, q, d, request); err != nil {
		return nil, a.refused(ctx, acc, err, request)
	}
	answer, err := a.carryOut(ctx, c, d, request, info, handler)
	acc.settle(q, request, answer, err)
	return answer, err
}

// MayObserve is for etcd.Config.MayObserve: servers and people see how a server
// is, nodes do not.
func (a *Authorizer) MayObserve(s tls.ConnectionState) bool {
	c, err := verified(s)
	return err == nil && a.permit(c, demand{accesses: []cluster.Access{{Op: cluster.OpStatus}}}) == nil
}

// admit asks for permission, then takes what the request costs. It gives a
// node's new lease its ID.
func (a *Authorizer) admit(ctx context.Context, acc *account, q Quota, d demand, request any) error {
	if err := acc.use(func(u *used) error { return u.request(q, a.now()) }); err != nil {
		return err
	}
	c := acc.caller
	if err := a.patiently(ctx, acc, func() error { return a.permit(c, d) }); err != nil {
		return err
	}
	return acc.use(func(u *used) error {
		if g, ok := request.(*pb.LeaseGrantRequest); ok && c.Subject.Kind == cluster.SubjectNode {
			if g.ID == 0 {
				g.ID = newLease(c.Subject)
			}
			return u.grant(q, g, a.now())
		}
		return u.write(q, d, func(vpc string) bool { return a.roster.Assigned(c.Subject.Name, vpc) }, a.now())
	})
}

// permit asks whether all of d is allowed.
func (a *Authorizer) permit(c cluster.Caller, d demand) error {
	for _, x := range d.accesses {
		if err := cluster.Allowed(c, a.roster, x); err != nil {
			return err
		}
	}
	return nil
}

// patience is how long a refusal waits for a record that may be on its way.
const patience = 250 * time.Millisecond

// patiently tries again while what is missing may be on its way to the roster.
func (a *Authorizer) patiently(ctx context.Context, acc *account, try func() error) error {
	moved := a.roster.change() // before the try
	err := try()
	if !mayChange(err) {
		return err
	}
	defer acc.release()
	if acc.hold() > maxHeld {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for mayChange(err) {
		select {
		case <-ctx.Done():
			return err
		case <-moved:
		}
		moved = a.roster.change()
		err = try()
	}
	return err
}

func mayChange(err error) bool {
	r, ok := errors.AsType[*cluster.Refusal](err)
	return ok && r.Unknown
}

// elsewhere is what etcd's clients say to themselves when no server is there. A call
// that fails so has not happened, and they repeat it, at another server if they know
// one, also when it writes.
const elsewhere = "there is no address available"

// account is the caller's, if the roster is there to judge it by.
func (a *Authorizer) account(c cluster.Caller) (*account, error) {
	if !a.roster.isReady() {
		return nil, status.Error(codes.Unavailable, elsewhere) // this server is reading who may do what
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	acc := a.accounts[c]
	if acc == nil {
		acc = &account{caller: c, streams: map[*stream]bool{}}
		a.accounts[c] = acc
	}
	return acc, nil
}

// quota is what a caller may use; the zero Quota bounds nothing.
func (a *Authorizer) quota(c cluster.Caller) Quota {
	switch c.Subject.Kind {
	case cluster.SubjectNode:
		return a.node
	case cluster.SubjectServer:
		return Quota{}
	}
	if u, ok := a.roster.User(c.Subject.Name); ok && u.Key == c.Key && (u.Role == cluster.UserAdmin || u.Role == cluster.UserOperator) {
		return Quota{}
	}
	return a.viewer
}

// judgeAgain ends the streams whose callers may not have them any more.
func (a *Authorizer) judgeAgain() {
	a.mu.Lock()
	var open []*stream
	for _, acc := range a.accounts {
		acc.mu.Lock()
		for s := range acc.streams {
			open = append(open, s)
		}
		acc.mu.Unlock()
	}
	a.mu.Unlock()
	for _, s := range open {
		s.judge()
	}
}

// use takes from what the caller may use.
func (acc *account) use(take func(*used) error) error {
	acc.mu.Lock()
	defer acc.mu.Unlock()
	return take(&acc.used)
}

// settle takes what the answer to a request was worth.
func (acc *account) settle(q Quota, request, answer any, err error) {
	acc.mu.Lock()
	defer acc.mu.Unlock()
	acc.used.answered(q, answerCost(answer))
	if r, ok := request.(*pb.LeaseRevokeRequest); ok && err == nil {
		delete(acc.used.leases, r.ID)
	}
}
