package membership_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// members are those of a store, for the one test that changes them.
type members []*pb.Member

func (m *members) MemberList(context.Context, ...clientv3.OpOption) (*clientv3.MemberListResponse, error) {
	return &clientv3.MemberListResponse{Members: slices.Clone(*m)}, nil
}

func (m *members) MemberAddAsLearner(_ context.Context, peers []string) (*clientv3.MemberAddResponse, error) {
	*m = append(*m, &pb.Member{ID: uint64(len(*m) + 1), PeerURLs: peers, IsLearner: true})
	return &clientv3.MemberAddResponse{Members: slices.Clone(*m)}, nil
}

func (m *members) MemberPromote(context.Context, uint64) (*clientv3.MemberPromoteResponse, error) {
	return nil, errors.New("nobody promotes here")
}

func (m *members) MemberRemove(context.Context, uint64) (*clientv3.MemberRemoveResponse, error) {
	return nil, errors.New("nobody removes here")
}

// asServer adds the part of a server to a request.
func asServer(t *testing.T, r membership.JoinRequest, key membership.Key, host string) membership.JoinRequest {
	t.Helper()
	b, err := key.Request()
	if err != nil {
		t.Fatal(err)
	}
	r.Server = &membership.ServerRequest{Request: string(b), Address: host + ":2379", Peer: host + ":2380", Addresses: []netip.Addr{netip.MustParseAddr(host)}}
	return r
}

func TestJoinServers(t *testing.T) {
	h := newHouse(t)
	for name, tt := range map[string]struct {
		role cluster.TokenRole
		host string
	}{"s2": {cluster.TokenServer, "192.0.2.2"}, "s3": {cluster.TokenWitness, "192.0.2.3"}} {
		tok := h.tokenOf(tt.role, 1, soon())
		key, err := membership.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		r := asServer(t, newMachine(t).request(t, name, "id-"+name), key, tt.host)
		witness := tt.role == cluster.TokenWitness
		if witness {
			r.Request = ""
		}
		for range 2 { // the first answer was lost
			answer, ca, err := membership.Join(t.Context(), h.address, tok, r)
			if err != nil {
				t.Fatal(err)
			}
			own := membership.Credential{CA: ca, Cert: []byte(answer.Server), Key: key.PEM}
			if s, err := own.Subject(); err != nil || s.String() != "server:"+name || (answer.Certificate == "") != witness {
				t.Errorf("%s: certificate of %v, %v; of the node: %q", name, s, err, answer.Certificate)
			}
			if old, err := own.Old([]netip.Addr{netip.MustParseAddr(tt.host)}, soon()); err != nil || old {
				t.Errorf("%s: its certificate lacks something: %v", name, err)
			}
			server, err := store.Get[*cluster.Server](t.Context(), h.records, cluster.KeyServer(name))
			if err != nil {
				t.Fatal(err)
			}
			node, err := store.Get[*cluster.Node](t.Context(), h.records, cluster.KeyNode(name))
			if err != nil {
				t.Fatal(err)
			}
			if v := server.Value; v.Voter || v.Witness != witness || v.Key != keyOf(t, own) || v.Peer != tt.host+":2380" || v.Datacenter != "dc2" || node.Value.Agent == witness {
				t.Errorf("%s: records %+v %+v", name, v, node.Value)
			}
			if ids, err := membership.StillServes(t.Context(), h.address, own); err != nil || len(ids) != len(h.members) {
				t.Errorf("%s: members %v, %v", name, ids, err)
			}
			given, err := membership.Authority(t.Context(), h.address, own)
			if refused := refusedBy(err) == membership.CodeForbidden; refused != witness {
				t.Errorf("%s: the CA's key: %v", name, err)
			}
			if _, err := membership.ReadCA(ca, given); (err == nil) == witness {
				t.Errorf("%s: the CA's key is %d bytes: %v", name, len(given), err)
			}
			serve, err := membership.Serve(t.Context(), h.address, own)
			if err != nil || !cmp.Equal(serve.Members[name], []string{"https://" + tt.host + ":2380"}) || serve.Members["s1"] == nil || !cmp.Equal(serve.Endpoints, []string{"192.0.2.1:2379"}) {
				t.Errorf("%s: serve %+v, %v", name, serve, err)
			}
		}
	}
	if len(h.members) != 3 {
		t.Errorf("%d members, want 3", len(h.members))
	}
}

func refusedBy(err error) membership.Code {
	if r, ok := errors.AsType[*membership.Refusal](err); ok {
		return r.Code
	}
	return ""
}

// TestServersAreRefused: what a token is not for, and what a server may not that
// was taken out.
func TestServersAreRefused(t *testing.T) {
	h := newHouse(t)
	node, server, witness := h.token(9, soon()), h.tokenOf(cluster.TokenServer, 9, soon()), h.tokenOf(cluster.TokenWitness, 9, soon())
	key, err := membership.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t)
	plain := m.request(t, "s2", "id-2")
	asked := asServer(t, plain, key, "192.0.2.2")
	bare := asked
	bare.Request = ""
	wrong := asServer(t, plain, key, "192.0.2.2")
	wrong.Server.Peer = "nowhere"
	taken := asked
	taken.Name = "s1" // a member of that name is in the store, and no record says whose
	var c store.Change
	c.Remove(cluster.KeyServer("s1"), 0)
	h.commit(c)
	for name, tt := range map[string]struct {
		token membership.Token
		r     membership.JoinRequest
		want  membership.Code
	}{
		"a server with a node's token":    {node, asked, membership.CodeRole},
		"a witness with a node's token":   {node, bare, membership.CodeRole},
		"a node with a server's token":    {server, plain, membership.CodeRole},
		"a witness with a server's token": {server, bare, membership.CodeRole},
		"a server with a witness's token": {witness, asked, membership.CodeRole},
		"no peer address":                 {server, wrong, membership.CodeInvalid},
		"the name of a member":            {server, taken, membership.CodeLeaving},
		"that of a member, no token":      {membership.NewToken(cluster.TokenServer, h.ca.Pin()), taken, membership.CodeToken},
	} {
		if _, _, err := membership.Join(t.Context(), h.address, tt.token, tt.r); refusedBy(err) != tt.want {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
	if _, _, err := membership.Join(t.Context(), h.address, server, asked); err != nil {
		t.Fatal(err)
	}
	own := credential(t, h.ca, "server:s2") // of another key
	for name, c := range map[string]membership.Credential{"another key": own, "an admin": h.admin, "a server without a record": credential(t, h.ca, "server:s9")} {
		_, serve := membership.Serve(t.Context(), h.address, c)
		given, authority := membership.Authority(t.Context(), h.address, c)
		_, renew := membership.RenewServer(t.Context(), h.address, c, nil)
		if refusedBy(serve) == "" || refusedBy(authority) == "" || len(given) > 0 || (refusedBy(renew) == "" && name != "an admin") {
			t.Errorf("%s: serve %v, authority %v, renew %v", name, serve, authority, renew)
		}
	}
}
