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
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership/voters"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// sighting is all servers, members or not, as one pass sees them.
type sighting struct {
	servers []voters.Server
	own     string            // who leads
	ids     map[string]uint64 // etcd's, of members
	applied map[string]uint64 // log index, of members that answer
}

func (s sighting) of(name string) voters.Server {
	i := slices.IndexFunc(s.servers, func(x voters.Server) bool { return x.Name == name })
	if i < 0 {
		return voters.Server{Role: voters.Absent}
	}
	return s.servers[i]
}

// heir is the member to lead instead: a voter that stays, answers and has most of
// the log. 0 if there is none.
func (s sighting) heir() uint64 {
	best := ""
	for _, x := range s.servers {
		if x.Role == voters.Voter && x.Healthy && !x.Removed && x.Name != s.own && (best == "" || s.applied[x.Name] > s.applied[best]) {
			best = x.Name
		}
	}
	return s.ids[best]
}

// look asks all members how they are, and holds them against the records.
func (k *Keeper) look(ctx context.Context, members []*pb.Member, records []store.Item[*cluster.Server], own *clientv3.StatusResponse) (sighting, error) {
	nodes, _, err := store.List[*cluster.Node](ctx, k.cfg.Store, cluster.PrefixNodes)
	if err != nil && len(nodes) == 0 {
		return sighting{}, err
	}
	left := map[string]bool{}
	for _, it := range nodes {
		left[baseOf(it.Key)] = it.Value.State == cluster.NodeLeft
	}
	byURL, known := map[string]string{}, map[string]*cluster.Server{}
	for _, it := range records {
		byURL[peerURL(it.Value)], known[baseOf(it.Key)] = baseOf(it.Key), it.Value
	}
	seen := sighting{ids: map[string]uint64{}, applied: map[string]uint64{}}
	states := k.askAll(ctx, members)
	health := map[string]bool{}
	for i, m := range members {
		s := voters.Server{Name: m.Name, Role: voters.Voter, Healthy: states[i].healthy}
		if m.IsLearner {
			s.Role = voters.Learner
		}
		if s.Name == "" && len(m.PeerURLs) > 0 {
			s.Name = byURL[m.PeerURLs[0]]
		}
		record := known[s.Name]
		s.Removed = s.Name == "" || record == nil && left[s.Name] // who never started and is nobody's is in the way
		if _, twice := seen.ids[s.Name]; twice || s.Name == "" {
			s.Name = fmt.Sprintf("member-%x", m.ID)
		}
		if record != nil {
			s.Datacenter, s.Witness, s.Addressed = record.Datacenter, record.Witness, true
		}
		s.CaughtUp = s.Healthy && caughtUp(states[i].applied, own.RaftIndex) && k.cfg.Now().Sub(k.refused[m.ID]) > refusedFor
		if m.ID == own.Header.MemberId {
			seen.own = s.Name
		}
		seen.servers = append(seen.servers, s)
		seen.ids[s.Name], health[s.Name] = m.ID, s.Healthy
		if states[i].healthy {
			seen.applied[s.Name] = states[i].applied
		}
	}
	for name, record := range known {
		if _, member := seen.ids[name]; !member {
			seen.servers = append(seen.servers, voters.Server{Name: name, Datacenter: record.Datacenter, Witness: record.Witness, Role: voters.Absent, Addressed: true})
		}
	}
	now := k.cfg.Now()
	k.watch.Observe(now.Sub(k.looked), health)
	k.looked = now
	for i, s := range seen.servers {
		_, seen.servers[i].For = k.watch.Health(s.Name)
	}
	return seen, nil
}

// Behind by no more than mostBehind log entries a learner may become a voter: what
// is missing comes within moments. etcd, which knows more, asks for nine tenths of
// the log; a learner that it refuses is asked of again after refusedFor.
const (
	mostBehind = 1000
	refusedFor = time.Second
)

// caughtUp is of a learner that has applied the log so far, of a leader whose log
// ends at index.
func caughtUp(applied, index uint64) bool {
	return applied >= index-min(index, mostBehind) && applied >= index/10*9
}

// state is how a member says that it is.
type state struct {
	healthy bool
	applied uint64 // log index
}

func (k *Keeper) askAll(ctx context.Context, members []*pb.Member) []state {
	states := make([]state, len(members))
	var asking sync.WaitGroup
	for i, m := range members {
		if m.Name == "" {
			continue // it has not started
		}
		asking.Go(func() {
			st, err := k.status(ctx, m.ClientURLs)
			switch {
			case err == nil:
				states[i] = state{true, st.RaftAppliedIndex}
			case status.Code(err) == codes.PermissionDenied: // it answers; this server was taken out
				states[i].healthy = true
			}
		})
	}
	asking.Wait()
	return states
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
