package membership

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// KeeperConfig configures a Keeper. All but Log is required.
type KeeperConfig struct {
	Client *clientv3.Client // of this server alone: it may be the one that goes
	Own    string           // URL of its endpoint
	Store  *store.Store     // by way of this server; writes as an operator
	Log    *zap.Logger      // nil: none
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
}

// NewKeeper starts nothing.
func NewKeeper(cfg KeeperConfig) *Keeper {
	log := cfg.Log
	if log == nil {
		log = zap.NewNop()
	}
	return &Keeper{cfg, log.Named("members")}
}

// How often the Keeper looks: while something is to be done, else; and how long a
// member may take to say how it is.
const (
	keepSoon  = 300 * time.Millisecond
	keepRest  = 3 * time.Second
	askWithin = time.Second
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
		t := time.NewTimer(again)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}

// pass looks once, takes one step at most, and says when to look again.
func (k *Keeper) pass(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	own, err := k.status(ctx, []string{k.cfg.Own})
	if err != nil || own.Leader != own.Header.MemberId {
		return keepRest, nil //nolint:nilerr // who does not answer, or does not lead, has nothing to do
	}
	list, err := k.cfg.Client.MemberList(ctx)
	if err != nil {
		return keepRest, fmt.Errorf("list members: %w", err)
	}
	servers, _, err := store.List[*cluster.Server](ctx, k.cfg.Store, cluster.PrefixSrvs)
	if err != nil {
		return keepRest, err
	}
	seats, err := k.seats(ctx, list.Members, servers, own)
	if err != nil {
		return keepRest, err
	}
	step := NextStep(seats)
	if err := k.tell(ctx, servers, seats, step.Why); err != nil {
		return keepSoon, err
	}
	again := keepRest
	if slices.ContainsFunc(seats, func(s Seat) bool { return !s.Voter || s.Out }) {
		again = keepSoon
	}
	return again, k.do(ctx, step)
}

func (k *Keeper) do(ctx context.Context, step Step) (err error) {
	switch step.Do {
	case StepPromote:
		_, err = k.cfg.Client.MemberPromote(ctx, step.ID)
		if errors.Is(err, rpctypes.ErrMemberLearnerNotReady) {
			return nil // a moment later
		}
	case StepRemove:
		_, err = k.cfg.Client.MemberRemove(ctx, step.ID)
	default:
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s member %x: %w", step.Do, step.ID, err)
	}
	k.log.Info("changed the store's members", zap.String("step", string(step.Do)), zap.String("member", fmt.Sprintf("%x", step.ID)))
	return nil
}

// seats asks all members how they are, if there is anything to decide.
func (k *Keeper) seats(ctx context.Context, members []*pb.Member, servers []store.Item[*cluster.Server], own *clientv3.StatusResponse) ([]Seat, error) {
	nodes, _, err := store.List[*cluster.Node](ctx, k.cfg.Store, cluster.PrefixNodes)
	if err != nil && len(nodes) == 0 {
		return nil, err
	}
	left := map[string]bool{}
	for _, it := range nodes {
		name := baseOf(it.Key)
		left[name] = it.Value.State == cluster.NodeLeft
	}
	byURL, known := map[string]string{}, map[string]bool{}
	for _, it := range servers {
		byURL[peerURL(it.Value)], known[baseOf(it.Key)] = baseOf(it.Key), true
	}
	seats := make([]Seat, len(members))
	var asking sync.WaitGroup
	for i, m := range members {
		s := &seats[i]
		*s = Seat{Name: m.Name, ID: m.ID, Voter: !m.IsLearner}
		name := m.Name
		if name == "" && len(m.PeerURLs) > 0 {
			name = byURL[m.PeerURLs[0]]
		}
		s.Out = !known[name] && left[name] || name == "" // who never started and is nobody's is in the way
		if m.Name == "" {
			continue
		}
		asking.Go(func() {
			st, err := k.status(ctx, m.ClientURLs)
			switch {
			case err == nil:
				s.Healthy = true
				s.Lag = own.RaftIndex - min(own.RaftIndex, st.RaftAppliedIndex)
			case status.Code(err) == codes.PermissionDenied: // it answers; this server was taken out
				s.Healthy = true
			}
		})
	}
	asking.Wait()
	return seats, nil
}

// status asks the one member with these URLs.
func (k *Keeper) status(ctx context.Context, urls []string) (answer *clientv3.StatusResponse, err error) {
	err = errors.New("no address")
	for _, u := range urls {
		if _, bad := url.Parse(u); bad != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, askWithin)
		answer, err = k.cfg.Client.Status(ctx, u)
		cancel()
		if err == nil {
			return answer, nil
		}
	}
	return nil, err
}

// tell writes into the servers' records who votes and why.
func (k *Keeper) tell(ctx context.Context, servers []store.Item[*cluster.Server], seats []Seat, why map[string]string) error {
	var errs []error
	for _, it := range servers {
		name, s := baseOf(it.Key), it.Value
		i := slices.IndexFunc(seats, func(x Seat) bool { return x.Name == name })
		voter, because := i >= 0 && seats[i].Voter, whyNew
		if i >= 0 {
			because = why[name]
		}
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
