package membership

import (
	"cmp"
	"context"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// JoinRequest is what a joiner sends.
type JoinRequest struct {
	TokenID    string `json:"token_id"`
	Secret     string `json:"secret"` // of the token, hexadecimal
	Name       string `json:"name"`   // of the node
	ID         string `json:"id"`     // of the node, random: the same again after a join that was cut short
	Datacenter string `json:"datacenter"`
	Request    string `json:"request"` // for the node's certificate, PEM
	// Viewer asks for a certificate that reads, for the people of that host.
	Viewer string `json:"viewer_request"`
	// Server is set by who has a server's or a witness's token. A witness asks for
	// no node's certificate.
	Server *ServerRequest `json:"server,omitempty"`
	// Underlay is where tunnels to the node will end, at most one address a
	// family. The server asks there whether the joiner is; empty: it does not.
	Underlay []netip.Addr `json:"underlay,omitempty"`
	Version  string       `json:"version,omitempty"` // of the joiner's program; "": an old one
}

// JoinAnswer is what it gets. The CA's certificate is not in it: the joiner has
// seen it, and knows by the token that it is the right one.
type JoinAnswer struct {
	Cluster    string   `json:"cluster"`
	Datacenter string   `json:"datacenter"` // of the node's record, which may be older
	Endpoints  []string `json:"endpoints"`  // of the store, host:port
	// StoreCA, PEM, and Servers, the addresses of join services, are for a store
	// that is an external etcd.
	StoreCA     string   `json:"store_ca,omitempty"`
	Servers     []string `json:"servers,omitempty"`
	Certificate string   `json:"certificate"`
	Viewer      string   `json:"viewer_certificate"`
	Server      string   `json:"server_certificate,omitempty"`
	// Silent are those of the joiner's underlay addresses where it did not answer.
	Silent []netip.Addr `json:"silent,omitempty"`
}

// Code says why a request was refused, to programs.
type Code string

// The codes of refusals.
const (
	CodeInvalid     Code = "invalid"     // the request is none
	CodeToken       Code = "token"       // unknown, expired, used up or revoked
	CodeRole        Code = "role"        // the token is for something else
	CodeTaken       Code = "taken"       // another node or user has the name
	CodeRemoved     Code = "removed"     // this very node was removed
	CodeLeaving     Code = "leaving"     // a removed node of the name still leaves its VPCs
	CodeForbidden   Code = "forbidden"   // the subject may not ask that
	CodeNoCluster   Code = "no cluster"  // the store is empty, yet
	CodeWitness     Code = "witness"     // another server can do that
	CodeUnreachable Code = "unreachable" // the joiner is not at its underlay address, or another node is
	CodeVersion     Code = "version"     // the joiner's is too far from the server's
	CodeUnavailable Code = "unavailable" // the store does not answer; it may have been done
)

// Refusal is a request that a server refused.
type Refusal struct {
	Code   Code   `json:"code"`
	Reason string `json:"reason"`
}

func (r *Refusal) Error() string { return r.Reason }

func refusef(code Code, format string, args ...any) error {
	return &Refusal{code, fmt.Sprintf(format, args...)}
}

// admitter lets joiners in.
type admitter struct {
	store *store.Store // as an operator
	ca    func() (*CA, error)
	now   func() time.Time

	members Members // of the store, nil if there are none of ours
	// ask whether the holder of a key, by its hash, is at an address; nil: nobody
	// is asked.
	ask     func(ctx context.Context, key string, at netip.Addr) error
	version string // of this server
	// external is nil where the store is the servers' own.
	external *External
}

// tries is how often a transaction is tried that others were faster than: as
// many may join at once with one token.
const tries = 100

// join makes a node of a joiner: one transaction takes a use of the token,
// writes the node's record and that of its viewer.
func (a *admitter) join(ctx context.Context, r JoinRequest) (JoinAnswer, error) {
	c, err := a.check(r)
	if err != nil {
		return JoinAnswer{}, err
	}
	ca, err := a.ca() // before anything is changed: a witness has none
	if err != nil {
		return JoinAnswer{}, err
	}
	config, err := store.Get[*cluster.Config](ctx, a.store, cluster.KeyConfig)
	if errors.Is(err, store.ErrNotFound) {
		return JoinAnswer{}, refusef(CodeNoCluster, "the store holds no cluster yet")
	}
	if err != nil {
		return JoinAnswer{}, err
	}
	answer := JoinAnswer{Cluster: config.Value.Cluster}
	c.tunnels, c.vetted = config.Value.UnderlayPort, &vetted{}
	for range tries {
		answer.Datacenter, err = a.admit(ctx, c)
		if !errors.Is(err, store.ErrConflict) {
			break
		}
	}
	if err != nil {
		return JoinAnswer{}, err
	}
	answer.Silent = c.vetted.silent
	servers, _, err := store.List[*cluster.Server](ctx, a.store, cluster.PrefixSrvs)
	if err != nil && len(servers) == 0 {
		return JoinAnswer{}, err
	}
	answer.Endpoints = voterAddresses(servers)
	if a.external != nil {
		if err := a.external.welcome(ctx, &answer); err != nil {
			return JoinAnswer{}, err
		}
	}
	if answer.Server, err = c.serverCertificate(ca, a.now()); err != nil {
		return JoinAnswer{}, err
	}
	var node []byte
	if c.node.key != nil {
		if node, err = ca.Issue(c.node.key, cluster.Subject{Kind: cluster.SubjectNode, Name: c.Name}, nil, a.now()); err != nil {
			return JoinAnswer{}, err
		}
	}
	viewer, err := ca.Issue(c.viewer.key, cluster.Subject{Kind: cluster.SubjectUser, Name: c.Name}, nil, a.now())
	answer.Certificate, answer.Viewer = string(node), string(viewer)
	return answer, err
}

// candidate is a checked JoinRequest.
type candidate struct {
	JoinRequest
	hash         string // of the token's secret
	node, viewer wanted // a witness has no key of a node
	server       wanted // of who will be a server
	tunnels      uint16 // UDP port
	vetted       *vetted
}

// vetted is what was found about a candidate with a good token, once for all
// tries.
type vetted struct {
	done   bool
	silent []netip.Addr
}

// vet refuses a candidate that would be of no use as a node.
func (a *admitter) vet(ctx context.Context, c candidate) (err error) {
	if c.vetted.done {
		return nil
	}
	if err := checkVersion(c.Version, a.version); err != nil {
		return err
	}
	c.vetted.silent, err = a.askBack(ctx, c)
	c.vetted.done = err == nil
	return err
}

func (a *admitter) check(r JoinRequest) (candidate, error) {
	c := candidate{JoinRequest: r}
	secret, err := hex.DecodeString(r.Secret)
	if err != nil || cluster.CheckNodeName(r.Name) != nil || cluster.CheckNodeName(r.TokenID) != nil {
		return c, refusef(CodeInvalid, "this is no request to join")
	}
	c.hash = hashSecret(secret)
	n := cluster.Node{ID: r.ID, Datacenter: r.Datacenter, State: cluster.NodeActive}
	if err := n.Validate(); err != nil {
		return c, refusef(CodeInvalid, "%v", err)
	}
	if err := checkUnderlays(r.Underlay); err != nil {
		return c, err
	}
	if c.role() != cluster.TokenWitness {
		c.node, err = requested([]byte(r.Request))
	}
	if err == nil {
		c.viewer, err = requested([]byte(r.Viewer))
	}
	if err == nil && r.Server != nil {
		c.server, err = r.Server.check()
	}
	if err != nil {
		return c, refusef(CodeInvalid, "%v", err)
	}
	return c, nil
}

// admit is one try. A join whose answer was lost comes again with the same keys
// and needs no token, which may be used up: what it gets is of use only to who
// has the keys. Anybody else is told what there is in the cluster only by a token.
func (a *admitter) admit(ctx context.Context, c candidate) (datacenter string, err error) {
	prior, taken, err := a.holder(ctx, c)
	if err != nil {
		return "", err
	}
	viewer, foreign, err := a.viewer(ctx, c)
	if err != nil {
		return "", err
	}
	again := prior.Value != nil && prior.Value.ID == c.ID && prior.Value.Key == c.node.hash
	if again && taken != nil {
		return "", taken
	}
	server, busy, err := a.serverBefore(ctx, c)
	if err != nil {
		return "", err
	}
	if again && foreign == nil && viewer.Value != nil && viewer.Value.Key == c.viewer.hash && c.isServer(server.Value) {
		return prior.Value.Datacenter, nil
	}
	change := store.Change{Why: "join of " + c.Name}
	token, err := a.spend(ctx, &change, c)
	if err != nil {
		return "", err
	}
	if err := cmp.Or(taken, foreign, busy); err != nil {
		return "", err
	}
	if err := a.mistakable(ctx, c); err != nil {
		return "", err
	}
	if err := a.vet(ctx, c); err != nil {
		return "", err
	}
	now := cluster.At(a.now())
	node := prior.Value
	if again {
		change.Require(prior.Key, prior.Mod)
	} else {
		node = &cluster.Node{ID: c.ID, Datacenter: c.Datacenter, State: cluster.NodeActive, Agent: c.role() != cluster.TokenWitness, Key: c.node.hash, Joined: now}
		if prior.Value != nil {
			node.Revoked = prior.Value.Revoked
		}
		store.Put(&change, prior, node)
	}
	if c.Server != nil {
		store.Put(&change, server, c.serverRecord(node.Datacenter, now))
	}
	store.Put(&change, viewer, &cluster.User{Role: cluster.UserViewer, Key: c.viewer.hash, Created: now, By: c.by()})
	joined := cluster.Change{Verb: cluster.VerbJoined, Key: cluster.Short(cluster.KeyNode(c.Name)),
		Detail: fmt.Sprintf("datacenter %s, as a %s, with token %s", node.Datacenter, c.role(), c.TokenID)}
	if token.By != "" {
		joined.Detail += " of " + token.By
	}
	note(&change, now, c.by(), joined)
	_, err = a.store.Commit(ctx, change)
	return node.Datacenter, err
}

// note adds an event to a change that a server makes for somebody.
func note(change *store.Change, now cluster.Time, by string, c cluster.Change) {
	store.Create(change, cluster.KeyEvent(now.Time, rand.Uint64()), &cluster.Event{Time: now, By: by, Changes: []cluster.Change{c}})
}

// mistakable refuses a name whose leases would pass for those of another node:
// with some minutes of work one can be found for any.
func (a *admitter) mistakable(ctx context.Context, c candidate) error {
	nodes, _, err := a.store.Read(ctx, cluster.PrefixNodes)
	if err != nil {
		return err
	}
	me := leaseOwner(cluster.Subject{Kind: cluster.SubjectNode, Name: c.Name})
	for _, kv := range nodes {
		k, err := cluster.ParseKey(kv.Key)
		if err == nil && k.Node != c.Name && leaseOwner(cluster.Subject{Kind: cluster.SubjectNode, Name: k.Node}) == me {
			return refusef(CodeTaken, "the leases of node %s would pass for those of node %s: choose another name", c.Name, k.Node)
		}
	}
	return nil
}

// by is who the node's viewer is a user by.
func (c candidate) by() string {
	return cluster.Subject{Kind: cluster.SubjectNode, Name: c.Name}.String()
}

// viewer returns the record to replace, none or that of the node's viewer, and
// why it cannot be.
func (a *admitter) viewer(ctx context.Context, c candidate) (it store.Item[*cluster.User], taken, err error) {
	key := cluster.KeyUser(c.Name)
	it, err = store.Get[*cluster.User](ctx, a.store, key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return store.Item[*cluster.User]{Key: key}, nil, nil
	case err == nil && it.Value.By != c.by():
		taken = refusef(CodeTaken, "there is a user of the name %s: choose another", c.Name)
	}
	return it, taken, err
}

// spend takes one use of the token. Who does not know the secret is not told
// whether there is such a token.
func (a *admitter) spend(ctx context.Context, change *store.Change, c candidate) (*cluster.Token, error) {
	t, err := store.Get[*cluster.Token](ctx, a.store, cluster.KeyToken(c.TokenID))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, refusef(CodeToken, "the token is unknown: it was used up or revoked, or is another cluster's")
	case err != nil:
		return nil, err
	case subtle.ConstantTimeCompare([]byte(t.Value.Hash), []byte(c.hash)) != 1:
		return nil, refusef(CodeToken, "the token is unknown: it was used up or revoked, or is another cluster's")
	case !a.now().Before(t.Value.Expires.Time):
		return nil, refusef(CodeToken, "the token has expired at %s; the clock of this server says %s", t.Value.Expires.UTC().Format(time.RFC3339), a.now().UTC().Format(time.RFC3339))
	case t.Value.Role != c.role():
		return nil, refusef(CodeRole, "the token is for a %s, not for a %s", t.Value.Role, c.role())
	}
	if t.Value.Uses--; t.Value.Uses == 0 {
		change.Remove(t.Key, t.Mod)
	} else {
		store.Put(change, t, t.Value)
	}
	return t.Value, nil
}

// holder returns the record to replace: none, this node's own, or one of a node
// that has left for good. Any other means that the name is taken.
func (a *admitter) holder(ctx context.Context, c candidate) (it store.Item[*cluster.Node], taken, err error) {
	key := cluster.KeyNode(c.Name)
	it, err = store.Get[*cluster.Node](ctx, a.store, key)
	if errors.Is(err, store.ErrNotFound) {
		return store.Item[*cluster.Node]{Key: key}, nil, nil
	}
	if err != nil {
		return it, nil, err
	}
	n := it.Value
	switch {
	case n.State == cluster.NodeLeft && n.ID == c.ID:
		return it, refusef(CodeRemoved, "this host was removed from the cluster as node %s", c.Name), nil
	case n.ID == c.ID && n.Key == c.node.hash:
		return it, nil, nil
	case n.ID == c.ID: // ids are no secret: who has a token may not become another node
		return it, refusef(CodeTaken, "node %s is in the cluster with another key than this host has", c.Name), nil
	case n.State == cluster.NodeLeft && a.external != nil: // its certificate is good for the name
		return it, refusef(CodeTaken, "node name %s was a removed node's, and on an external etcd is not given twice: choose another", c.Name), nil
	case n.State != cluster.NodeLeft:
		return it, refusef(CodeTaken, "node name %s is taken by a host in datacenter %s (id %s, joined %s)",
			c.Name, n.Datacenter, n.ID, n.Joined.UTC().Format(time.RFC3339)), nil
	}
	left, _, err := a.store.Read(ctx, cluster.PrefixHost(c.Name))
	if err == nil && len(left) > 0 {
		taken = refusef(CodeLeaving, "the removed node of the name %s is still leaving its VPCs", c.Name)
	}
	return it, taken, err
}

// asRefusal words any error for the other end, which learns nothing of our
// inside.
func asRefusal(err error) *Refusal {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	if errors.Is(err, mvcc.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		return &Refusal{CodeUnavailable, "the store does not answer"}
	}
	return &Refusal{CodeUnavailable, "the server cannot do that now, its log says why"}
}
