package membership

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// ServerRequest is the part of a JoinRequest of who will be a server.
type ServerRequest struct {
	Request string `json:"request"` // for the server's certificate, PEM
	Address string `json:"address"` // host:port, for clients
	Peer    string `json:"peer"`    // host:port, for other servers
	// Addresses are all that the certificate shall name.
	Addresses []netip.Addr `json:"addresses"`
}

// maxAddresses is how many addresses a server's certificate names.
const maxAddresses = 64

func (r *ServerRequest) check() (wanted, error) {
	record := cluster.Server{Address: r.Address, Peer: r.Peer}
	if err := record.Validate(); err != nil {
		return wanted{}, err
	}
	if r.Peer == "" || len(r.Addresses) > maxAddresses {
		return wanted{}, errors.New("want an address for other servers, and not more than 64 in all")
	}
	for _, a := range r.Addresses {
		if !a.IsValid() {
			return wanted{}, errors.New("an address of the server is empty")
		}
	}
	return requested([]byte(r.Request))
}

// role is what the candidate wants to be.
func (c candidate) role() cluster.TokenRole {
	switch {
	case c.Server == nil:
		return cluster.TokenNode
	case c.Request == "":
		return cluster.TokenWitness
	default:
		return cluster.TokenServer
	}
}

// isServer reports whether s, nil for none, is the server that the candidate wants
// to be, if any.
func (c candidate) isServer(s *cluster.Server) bool {
	return c.Server == nil || s != nil && s.Key == c.server.hash && s.Witness == (c.role() == cluster.TokenWitness)
}

// serverBefore returns the record to replace, none or this server's own, and why
// it cannot be.
func (a *admitter) serverBefore(ctx context.Context, c candidate) (it store.Item[*cluster.Server], taken, err error) {
	key := cluster.KeyServer(c.Name)
	if c.Server == nil {
		return store.Item[*cluster.Server]{Key: key}, nil, nil
	}
	it, err = store.Get[*cluster.Server](ctx, a.store, key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		taken, err = a.stillMember(ctx, c.Name)
		return store.Item[*cluster.Server]{Key: key}, taken, err
	case err == nil && !c.isServer(it.Value):
		taken = refusef(CodeTaken, "node %s is a server already, with another key than this host has", c.Name)
	}
	return it, taken, err
}

// stillMember refuses a name that a server had which is not out of the store yet:
// the members there have names, and no keys.
func (a *admitter) stillMember(ctx context.Context, name string) (taken, err error) {
	if a.members == nil {
		return nil, nil
	}
	list, err := a.members.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	if slices.ContainsFunc(list.Members, func(m *pb.Member) bool { return m.Name == name }) {
		taken = refusef(CodeLeaving, "the server of the name %s that was taken out is still a member of the store", name)
	}
	return taken, nil
}

func (c candidate) serverRecord(datacenter string, now cluster.Time) *cluster.Server {
	return &cluster.Server{Datacenter: datacenter, Address: c.Server.Address, Peer: c.Server.Peer, Key: c.server.hash,
		Witness: c.role() == cluster.TokenWitness, Why: whyNew, Joined: now}
}

// whyNew is said of a server whose store has not begun.
const whyNew = "it has not started yet"

func (c candidate) serverCertificate(ca *CA, now time.Time) (string, error) {
	if c.Server == nil {
		return "", nil
	}
	text, err := ca.Issue(c.server.key, cluster.Subject{Kind: cluster.SubjectServer, Name: c.Name}, c.Server.Addresses, now)
	return string(text), err
}

// voterAddresses are where the store can be read and written.
func voterAddresses(servers []store.Item[*cluster.Server]) (list []string) {
	for _, it := range servers {
		if it.Value.Voter {
			list = append(list, it.Value.Address)
		}
	}
	return list
}

// server is the record of the server that a certificate speaks for, if it is still
// one.
func (a *admitter) server(ctx context.Context, by holderOf) (*cluster.Server, error) {
	if by.Kind != cluster.SubjectServer {
		return nil, refusef(CodeForbidden, "that is for servers")
	}
	it, err := store.Get[*cluster.Server](ctx, a.store, cluster.KeyServer(by.Name))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, refusef(CodeRemoved, "server %s was taken out of the cluster", by.Name)
	case err != nil:
		return nil, fmt.Errorf("find server: %w", err)
	case it.Value.Key != by.hash:
		return nil, refusef(CodeRemoved, "the certificate is no longer that of server %s", by.Name)
	}
	return it.Value, nil
}
