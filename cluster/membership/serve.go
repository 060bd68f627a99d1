package membership

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// Members is the part of an etcd client that is about the store's members.
type Members interface {
	MemberList(ctx context.Context, opts ...clientv3.OpOption) (*clientv3.MemberListResponse, error)
	MemberAddAsLearner(ctx context.Context, peers []string) (*clientv3.MemberAddResponse, error)
	MemberPromote(ctx context.Context, id uint64) (*clientv3.MemberPromoteResponse, error)
	MemberRemove(ctx context.Context, id uint64) (*clientv3.MemberRemoveResponse, error)
}

// ServeAnswer is what a server begins its store with.
type ServeAnswer struct {
	Members   map[string][]string `json:"members"`   // of the store, with the asker: URLs for other servers by name
	Endpoints []string            `json:"endpoints"` // of the store, host:port
	// IDs are etcd's, of all members; also for who only looks.
	IDs []uint64 `json:"ids,omitempty"`
}

// Serve asks as c, a server that has joined and whose store is empty, to become a
// member of the store. It may be asked again, whatever happened in between.
func Serve(ctx context.Context, address string, c Credential) (answer ServeAnswer, err error) {
	err = ask(ctx, address, pathServe, Dialer(c.Load), serveRequest{}, &answer, nil)
	return answer, err
}

// StillServes asks as c, a server, which members the store has, by etcd's IDs: who
// was one of another ID is one no more. It may join again. If it is no server any
// more, the error is a *Refusal with CodeRemoved. No members: who answers does not say.
func StillServes(ctx context.Context, address string, c Credential) (members []uint64, err error) {
	var answer ServeAnswer
	err = ask(ctx, address, pathServe, Dialer(c.Load), serveRequest{Look: true}, &answer, nil)
	return answer.IDs, err
}

type serveRequest struct {
	Look bool `json:"look,omitempty"` // change nothing
}

// AuthorityAnswer is the key of the CA, and while it takes the place of another, or
// is about to give its own up, that of the other.
type AuthorityAnswer struct {
	Key string `json:"key"` // PEM
}

// Authority asks as c, a server that is no witness, for the CA's key. It is not in
// JoinAnswer, which is given again to who has the request alone: here the key of
// the server's certificate is proved.
func Authority(ctx context.Context, address string, c Credential) ([]byte, error) {
	var answer AuthorityAnswer
	err := ask(ctx, address, pathAuthority, Dialer(c.Load), struct{}{}, &answer, nil)
	return []byte(answer.Key), err
}

func (s *Service) authority(ctx context.Context, conn *tls.ConnectionState, _ struct{}) (AuthorityAnswer, error) {
	by, err := s.subject(conn)
	if err != nil {
		return AuthorityAnswer{}, err
	}
	record, err := s.admitter.server(ctx, by)
	if err != nil {
		return AuthorityAnswer{}, err
	}
	if record.Witness {
		return AuthorityAnswer{}, refusef(CodeForbidden, "a witness has no CA key")
	}
	ca, err := s.cfg.CA()
	if err != nil {
		return AuthorityAnswer{}, err
	}
	key, err := ca.KeyPEM()
	if err == nil && ca.other != nil {
		var other []byte
		other, err = ca.other.KeyPEM()
		key = append(key, other...)
	}
	if err == nil {
		s.cfg.Log.Info("handed over the CA's key", zap.Stringer("to", by.Subject))
	}
	return AuthorityAnswer{string(key)}, err
}

// serve makes a learner of a server, and tells it who the members are.
func (s *Service) serve(ctx context.Context, conn *tls.ConnectionState, r serveRequest) (ServeAnswer, error) {
	by, err := s.subject(conn)
	if err != nil {
		return ServeAnswer{}, err
	}
	record, err := s.admitter.server(ctx, by)
	if err != nil {
		return ServeAnswer{}, err
	}
	if s.cfg.Members == nil && r.Look {
		return ServeAnswer{}, nil
	}
	if s.cfg.Members == nil {
		return ServeAnswer{}, refusef(CodeForbidden, "the store is not run by servers of meshvpc")
	}
	list, err := s.cfg.Members.MemberList(ctx)
	if err != nil {
		return ServeAnswer{}, fmt.Errorf("list members: %w", err)
	}
	if r.Look {
		return ServeAnswer{IDs: idsOf(list.Members)}, nil
	}
	members, url := list.Members, peerURL(record)
	mine := slices.IndexFunc(members, func(m *pb.Member) bool { return m.Name == by.Name || slices.Contains(m.PeerURLs, url) })
	switch {
	case mine < 0:
		added, err := s.cfg.Members.MemberAddAsLearner(ctx, []string{url})
		if err != nil {
			return ServeAnswer{}, fmt.Errorf("add member: %w", err)
		}
		members = added.Members
		s.cfg.Log.Info("added a member to the store", zap.String("server", by.Name), zap.String("peer", record.Peer))
	case members[mine].Name != "": // it has started
		return ServeAnswer{}, refusef(CodeTaken, "server %s has a place in the store already, and had data: take it out (meshvpc node remove %s) and join it anew", by.Name, by.Name)
	}
	servers, _, err := store.List[*cluster.Server](ctx, s.admitter.store, cluster.PrefixSrvs)
	if err != nil && len(servers) == 0 {
		return ServeAnswer{}, err
	}
	return ServeAnswer{Members: peersOf(members, by.Name, url), Endpoints: voterAddresses(servers), IDs: idsOf(members)}, nil
}

func idsOf(members []*pb.Member) (ids []uint64) {
	for _, m := range members {
		ids = append(ids, m.ID)
	}
	return ids
}

func peerURL(s *cluster.Server) string { return "https://" + s.Peer }

// peersOf names all members. One that has not started has no name there, and any
// will do.
func peersOf(members []*pb.Member, me, url string) map[string][]string {
	peers := map[string][]string{}
	for _, m := range members {
		name := m.Name
		switch {
		case slices.Contains(m.PeerURLs, url):
			name = me
		case name == "":
			name = fmt.Sprintf("member-%x", m.ID)
		}
		peers[name] = m.PeerURLs
	}
	return peers
}
