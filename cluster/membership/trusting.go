package membership

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// trustsRequest says whom the asker trusts.
type trustsRequest struct {
	CAs []string `json:"cas"` // pins
}

// Trusts tells the server at address whom c, a node, trusts. By which CA it is
// certified, the server sees.
func Trusts(ctx context.Context, address string, c Credential) error {
	mine, err := c.trusting()
	if err != nil {
		return err
	}
	return ask(ctx, address, pathTrusts, Dialer(c.Load), trustsRequest{mine.CAs}, &struct{}{}, nil)
}

// trusting is whom c trusts, and who signed it.
func (c Credential) trusting() (*cluster.Trusting, error) {
	pins, err := PinsOf(c.CA)
	if err != nil {
		return nil, err
	}
	signer, err := c.Signer()
	if err != nil {
		return nil, err
	}
	return &cluster.Trusting{CAs: pinTexts(pins), Signer: signer.String()}, nil
}

func pinTexts(pins []Pin) (list []string) {
	for _, p := range pins {
		list = append(list, p.String())
	}
	return list
}

// WriteTrusts is Trusts of a server, which writes the record itself. It writes
// nothing if that is what the record says.
func WriteTrusts(ctx context.Context, s *store.Store, c Credential, now cluster.Time) error {
	mine, err := c.trusting()
	if err != nil {
		return err
	}
	subject, err := c.Subject()
	if err != nil {
		return err
	}
	mine.At = now
	return writeTrusting(ctx, s, cluster.KeyServerTrust(subject.Name), mine)
}

func writeTrusting(ctx context.Context, s *store.Store, key string, r *cluster.Trusting) error {
	it, err := store.Get[*cluster.Trusting](ctx, s, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err == nil && slices.Equal(it.Value.CAs, r.CAs) && it.Value.Signer == r.Signer {
		return nil
	}
	var change store.Change
	store.Set(&change, key, r, nil, 0)
	_, err = s.Commit(ctx, change)
	return err
}

// trusts notes whom a node trusts.
func (s *Service) trusts(ctx context.Context, conn *tls.ConnectionState, r trustsRequest) (struct{}, error) {
	by, err := s.subject(conn)
	if err != nil {
		return struct{}{}, err
	}
	if by.Kind != cluster.SubjectNode {
		return struct{}{}, refusef(CodeForbidden, "that is for nodes")
	}
	if err := s.admitter.holdsKey(ctx, by); err != nil {
		return struct{}{}, err
	}
	own, err := s.cfg.Credential()
	if err != nil {
		return struct{}{}, err
	}
	signer, err := Credential{CA: own.CA, Cert: certPEM(conn.PeerCertificates[0].Raw)}.Signer()
	if err != nil {
		return struct{}{}, err
	}
	record := &cluster.Trusting{CAs: r.CAs, Signer: signer.String(), At: cluster.At(s.cfg.Now())}
	if err := record.Validate(); err != nil {
		return struct{}{}, refusef(CodeInvalid, "%v", err)
	}
	return struct{}{}, writeTrusting(ctx, s.admitter.store, cluster.KeyNodeTrust(by.Name), record)
}

// StillOld says of everybody who is waited for in a phase of t and is not over, by
// "node a" or "server a", why. It is pure. Of nodes, those that were removed are not
// waited for; trusting is by key.
func StillOld(t *cluster.Trust, nodes map[string]*cluster.Node, servers map[string]*cluster.Server, trusting map[string]*cluster.Trusting) (map[string]string, error) {
	pins, err := PinsOf(t.Bundle())
	if err != nil {
		return nil, err
	}
	want, old := pinTexts(pins), map[string]string{}
	look := func(who, name, key string) {
		if !t.Waits(name) {
			return
		}
		if why := stillOld(t.Phase, want, trusting[key]); why != "" {
			old[who+" "+name] = why
		}
	}
	for name, n := range nodes {
		if n.Agent && n.State != cluster.NodeLeft {
			look("node", name, cluster.KeyNodeTrust(name))
		}
	}
	for name := range servers {
		look("server", name, cluster.KeyServerTrust(name))
	}
	return old, nil
}

// stillOld says why who trusts so is not over in a phase, "" if it is.
func stillOld(phase cluster.TrustPhase, want []string, is *cluster.Trusting) string {
	if is == nil {
		return "it was not heard from"
	}
	has := slices.Sorted(slices.Values(is.CAs))
	switch {
	case !slices.Equal(has, slices.Sorted(slices.Values(want))):
		return fmt.Sprintf("it trusts %d CAs, not these %d yet", len(has), len(want))
	case phase != cluster.TrustAdd && is.Signer != want[0]:
		return "its certificate is of the old CA"
	}
	return ""
}

// Turn reports whether a server may restart to trust others than it does: it is the
// first by name of those that do not trust what t says, but for those left behind.
func Turn(t *cluster.Trust, name string, servers []string, trusting map[string]*cluster.Trusting) (bool, error) {
	pins, err := PinsOf(t.Bundle())
	if err != nil {
		return false, err
	}
	for _, other := range slices.Sorted(slices.Values(servers)) {
		if other == name {
			return true, nil
		}
		if t.Waits(other) && stillOld(cluster.TrustAdd, pinTexts(pins), trusting[cluster.KeyServerTrust(other)]) != "" {
			return false, nil
		}
	}
	return true, nil
}
