package membership

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// The paths of the join service. Each takes a POST of JSON, and answers JSON: an
// answer, or with another status than 200 a Refusal.
const (
	pathJoin      = "/v1/join"      // JoinRequest to JoinAnswer
	pathIssue     = "/v1/issue"     // IssueRequest to IssueAnswer, for who has a certificate
	pathServe     = "/v1/serve"     // serveRequest to ServeAnswer, for servers
	pathAuthority = "/v1/authority" // {} to AuthorityAnswer, for servers
	pathTrusts    = "/v1/trusts"    // trustsRequest to {}, for nodes
	pathHold      = "/v1/hold"      // {} to {}, for servers
)

// How long strangers may take, and how much they may send.
const (
	readWithin = 5 * time.Second
	callWithin = 20 * time.Second
	maxRequest = 16 << 10 // bytes
)

// ServiceConfig configures a Service.
type ServiceConfig struct {
	Listen     []netip.AddrPort           // required: where to serve
	Store      *store.Store               // required: writes as an operator
	CA         func() (*CA, error)        // required: reads the CA, for each request
	Credential func() (Credential, error) // required: the server's own, for each connection
	Members    Members                    // of the store; nil: no server can become one
	// Ask whether the holder of a key, by its hash, is at an address (see package
	// reach); nil: joiners' addresses are not asked about.
	Ask func(ctx context.Context, key string, at netip.Addr) error
	// Hold has the store of this server hold still, for another, if that is one, that
	// hands over the lead; nil: it cannot. It needs no answer of the store.
	Hold     func(ctx context.Context, by cluster.Caller) error
	Version  string           // of this server; joiners too far from it are refused
	External *External        // nil: the store is the servers' own
	Log      *zap.Logger      // nil: none
	Now      func() time.Time // default time.Now
}

// Service lets joiners in, and gives those who are in new certificates.
type Service struct {
	cfg      ServiceConfig
	admitter admitter
}

// NewService checks the configuration and starts nothing.
func NewService(cfg ServiceConfig) (*Service, error) {
	if len(cfg.Listen) == 0 || cfg.Store == nil || cfg.CA == nil || cfg.Credential == nil {
		return nil, errors.New("new join service: listen, store, CA and credential are required")
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	cfg.Log = cfg.Log.Named("join")
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{cfg, admitter{store: cfg.Store, ca: cfg.CA, now: cfg.Now, members: cfg.Members, ask: cfg.Ask, version: cfg.Version, external: cfg.External}}, nil
}

// Run serves until ctx ends, and returns when all that it started has ended.
func (s *Service) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathJoin, answering(s, func(ctx context.Context, _ *tls.ConnectionState, r JoinRequest) (JoinAnswer, error) {
		return s.join(ctx, r)
	}))
	mux.HandleFunc("POST "+pathIssue, answering(s, s.issue))
	mux.HandleFunc("POST "+pathServe, answering(s, s.serve))
	mux.HandleFunc("POST "+pathAuthority, answering(s, s.authority))
	mux.HandleFunc("POST "+pathTrusts, answering(s, s.trusts))
	mux.HandleFunc("POST "+pathHold, answering(s, s.hold))
	quiet := zap.NewStdLog(s.cfg.Log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))) // what strangers do wrong is no news
	server := &http.Server{Handler: mux, ErrorLog: quiet, ReadHeaderTimeout: readWithin, ReadTimeout: 2 * readWithin,
		WriteTimeout: 2*readWithin + callWithin, MaxHeaderBytes: 4 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx }, ConnContext: withSource}
	server.SetKeepAlivesEnabled(false) // what a source may ask, the gate counts in connections
	var connections sync.WaitGroup     // net/http waits for none of its own
	server.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			connections.Add(1)
		case http.StateClosed:
			connections.Done()
		}
	}
	defer connections.Wait()
	g, ctx := errgroup.WithContext(ctx)
	for _, a := range s.cfg.Listen {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a.String())
		if err != nil {
			_ = server.Close() // ends those that serve already; the error below says why
			return errors.Join(fmt.Errorf("serve joins: %w", err), ignoreClosed(g.Wait()))
		}
		g.Go(func() error { return server.Serve(tls.NewListener(newGate(l, s.cfg.Now), Listener(s.cfg.Credential))) })
	}
	s.cfg.Log.Info("joins are served", zap.Stringers("addresses", s.cfg.Listen))
	g.Go(func() error {
		<-ctx.Done()
		return server.Close()
	})
	return ignoreClosed(g.Wait())
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// answering reads a request, has it carried out, and writes what came of it.
func answering[Q, A any](s *Service, do func(context.Context, *tls.ConnectionState, Q) (A, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), callWithin)
		defer cancel()
		var q Q
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
		err := d.Decode(&q)
		if err != nil {
			err = refusef(CodeInvalid, "this is no request of that kind")
		}
		var answer any
		if err == nil {
			answer, err = do(ctx, r.TLS, q)
		}
		status := http.StatusOK
		if err != nil {
			refusal := asRefusal(err)
			status, answer = http.StatusForbidden, refusal
			if refusal.Code == CodeUnavailable {
				status = http.StatusServiceUnavailable // and the answer says no more than that
				s.cfg.Log.Warn("cannot answer", zap.String("path", r.URL.Path), zap.String("from", r.RemoteAddr), zap.Error(err))
			}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(answer) // who does not wait for it asks again
	}
}

func (s *Service) join(ctx context.Context, r JoinRequest) (JoinAnswer, error) {
	answer, err := s.admitter.join(ctx, r)
	if err == nil {
		s.cfg.Log.Info("let a node in", zap.String("node", r.Name), zap.String("datacenter", answer.Datacenter), zap.String("token", r.TokenID))
	}
	return answer, err
}

// IssueRequest asks for a younger certificate of the asker's key, or, if User is
// set, for one of a new user.
type IssueRequest struct {
	Request string           `json:"request"` // PEM
	User    string           `json:"user,omitempty"`
	Role    cluster.UserRole `json:"role,omitempty"`
	// Addresses are what the certificate of a server shall name.
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// IssueAnswer is a certificate.
type IssueAnswer struct {
	Certificate string `json:"certificate"`
}

// issue certifies what the subject of the connection may have.
func (s *Service) issue(ctx context.Context, conn *tls.ConnectionState, r IssueRequest) (IssueAnswer, error) {
	by, err := s.subject(conn)
	if err != nil {
		return IssueAnswer{}, err
	}
	cert, err := s.admitter.issue(ctx, by, r)
	if err == nil {
		s.cfg.Log.Info("issued a certificate", zap.Stringer("by", by.Subject), zap.String("user", r.User))
	}
	return IssueAnswer{string(cert)}, err
}

// holderOf is who a connection's certificate speaks for, and the hash of its key.
type holderOf struct {
	cluster.Subject
	hash string
}

// subject is holder, of a server that has the CA: who certifies nobody is asked
// nothing.
func (s *Service) subject(conn *tls.ConnectionState) (holderOf, error) {
	by, err := s.holder(conn)
	if err == nil {
		_, err = s.cfg.CA()
	}
	return by, err
}

// holder verifies the certificate of a connection.
func (s *Service) holder(conn *tls.ConnectionState) (holderOf, error) {
	nobody := refusef(CodeForbidden, "a certificate of this cluster is needed for that")
	if conn == nil || len(conn.PeerCertificates) == 0 {
		return holderOf{}, nobody
	}
	own, err := s.cfg.Credential()
	if err != nil {
		return holderOf{}, err
	}
	list, err := parseCAs(own.CA)
	if err != nil {
		return holderOf{}, fmt.Errorf("read CA: %w", err)
	}
	roots := poolOf(list)
	leaf := conn.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: s.cfg.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		if bad, ok := errors.AsType[x509.CertificateInvalidError](err); ok && bad.Reason == x509.Expired {
			return holderOf{}, refusef(CodeForbidden, "the certificate holds from %s to %s; the clock of this server says %s", leaf.NotBefore.UTC().Format(time.RFC3339),
				leaf.NotAfter.UTC().Format(time.RFC3339), s.cfg.Now().UTC().Format(time.RFC3339))
		}
		return holderOf{}, nobody
	}
	subject, err := cluster.ParseSubject(leaf.Subject.CommonName)
	if err != nil {
		return holderOf{}, nobody
	}
	return holderOf{subject, hashKey(leaf.RawSubjectPublicKeyInfo)}, nil
}

// readRefusal is what a server answered with another status than 200.
func readRefusal(r *http.Response) error {
	var refusal Refusal
	if err := json.NewDecoder(io.LimitReader(r.Body, maxRequest)).Decode(&refusal); err != nil || refusal.Code == "" {
		return fmt.Errorf("the server answered %s, which is no answer of a join service", r.Status)
	}
	refusal.Reason = cluster.CleanText(refusal.Reason)
	return &refusal
}
