package membership_test

import (
	"crypto/tls"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// both is a CA that takes the place of another, as servers read it, and the bundle.
func both(t *testing.T, first, second *membership.CA) (*membership.CA, []byte) {
	t.Helper()
	var keys []byte
	for _, ca := range []*membership.CA{second, first} { // in whatever order
		k, err := ca.KeyPEM()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k...)
	}
	bundle := slices.Concat(first.CertPEM(), second.CertPEM())
	ca, err := membership.ReadCA(bundle, keys)
	if err != nil {
		t.Fatal(err)
	}
	return ca, bundle
}

// TestOverlap: who trusts which servers while one CA takes the place of another.
func TestOverlap(t *testing.T) {
	former, fresh, foreign := newCA(t), newCA(t), newCA(t)
	signing, bundle := both(t, fresh, former)
	during := credential(t, signing, "server:s1")
	during.CA = bundle
	before, after := credential(t, former, "server:s1"), credential(t, fresh, "server:s1")
	old := credential(t, former, "node:n1")
	adopted := old
	adopted.CA = bundle
	done := credential(t, fresh, "node:n1")
	for name, tt := range map[string]struct {
		client *tls.Config
		server membership.Credential
		ok     bool
	}{
		"who has heard of nothing, the new server": {membership.Dialer(old.Load), during, true},
		"who trusts both, the new server":          {membership.Dialer(adopted.Load), during, true},
		"who trusts both, the old server":          {membership.Dialer(adopted.Load), before, true},
		"who is over, the new server":              {membership.Dialer(done.Load), during, true},
		"who is over, an old server":               {membership.Dialer(done.Load), before, false},
		"who was left behind, a server after it":   {membership.Dialer(old.Load), after, false},
		"another cluster's, the new server":        {membership.Dialer(credential(t, foreign, "node:n1").Load), during, false},
		"a new token":                              {membership.PinnedDialer(fresh.Pin()), during, true},
		"an old token, an old server":              {membership.PinnedDialer(former.Pin()), before, true},
		"an old token":                             {membership.PinnedDialer(former.Pin()), during, false},
		"an old token, after it":                   {membership.PinnedDialer(former.Pin()), after, false},
	} {
		err := handshake(t, tt.client, membership.Listener(tt.server.Load))
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, membership.ErrUntrusted) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, tt := range map[string]struct {
		c   membership.Credential
		old bool
	}{
		"before":                             {old, false},
		"a new CA signs":                     {adopted, true},
		"of the new CA":                      {membership.Credential{CA: bundle, Cert: done.Cert}, false},
		"a server, during":                   {during, false},
		"a server that shows the former yet": {membership.Credential{CA: fresh.CertPEM(), Cert: during.Cert}, true},
		"a server, after":                    {after, false},
	} {
		if got, err := tt.c.Old(nil, time.Now()); err != nil || got != tt.old {
			t.Errorf("%s: old %v, %v", name, got, err)
		}
	}
}

// TestMergeKeys: a server keeps the keys of the CAs that there are, and no other.
func TestMergeKeys(t *testing.T) {
	a, b := newCA(t), newCA(t)
	keyA, err := a.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	keyB, err := b.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	bundle := slices.Concat(b.CertPEM(), a.CertPEM())
	got, err := membership.MergeKeys(bundle, keyA, slices.Concat(keyB, keyA))
	if err != nil || string(got) != string(keyB)+string(keyA) {
		t.Errorf("both: %v", err)
	}
	if got, err = membership.MergeKeys(b.CertPEM(), got, nil); err != nil || string(got) != string(keyB) {
		t.Errorf("the second: %v", err)
	}
	if _, err := membership.MergeKeys(bundle, keyA, nil); err == nil {
		t.Error("a key is missing, and that is fine")
	}
}

// TestStillOld: who is waited for in which phase, and whose turn it is.
func TestStillOld(t *testing.T) {
	former, fresh := newCA(t), newCA(t)
	o, n := former.Pin().String(), fresh.Pin().String()
	two := []string{string(former.CertPEM()), string(fresh.CertPEM())}
	nodes := map[string]*cluster.Node{"a": {Agent: true, State: cluster.NodeActive}, "b": {Agent: true, State: cluster.NodeDraining},
		"gone": {Agent: true, State: cluster.NodeLeft}, "w": {State: cluster.NodeActive}}
	servers := map[string]*cluster.Server{"a": {}, "w": {Witness: true}}
	is := func(signer string, cas ...string) *cluster.Trusting {
		return &cluster.Trusting{CAs: cas, Signer: signer}
	}
	const heard, whom, signer = "it was not heard from", "it trusts 1 CAs, not these 2 yet", "its certificate is of the old CA"
	for name, tt := range map[string]struct {
		phase    cluster.TrustPhase
		cas      []string
		behind   []string
		trusting map[string]*cluster.Trusting
		want     map[string]string
	}{
		"nobody yet":           {cluster.TrustAdd, two, nil, nil, map[string]string{"node a": heard, "node b": heard, "server a": heard, "server w": heard}},
		"b and w left behind":  {cluster.TrustAdd, two, []string{"b", "w"}, nil, map[string]string{"node a": heard, "server a": heard}},
		"a trusts the old one": {cluster.TrustAdd, two, []string{"b", "w"}, map[string]*cluster.Trusting{"node/a": is(o, o), "server/a": is(o, n, o)}, map[string]string{"node a": whom}},
		"all trust both":       {cluster.TrustAdd, two, []string{"b", "w"}, map[string]*cluster.Trusting{"node/a": is(o, o, n), "server/a": is(o, n, o)}, map[string]string{}},
		"one has no new certificate": {cluster.TrustSign, []string{two[1], two[0]}, []string{"b", "w"},
			map[string]*cluster.Trusting{"node/a": is(o, o, n), "server/a": is(n, n, o)}, map[string]string{"node a": signer}},
		"one forgets nothing": {cluster.TrustDrop, two[1:], []string{"b", "w"},
			map[string]*cluster.Trusting{"node/a": is(n, n), "server/a": is(n, n, o)}, map[string]string{"server a": "it trusts 2 CAs, not these 1 yet"}},
		"over": {cluster.TrustDrop, two[1:], nil, map[string]*cluster.Trusting{"node/a": is(n, n), "node/b": is(n, n), "server/a": is(n, n), "server/w": is(n, n)}, map[string]string{}},
	} {
		byKey := map[string]*cluster.Trusting{}
		for key, r := range tt.trusting {
			byKey[cluster.PrefixTrust+key] = r
		}
		trust := &cluster.Trust{Phase: tt.phase, CAs: tt.cas, LeftBehind: tt.behind}
		got, err := membership.StillOld(trust, nodes, servers, byKey)
		if d := cmp.Diff(tt.want, got); d != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, d)
		}
	}
	t.Run("turns", func(t *testing.T) {
		names := []string{"c", "a", "b"}
		turns := func(behind []string, trusting map[string]*cluster.Trusting) (list []string) {
			for _, name := range names {
				turn, err := membership.Turn(&cluster.Trust{Phase: cluster.TrustAdd, CAs: two, LeftBehind: behind}, name, names, trusting)
				if err != nil {
					t.Fatal(err)
				}
				if turn {
					list = append(list, name)
				}
			}
			return list
		}
		if got := turns(nil, nil); !slices.Equal(got, []string{"a"}) {
			t.Errorf("at first %v", got)
		}
		if got := turns([]string{"a"}, nil); !slices.Contains(got, "b") || slices.Contains(got, "c") {
			t.Errorf("without a %v", got)
		}
		if got := turns(nil, map[string]*cluster.Trusting{cluster.KeyServerTrust("a"): is(o, o, n)}); !slices.Contains(got, "b") || slices.Contains(got, "c") {
			t.Errorf("after a %v", got)
		}
	})
}

// TestTrusts: a node says whom it trusts, and by which CA it is certified the server
// sees. Who is no node of the cluster, or a former one, says nothing.
func TestTrusts(t *testing.T) {
	former, fresh := newCA(t), newCA(t)
	h := newHouse(t, func(cfg *membership.ServiceConfig) {
		ca, bundle := both(t, fresh, former)
		server := credential(t, ca, "server:s1")
		server.CA = bundle
		cfg.CA, cfg.Credential = func() (*membership.CA, error) { return ca, nil }, server.Load
	})
	old := credential(t, former, "node:n1")
	key, err := old.KeyHash()
	if err != nil {
		t.Fatal(err)
	}
	var c store.Change
	store.Create(&c, cluster.KeyNode("n1"), &cluster.Node{ID: "n1", Datacenter: "dc2", State: cluster.NodeActive, Agent: true, Key: key, Joined: cluster.At(time.Now())})
	h.commit(c)
	says := func(c membership.Credential) error { return membership.Trusts(t.Context(), h.address, c) }
	want := func(signer *membership.CA, cas ...*membership.CA) {
		t.Helper()
		it, err := store.Get[*cluster.Trusting](t.Context(), h.records, cluster.KeyNodeTrust("n1"))
		if err != nil {
			t.Fatal(err)
		}
		var pins []string
		for _, ca := range cas {
			pins = append(pins, ca.Pin().String())
		}
		if it.Value.Signer != signer.Pin().String() || !slices.Equal(it.Value.CAs, pins) {
			t.Errorf("the record says %+v", it.Value)
		}
	}
	if err := says(old); err != nil {
		t.Fatal(err)
	}
	want(former, former)
	old.CA = slices.Concat(fresh.CertPEM(), former.CertPEM())
	renewed, err := membership.Renew(t.Context(), h.address, old)
	if err != nil {
		t.Fatal(err)
	}
	if err := says(renewed); err != nil {
		t.Fatal(err)
	}
	want(fresh, fresh, former)
	for name, c := range map[string]membership.Credential{"another key": credential(t, fresh, "node:n1"), "another node": credential(t, fresh, "node:n2"),
		"a user": credential(t, fresh, "user:admin")} {
		if err := says(c); err == nil {
			t.Errorf("%s says whom n1 trusts", name)
		}
	}
	want(fresh, fresh, former)
}

// TestFormerCA: the join service of a cluster that has another CA now takes no
// certificate of the former one, though the record names its key.
func TestFormerCA(t *testing.T) {
	former, fresh := newCA(t), newCA(t)
	h := newHouse(t, func(cfg *membership.ServiceConfig) {
		cfg.CA, cfg.Credential = func() (*membership.CA, error) { return fresh, nil }, credential(t, fresh, "server:s1").Load
	})
	admin := credential(t, former, "user:admin")
	key, err := admin.KeyHash()
	if err != nil {
		t.Fatal(err)
	}
	var c store.Change
	store.Set(&c, cluster.KeyUser("admin"), &cluster.User{Role: cluster.UserAdmin, Key: key, Created: cluster.At(time.Now())}, nil, 0)
	h.commit(c)
	renew := func() error {
		_, err := membership.Renew(t.Context(), h.address, membership.Credential{CA: fresh.CertPEM(), Cert: admin.Cert, Key: admin.Key})
		return err
	}
	if r, refused := errors.AsType[*membership.Refusal](renew()); !refused || r.Code != membership.CodeForbidden {
		t.Errorf("a certificate of the former CA: %v", renew())
	}
	if admin.Cert, err = fresh.Reissue(admin, nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := renew(); err != nil {
		t.Errorf("one of the CA of now: %v", err)
	}
}
