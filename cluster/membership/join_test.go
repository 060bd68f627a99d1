package membership_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/enginetest"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// house is a cluster with a join service over a store in memory.
type house struct {
	t       *testing.T
	ca      *membership.CA
	records *store.Store
	address string
	admin   membership.Credential
}

func newHouse(t *testing.T) *house { t.Helper(); return newHouseWith(t, nil) }

func newHouseWith(t *testing.T, external *membership.External) *house {
	t.Helper()
	h := &house{t: t, ca: newCA(t), records: store.New(mvcc.NewMemory(mvcc.Config{}), cluster.Identity{Role: cluster.Operator})}
	h.admin = credential(t, h.ca, "user:admin")
	key, err := h.admin.KeyHash()
	if err != nil {
		t.Fatal(err)
	}
	var c store.Change
	store.Create(&c, cluster.KeyConfig, &cluster.Config{Cluster: "test", ID: "c1", Era: 1, UnderlayPort: 4789, VNIs: cluster.DefaultVNIRange, Encryption: "none"})
	store.Create(&c, cluster.KeyServer("s1"), &cluster.Server{Datacenter: "dc1", Address: "192.0.2.1:2379", Voter: true, Joined: cluster.At(time.Now())})
	store.Create(&c, cluster.KeyUser("admin"), &cluster.User{Role: cluster.UserAdmin, Key: key, Created: cluster.At(time.Now())})
	h.commit(c)
	server := credential(t, h.ca, "server:s1")
	port := enginetest.FreePorts(t, 1)
	s, err := membership.NewService(membership.ServiceConfig{Listen: port, Store: h.records, Credential: server.Load, External: external,
		CA: func() (*membership.CA, error) { return h.ca, nil }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	h.address = port[0].String()
	for { // until it listens
		c, err := net.Dial("tcp", h.address)
		if err == nil {
			c.Close()
			return h
		}
		select {
		case err := <-ended:
			ended <- nil
			t.Fatal(err)
		default:
		}
	}
}

func (h *house) commit(c store.Change) {
	h.t.Helper()
	if _, err := h.records.Commit(h.t.Context(), c); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) token(uses int, expires time.Time) membership.Token {
	h.t.Helper()
	tok := membership.NewToken(cluster.TokenNode, h.ca.Pin())
	var c store.Change
	store.Create(&c, cluster.KeyToken(tok.RecordID()), tok.Record(uses, expires.Add(-time.Hour), time.Hour, ""))
	h.commit(c)
	return tok
}

// machine is a host that wants to join.
type machine struct{ node, viewer membership.Key }

func newMachine(t *testing.T) machine {
	t.Helper()
	var m machine
	for _, k := range []*membership.Key{&m.node, &m.viewer} {
		var err error
		if *k, err = membership.NewKey(); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m machine) request(t *testing.T, name, id string) membership.JoinRequest {
	t.Helper()
	r := membership.JoinRequest{Name: name, ID: id, Datacenter: "dc2"}
	for _, x := range []struct {
		key  membership.Key
		text *string
	}{{m.node, &r.Request}, {m.viewer, &r.Viewer}} {
		b, err := x.key.Request()
		if err != nil {
			t.Fatal(err)
		}
		*x.text = string(b)
	}
	return r
}

func soon() time.Time { return time.Now().Add(time.Hour) }

func TestJoin(t *testing.T) {
	h := newHouse(t)
	tok := h.token(1, soon())
	m := newMachine(t)
	answer, ca, err := membership.Join(t.Context(), h.address, tok, m.request(t, "n1", "id-1"))
	if err != nil {
		t.Fatal(err)
	}
	if answer.Cluster != "test" || answer.Datacenter != "dc2" || len(answer.Endpoints) != 1 || answer.Endpoints[0] != "192.0.2.1:2379" {
		t.Errorf("answer %+v", answer)
	}
	if !bytes.Equal(ca, h.ca.CertPEM()) {
		t.Error("the CA is another one")
	}
	node, err := store.Get[*cluster.Node](t.Context(), h.records, cluster.KeyNode("n1"))
	if err != nil {
		t.Fatal(err)
	}
	viewer, err := store.Get[*cluster.User](t.Context(), h.records, cluster.KeyUser("n1"))
	if err != nil {
		t.Fatal(err)
	}
	for what, x := range map[string]struct{ subject, cert, key, recorded string }{
		"node":   {"node:n1", answer.Certificate, string(m.node.PEM), node.Value.Key},
		"viewer": {"user:n1", answer.Viewer, string(m.viewer.PEM), viewer.Value.Key},
	} {
		c := membership.Credential{CA: ca, Cert: []byte(x.cert), Key: []byte(x.key)}
		hash, err := c.KeyHash()
		if s, sErr := c.Subject(); err != nil || sErr != nil || s.String() != x.subject || hash != x.recorded {
			t.Errorf("%s: %v %v, %v %v; the record has key %s", what, s, sErr, hash, err, x.recorded)
		}
	}
	if node.Value.ID != "id-1" || viewer.Value.Role != cluster.UserViewer {
		t.Errorf("records %+v %+v", node.Value, viewer.Value)
	}
	if _, err := store.Get[*cluster.Token](t.Context(), h.records, cluster.KeyToken(tok.RecordID())); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the token's record: %v", err)
	}
	// The answer was lost: the same host asks again, with the used token.
	again, _, err := membership.Join(t.Context(), h.address, tok, m.request(t, "n1", "id-1"))
	if err != nil || again.Certificate == "" {
		t.Errorf("again: %v", err)
	}
}

func TestJoinRefuses(t *testing.T) {
	h := newHouse(t)
	var left store.Change
	store.Create(&left, cluster.KeyNode("gone"), &cluster.Node{ID: "id-gone", Datacenter: "dc1", State: cluster.NodeLeft})
	store.Create(&left, cluster.KeyNode("here"), &cluster.Node{ID: "id-here", Datacenter: "dc1", State: cluster.NodeActive})
	h.commit(left)
	good := h.token(1000, soon())
	expired, forged, foreign := h.token(1, time.Now().Add(-time.Second)), good, membership.NewToken(cluster.TokenNode, newCA(t).Pin())
	forged.Secret[0]++
	unknown := membership.NewToken(cluster.TokenNode, h.ca.Pin())
	m := newMachine(t)
	for name, tt := range map[string]struct {
		token  membership.Token
		change func(*membership.JoinRequest)
		code   membership.Code // "" is ErrUntrusted
		reason string
	}{
		"expired":        {expired, nil, membership.CodeToken, "expired"},
		"forged secret":  {forged, nil, membership.CodeToken, "unknown"},
		"unknown":        {unknown, nil, membership.CodeToken, "unknown"},
		"other cluster":  {foreign, nil, "", ""},
		"name taken":     {good, func(r *membership.JoinRequest) { r.Name = "here" }, membership.CodeTaken, "taken"},
		"another's id":   {good, func(r *membership.JoinRequest) { r.Name, r.ID = "here", "id-here" }, membership.CodeTaken, "another key"},
		"a user's name":  {good, func(r *membership.JoinRequest) { r.Name = "admin" }, membership.CodeTaken, "user"},
		"removed":        {good, func(r *membership.JoinRequest) { r.Name, r.ID = "gone", "id-gone" }, membership.CodeRemoved, "removed"},
		"bad name":       {good, func(r *membership.JoinRequest) { r.Name = "A b" }, membership.CodeInvalid, ""},
		"bad datacenter": {good, func(r *membership.JoinRequest) { r.Datacenter = "-" }, membership.CodeInvalid, "datacenter"},
		"bad id":         {good, func(r *membership.JoinRequest) { r.ID = "" }, membership.CodeInvalid, "id"},
		"no request":     {good, func(r *membership.JoinRequest) { r.Request = "" }, membership.CodeInvalid, "request"},
		"broken request": {good, func(r *membership.JoinRequest) { r.Viewer = strings.Replace(r.Viewer, "A", "B", 1) }, membership.CodeInvalid, "request"},
	} {
		t.Run(name, func(t *testing.T) {
			r := m.request(t, "n1", "id-1")
			if tt.change != nil {
				tt.change(&r)
			}
			_, _, err := membership.Join(t.Context(), h.address, tt.token, r)
			refusal, refused := errors.AsType[*membership.Refusal](err)
			switch {
			case tt.code == "" && !errors.Is(err, membership.ErrUntrusted):
				t.Errorf("%v, want an untrusted server", err)
			case tt.code != "" && (!refused || refusal.Code != tt.code || !strings.Contains(refusal.Reason, tt.reason)):
				t.Errorf("%v, want %s: %s", err, tt.code, tt.reason)
			}
		})
	}
	for _, key := range []string{cluster.KeyNode("n1"), cluster.KeyUser("n1")} {
		if keys, _, err := h.records.Read(t.Context(), key); err != nil || len(keys) > 0 {
			t.Errorf("%s is there: %v", key, err)
		}
	}
	if it, err := store.Get[*cluster.Token](t.Context(), h.records, cluster.KeyToken(good.RecordID())); err != nil || it.Value.Uses != 1000 {
		t.Errorf("a refused join took a use: %+v, %v", it.Value, err)
	}
}

// TestJoinTellsStrangersNothing: without a token nobody learns which names,
// nodes and users there are.
func TestJoinTellsStrangersNothing(t *testing.T) {
	h := newHouse(t)
	var c store.Change
	store.Create(&c, cluster.KeyNode("here"), &cluster.Node{ID: "id-here", Datacenter: "dc1", State: cluster.NodeActive})
	store.Create(&c, cluster.KeyNode("gone"), &cluster.Node{ID: "id-gone", Datacenter: "dc1", State: cluster.NodeLeft})
	h.commit(c)
	m := newMachine(t)
	unknown := membership.NewToken(cluster.TokenNode, h.ca.Pin())
	_, _, want := membership.Join(t.Context(), h.address, unknown, m.request(t, "free", "id-1"))
	for _, r := range []membership.JoinRequest{
		m.request(t, "here", "id-1"), m.request(t, "here", "id-here"), m.request(t, "gone", "id-1"), m.request(t, "gone", "id-gone"), m.request(t, "admin", "id-1"),
	} {
		if _, _, err := membership.Join(t.Context(), h.address, unknown, r); err == nil || err.Error() != want.Error() {
			t.Errorf("%s with %s: %v, want %v", r.Name, r.ID, err, want)
		}
	}
}

// TestJoinAgainIsNoWayIn: a node's record alone, which operators may write, lets
// nobody in without a token; with one the record stays as it is.
func TestJoinAgainIsNoWayIn(t *testing.T) {
	h := newHouse(t)
	m := newMachine(t)
	own := credential(t, h.ca, "node:n1")
	var err error
	if m.node, err = membership.ReadKey(own.Key); err != nil {
		t.Fatal(err)
	}
	var c store.Change
	written := &cluster.Node{ID: "id-1", Datacenter: "dc1", State: cluster.NodeDraining, Labels: map[string]string{"rack": "a1"}, Key: keyOf(t, own)}
	store.Create(&c, cluster.KeyNode("n1"), written)
	h.commit(c)
	r := m.request(t, "n1", "id-1")
	_, _, err = membership.Join(t.Context(), h.address, membership.NewToken(cluster.TokenNode, h.ca.Pin()), r)
	if refusal, refused := errors.AsType[*membership.Refusal](err); !refused || refusal.Code != membership.CodeToken {
		t.Errorf("without a token: %v, want a refusal", err)
	}
	tok := h.token(1, soon())
	if _, _, err := membership.Join(t.Context(), h.address, tok, r); err != nil {
		t.Errorf("with a token: %v", err)
	}
	if it, err := store.Get[*cluster.Node](t.Context(), h.records, cluster.KeyNode("n1")); err != nil || !cmp.Equal(it.Value, written) {
		t.Errorf("the record is %+v, %v", it.Value, err)
	}
	if _, _, err := membership.Join(t.Context(), h.address, tok, r); err != nil {
		t.Errorf("again, with the used token: %v", err)
	}
}

// TestMistakableName: the number that a lease's ID begins with is of a node's name,
// and no joiner chooses one that has another node's.
func TestMistakableName(t *testing.T) {
	names := map[uint32]string{}
	name, twin := "", ""
	for i := 0; twin == ""; i++ {
		name = fmt.Sprint("n", i)
		sum := sha256.Sum256([]byte("node:" + name))
		number := binary.BigEndian.Uint32(sum[:]) >> 1
		twin, names[number] = names[number], name
	}
	h := newHouse(t)
	tok := h.token(2, soon())
	if _, _, err := membership.Join(t.Context(), h.address, tok, newMachine(t).request(t, twin, "id-1")); err != nil {
		t.Fatal(err)
	}
	_, _, err := membership.Join(t.Context(), h.address, tok, newMachine(t).request(t, name, "id-2"))
	if r, refused := errors.AsType[*membership.Refusal](err); !refused || r.Code != membership.CodeTaken {
		t.Errorf("%s beside %s: %v, want it refused", name, twin, err)
	}
}

// TestManyJoinWithOneToken: 20 hosts, 20 uses, and one host too many.
func TestManyJoinWithOneToken(t *testing.T) {
	h := newHouse(t)
	const n = 20
	tok := h.token(n, soon())
	errs := make([]error, n+1)
	var wg sync.WaitGroup
	for i := range errs {
		m := newMachine(t)
		r := m.request(t, fmt.Sprint("n", i), fmt.Sprint("id-", i))
		wg.Go(func() { _, _, errs[i] = membership.Join(t.Context(), h.address, tok, r) })
	}
	wg.Wait()
	refused := 0
	for _, err := range errs {
		if r, ok := errors.AsType[*membership.Refusal](err); ok && r.Code == membership.CodeToken {
			refused++
		} else if err != nil {
			t.Error(err)
		}
	}
	nodes, _, err := store.List[*cluster.Node](t.Context(), h.records, cluster.PrefixNodes)
	if err != nil || len(nodes) != n || refused != 1 {
		t.Errorf("%d nodes, %d refused, %v", len(nodes), refused, err)
	}
}

func TestIssue(t *testing.T) {
	h := newHouse(t)
	alice, err := membership.NewUser(t.Context(), h.address, h.admin, "alice", cluster.UserViewer)
	if err != nil {
		t.Fatal(err)
	}
	it, err := store.Get[*cluster.User](t.Context(), h.records, cluster.KeyUser("alice"))
	hash, hErr := alice.KeyHash()
	if err != nil || hErr != nil || it.Value.Key != hash || it.Value.Role != cluster.UserViewer || it.Value.By != "user:admin" {
		t.Errorf("%+v, %v", it.Value, err)
	}
	younger, err := membership.Renew(t.Context(), h.address, alice)
	if again, hErr := younger.KeyHash(); err != nil || hErr != nil || again != hash || bytes.Equal(younger.Cert, alice.Cert) {
		t.Errorf("renewed: %v %v", err, hErr)
	}
	forged := credential(t, h.ca, "user:admin") // of the CA, but of another key than the record's
	stranger := credential(t, newCA(t), "user:admin")
	stranger.CA = h.ca.CertPEM()
	for name, try := range map[string]func() error{
		"viewer makes a user": func() error {
			_, err := membership.NewUser(t.Context(), h.address, alice, "bob", cluster.UserAdmin)
			return err
		},
		"other key": func() error {
			_, err := membership.NewUser(t.Context(), h.address, forged, "bob", cluster.UserAdmin)
			return err
		},
		"other key renews": func() error { _, err := membership.Renew(t.Context(), h.address, forged); return err },
		"stranger":         func() error { _, err := membership.Renew(t.Context(), h.address, stranger); return err },
		"a server": func() error {
			_, err := membership.Renew(t.Context(), h.address, credential(t, h.ca, "server:s1"))
			return err
		},
		"a node without record": func() error {
			_, err := membership.Renew(t.Context(), h.address, credential(t, h.ca, "node:n1"))
			return err
		},
		"user exists": func() error {
			_, err := membership.NewUser(t.Context(), h.address, h.admin, "alice", cluster.UserAdmin)
			return err
		},
		"role": func() error { _, err := membership.NewUser(t.Context(), h.address, h.admin, "bob", "root"); return err },
		"name": func() error {
			_, err := membership.NewUser(t.Context(), h.address, h.admin, "B", cluster.UserAdmin)
			return err
		},
	} {
		if _, refused := errors.AsType[*membership.Refusal](try()); !refused {
			t.Errorf("%s: %v, want a refusal", name, try())
		}
	}
	if users, _, err := store.List[*cluster.User](t.Context(), h.records, cluster.PrefixUsers); err != nil || len(users) != 2 {
		t.Errorf("%d users, %v", len(users), err)
	}
}

// TestNoSecretInRecords: who reads all of the store cannot join, nor be anybody.
func TestNoSecretInRecords(t *testing.T) {
	h := newHouse(t)
	tok := h.token(2, soon())
	if _, _, err := membership.Join(t.Context(), h.address, tok, newMachine(t).request(t, "n1", "id-1")); err != nil {
		t.Fatal(err)
	}
	alice, err := membership.NewUser(t.Context(), h.address, h.admin, "alice", cluster.UserViewer)
	if err != nil {
		t.Fatal(err)
	}
	records, _, err := h.records.Read(t.Context(), cluster.Root)
	if err != nil || len(records) < 6 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	for _, r := range records {
		for what, secret := range map[string]string{"the token": tok.String(), "its secret": hex.EncodeToString(tok.Secret[:]), "a key": "PRIVATE KEY", "alice's key": string(alice.Key)} {
			if strings.Contains(string(r.Value), secret) {
				t.Errorf("%s has %s", r.Key, what)
			}
		}
	}
}

// TestGarbage: what is no request costs little, and the service goes on.
func TestGarbage(t *testing.T) {
	h := newHouse(t)
	post := func(body io.Reader) int {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: membership.PinnedDialer(h.ca.Pin()), DisableKeepAlives: true}}
		resp, err := c.Post("https://"+h.address+"/v1/join", "application/json", body)
		if err != nil {
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for name, body := range map[string]io.Reader{
		"garbage": strings.NewReader("{"), "a list": strings.NewReader("[]"), "endless": strings.NewReader(`{"name":"` + strings.Repeat("a", 1<<20)),
	} {
		if status := post(body); status == http.StatusOK {
			t.Errorf("%s was answered %d", name, status)
		}
	}
	for range 30 {
		if c, err := net.Dial("tcp", h.address); err == nil {
			_, _ = c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
			c.Close()
		}
	}
	if _, _, err := membership.Join(t.Context(), h.address, h.token(1, soon()), newMachine(t).request(t, "n1", "id-1")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestOneRequestAConnection: what a source may ask is counted in connections, so
// that one is for one request.
func TestOneRequestAConnection(t *testing.T) {
	h := newHouse(t)
	c, err := tls.Dial("tcp", h.address, membership.PinnedDialer(h.ca.Pin()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const request = "POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
	if _, err := io.WriteString(c, request+request+request); err != nil {
		t.Fatal(err)
	}
	answers, err := io.ReadAll(c)
	if n := bytes.Count(answers, []byte("HTTP/1.1 ")); n != 1 {
		t.Errorf("%d answers, %v; want 1", n, err)
	}
}

// TestCostlyRequest: a key of another kind is refused before its signature is
// looked at, which for a large one would be work.
func TestCostlyRequest(t *testing.T) {
	h := newHouse(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	der[len(der)-1]++ // in the signature
	r := newMachine(t).request(t, "n1", "id-1")
	r.Request = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	_, _, err = membership.Join(t.Context(), h.address, h.token(1, soon()), r)
	if err == nil || !strings.Contains(err.Error(), "ECDSA") {
		t.Errorf("%v, want that the kind of key is wrong", err)
	}
}
