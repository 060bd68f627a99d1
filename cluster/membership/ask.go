package membership

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"

	"github.com/meshvpc/meshvpc/cluster"
)

// Join asks the server at address, host:port, to let this host in. It trusts
// none but a server of the CA that the token names; another wraps ErrUntrusted.
// What the server refuses is a *Refusal. It returns the CA's certificate, too.
func Join(ctx context.Context, address string, t Token, r JoinRequest) (answer JoinAnswer, ca []byte, err error) {
	r.TokenID, r.Secret = t.RecordID(), hex.EncodeToString(t.Secret[:])
	cfg := PinnedDialer(t.Pin)
	err = ask(ctx, address, pathJoin, cfg, r, &answer, func(s *tls.ConnectionState) {
		for _, c := range s.PeerCertificates[1:] {
			if pinOf(c) == t.Pin {
				ca = certPEM(c.Raw)
			}
		}
	})
	if err != nil {
		return JoinAnswer{}, nil, err
	}
	return answer, ca, nil
}

// Renew asks for a younger certificate of c's key.
func Renew(ctx context.Context, address string, c Credential) (Credential, error) {
	key, err := ReadKey(c.Key)
	if err != nil {
		return Credential{}, err
	}
	return issued(ctx, address, c, key, IssueRequest{})
}

// RenewServer is Renew of a server without a CA key, a witness.
func RenewServer(ctx context.Context, address string, c Credential, addresses []netip.Addr) (Credential, error) {
	key, err := ReadKey(c.Key)
	if err != nil {
		return Credential{}, err
	}
	return issued(ctx, address, c, key, IssueRequest{Addresses: addresses})
}

// NewUser asks as c, an admin, for a credential of a new user.
func NewUser(ctx context.Context, address string, c Credential, name string, role cluster.UserRole) (Credential, error) {
	key, err := NewKey()
	if err != nil {
		return Credential{}, err
	}
	return issued(ctx, address, c, key, IssueRequest{User: name, Role: role})
}

func issued(ctx context.Context, address string, c Credential, key Key, r IssueRequest) (Credential, error) {
	text, err := key.Request()
	if err != nil {
		return Credential{}, err
	}
	r.Request = string(text)
	var answer IssueAnswer
	if err := ask(ctx, address, pathIssue, Dialer(c.Load), r, &answer, nil); err != nil {
		return Credential{}, err
	}
	fresh := Credential{CA: c.CA, Cert: []byte(answer.Certificate), Key: key.PEM, StoreCA: c.StoreCA}
	_, err = fresh.pair()
	return fresh, err
}

// ask sends a request and reads the answer.
func ask(ctx context.Context, address, path string, cfg *tls.Config, q, answer any, met func(*tls.ConnectionState)) error {
	body, err := json.Marshal(q)
	if err != nil {
		return fmt.Errorf("ask server: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+address+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask server: %w", err)
	}
	transport := &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true, TLSHandshakeTimeout: readWithin}
	resp, err := (&http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		return fmt.Errorf("ask server: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return readRefusal(resp)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(answer); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	if met != nil {
		met(resp.TLS)
	}
	return nil
}
