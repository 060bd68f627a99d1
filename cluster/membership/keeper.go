package membership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership/voters"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// KeeperConfig configures a Keeper. Client, Own and Store are required.
type KeeperConfig struct {
	Client *clientv3.Client // of this server alone: it may be the one that goes
	Own    string           // URL of its endpoint
	Store  *store.Store     // by way of this server; writes as an operator
	Log    *zap.Logger      // nil: none
	// Policy of who votes. Its Stabilization is 1 s by default here: a cluster that
	// grows should not be without spare for long, and who fails soon after costs no
	// quorum.
	Policy voters.Policy
	Now    func() time.Time // monotonic; nil: time.Now
	// Alive is called before each wait, and at least every AliveEvery; nil: nobody is
	// told.
	Alive      func()
	AliveEvery time.Duration
}

// Keeper keeps the members of the store as the records of servers and nodes say,
// and writes into these who votes and why. One runs on each server; that of the
// store's leader acts, the others only watch who leads.
type Keeper struct {
	cfg KeeperConfig
	log *zap.Logger

	// Since this server leads:
	term    uint64 // of raft, in which it does; 0: it does not
	watch   voters.Watch
	looked  time.Time            // when watch was last told
	refused map[uint64]time.Time // learners that etcd found not ready, and when
}

// NewKeeper starts nothing.
func NewKeeper(cfg KeeperConfig) *Keeper {
	log := cfg.Log
	if log == nil {
		log = zap.NewNop()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Policy.Stabilization = cmp.Or(cfg.Policy.Stabilization, stabilization)
	return &Keeper{cfg: cfg, log: log.Named("members")}
}

// How often the Keeper looks: while something is about to be done, else; how long
// a member is new; how long a member may take to say how it is.
const (
	keepSoon  = 300 * time.Millisecond
	keepRest  = 3 * time.Second
	newFor    = time.Minute
	askWithin = time.Second

	stabilization = time.Second
)

// Run looks until ctx ends, and returns nil then.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		again, err := k.pass(ctx)
		if err != nil && ctx.Err() == nil {
			k.log.Warn("cannot keep the store's members, will retry", zap.Error(err))
		}
		if k.cfg.Alive != nil {
			k.cfg.Alive()
			if k.cfg.AliveEvery > 0 {
				again = min(again, k.cfg.AliveEvery)
			}
		}
		if !store.Sleep(ctx, again) {
			return nil
		}
	}
}

// pass looks once, takes one step at most, and says when to look again.
func (k *Keeper) pass(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	own, err := k.status(ctx, []string{k.cfg.Own})
	if err != nil || own.Leader != own.Header.MemberId {
		k.term = 0
		return keepRest, nil //nolint:nilerr // who does not answer, or does not lead, has nothing to do
	}
	if k.term != own.RaftTerm {
		k.term, k.watch, k.looked, k.refused = own.RaftTerm, voters.Watch{}, k.cfg.Now(), map[uint64]time.Time{}
	}
	list, err := k.cfg.Client.MemberList(ctx)
	if err != nil {
		return keepRest, fmt.Errorf("list members: %w", err)
	}
	records, _, err := store.List[*cluster.Server](ctx, k.cfg.Store, cluster.PrefixSrvs)
	if err != nil {
		return keepRest, err
	}
	seen, err := k.look(ctx, list.Members, records, own)
	if err != nil {
		return keepRest, err
	}
	d := voters.Decide(voters.View{Servers: seen.servers, Policy: k.cfg.Policy})
	if err := k.tell(ctx, records, seen, d); err != nil {
		return keepSoon, err
	}
	again := keepRest
	if d.Step.Kind != voters.None || slices.ContainsFunc(seen.servers, unsettled) {
		again = keepSoon
	}
	return again, k.do(ctx, d.Step, seen)
}

// unsettled is a server about which something is to be decided soon.
func unsettled(s voters.Server) bool {
	return s.Role != voters.Absent && s.Removed || s.Role == voters.Learner && s.For < newFor
}

func (k *Keeper) do(ctx context.Context, step voters.Step, seen sighting) (err error) {
	id := seen.ids[step.Server]
	switch {
	case step.Kind == voters.None:
		return nil
	case step.Kind == voters.Promote:
		_, err = k.cfg.Client.MemberPromote(ctx, id)
		if errors.Is(err, rpctypes.ErrMemberLearnerNotReady) {
			k.refused[id] = k.cfg.Now()
			return nil // a moment later
		}
	case step.Server == seen.own: // its successor removes it
		_, err = k.cfg.Client.MoveLeader(ctx, seen.heir())
	default:
		_, err = k.cfg.Client.MemberRemove(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("%s member %x, server %s: %w", step.Kind, id, step.Server, err)
	}
	k.log.Info("changed the store's members", zap.String("step", string(step.Kind)), zap.String("server", step.Server),
		zap.String("member", fmt.Sprintf("%x", id)), zap.String("why", step.Why), zap.Bool("moved_lead_first", step.Kind == voters.Remove && step.Server == seen.own))
	return nil
}

// whyOut begins what is said of a server that is no member any more, though no
// operator removed it.
const whyOut = "taken out of the store: "

// tell writes into the servers' records who votes and why.
func (k *Keeper) tell(ctx context.Context, records []store.Item[*cluster.Server], seen sighting, d voters.Decision) error {
	var errs []error
	for _, it := range records {
		name, s := baseOf(it.Key), it.Value
		member := seen.of(name)
		voter, because := member.Role == voters.Voter, d.Why[name]
		switch {
		case d.Step.Kind == voters.Remove && d.Step.Server == name && name != seen.own && !member.Removed:
			because = whyOut + d.Step.Why + "; it comes back by itself, to stand by"
		case member.Role == voters.Absent && (s.Why == whyNew || strings.HasPrefix(s.Why, whyOut)):
			because = s.Why
		}
		because = cluster.CleanText(because)
		if s.Voter == voter && s.Why == because {
			continue
		}
		s.Voter, s.Why = voter, because
		var c store.Change
		store.Put(&c, it, s)
		if _, err := k.cfg.Store.Commit(ctx, c); err != nil && !errors.Is(err, store.ErrConflict) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// baseOf is the last element of a key.
func baseOf(key string) string {
	k, err := cluster.ParseKey(key)
	if err != nil {
		return ""
	}
	return k.Node + k.Name
}
