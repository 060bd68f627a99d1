package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/external"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

// The engines of server.yaml.
const (
	engineEtcd     = "etcd"
	engineExternal = "external"
)

// externalConfig is an etcd of the operator's: where it is, the CA of its servers,
// and the credential of a user of its with the role root. The three files stay
// where the operator has them, and are read anew for each connection.
type externalConfig struct {
	Endpoints []string `json:"endpoints"` // host:port
	CA        string   `json:"ca"`
	Cert      string   `json:"cert"`
	Key       string   `json:"key"`
}

// externalFlags name an external etcd, for init and restore.
func externalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "engine", Value: engineEtcd, Usage: "what keeps the records: etcd, run by our servers, or external, an etcd of yours"},
		&cli.StringSliceFlag{Name: "endpoints", Usage: "`URL` of each member of an external etcd, as all hosts reach it"},
		&cli.StringFlag{Name: "cacert", Usage: "`FILE` with the CA of an external etcd's servers"},
		&cli.StringFlag{Name: "cert", Usage: "`FILE` with a certificate that an external etcd takes for a user with the role root"},
		&cli.StringFlag{Name: "key", Usage: "`FILE` with the key of --cert"},
	}
}

// chosenEngine is what the flags of externalFlags say; nil for our own etcd.
func chosenEngine(c *cli.Context) (*externalConfig, error) {
	e := &externalConfig{CA: c.String("cacert"), Cert: c.String("cert"), Key: c.String("key")}
	named := c.StringSlice("endpoints")
	switch c.String("engine") {
	case engineExternal:
	case engineEtcd:
		if len(named) > 0 || e.CA+e.Cert+e.Key != "" {
			return nil, usage("add --engine external, or leave them out", "--endpoints, --cacert, --cert and --key are for an external etcd")
		}
		return nil, nil
	default:
		return nil, usage("want --engine etcd or external", "unknown engine %q", c.String("engine"))
	}
	if len(named) == 0 || e.CA == "" || e.Cert == "" || e.Key == "" {
		return nil, usage("give --endpoints https://HOST:2379,... --cacert FILE --cert FILE --key FILE", "an external etcd takes endpoints, its CA, and the certificate and key of a root of it")
	}
	for _, text := range named {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
			return nil, usage("want https://HOST:PORT: the store is spoken to by mTLS only", "invalid endpoint %q", text)
		}
		hp, err := hostPort(u.Host, clientPort)
		if err != nil {
			return nil, err
		}
		e.Endpoints = append(e.Endpoints, hp)
	}
	for _, path := range []*string{&e.CA, &e.Cert, &e.Key} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return nil, err
		}
		*path = absolute
	}
	_, err := e.load()
	return e, err
}

// load reads the operator's credential.
func (e *externalConfig) load() (membership.Credential, error) {
	c, err := membership.Files{CA: e.CA, Cert: e.Cert, Key: e.Key, StoreCA: e.CA}.Load()
	if err != nil {
		return c, err
	}
	if _, err := tls.X509KeyPair(c.Cert, c.Key); err != nil {
		return c, failed("give a certificate and its key, both PEM", "read %s and %s: %w", e.Cert, e.Key, err)
	}
	return c, nil
}

// operator is the common name of the operator's certificate: etcd's name for it.
func (e *externalConfig) operator() (string, error) {
	pair, err := tls.LoadX509KeyPair(e.Cert, e.Key)
	if err != nil {
		return "", err
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return "", err
	}
	return leaf.Subject.CommonName, nil
}

// urls are the endpoints as a client of etcd takes them.
func (e *externalConfig) urls() []string {
	urls, _ := storeURLs(e.Endpoints, true) // they were read by hostPort
	return urls
}

// dial is a client with the operator's credential.
func (e *externalConfig) dial(log *zap.Logger) (*clientv3.Client, error) {
	cfg, err := membership.StoreDialer(e.load)
	if err != nil {
		return nil, err
	}
	return client.Dial(client.Config{Endpoints: e.urls(), TLS: cfg, Logger: log})
}

// reach wants one member of the etcd to take a certificate, and says of the last
// that did not why.
func (e *externalConfig) reach(ctx context.Context, cfg *tls.Config) (err error) {
	for _, endpoint := range e.urls() {
		call, cancel := context.WithTimeout(ctx, defaultCall)
		err = external.Reach(call, endpoint, cfg)
		cancel()
		if err == nil {
			return nil
		}
	}
	return err
}

// look sees what is in the etcd, as its root.
func (e *externalConfig) look(ctx context.Context) (s external.State, err error) {
	cfg, err := membership.StoreDialer(e.load)
	if err != nil {
		return s, err
	}
	if err := e.reach(ctx, cfg); err != nil {
		return s, e.explain(err)
	}
	cli, err := e.dial(nil)
	if err != nil {
		return s, err
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(ctx, defaultCall)
	defer cancel()
	s, err = external.Look(ctx, cli, cluster.Root)
	return s, e.explain(err)
}

// explain says what to do about an error of the etcd.
func (e *externalConfig) explain(err error) error {
	name, _ := e.operator()
	op, network := errors.AsType[*net.OpError](err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return failed("bring that file back, or name another in "+hostDirs().server(), "external etcd: %w", err)
	case errors.Is(err, external.ErrRefused):
		return failed("have etcd's --trusted-ca-file hold the CA of "+e.Cert, "external etcd: it does not take the certificate in %s: %w", e.Cert, err)
	case errors.Is(err, external.ErrNotRoot):
		return failed(fmt.Sprintf("as a root of it: etcdctl user add %s --no-password; etcdctl user grant-role %s root", shellWord(name), shellWord(name)),
			"external etcd: the certificate in %s is of %q, which may not keep its users: %w", e.Cert, clean(name), err)
	case errors.Is(err, external.ErrShared):
		return failed("switch it on as its operator (etcdctl auth enable), or give meshvpc an etcd of its own", "external etcd: %w", err)
	case network && op.Op == "dial", errors.Is(err, context.DeadlineExceeded):
		return failed("see that it runs, and that this host reaches it", "external etcd: %w", err)
	}
	return failed("see that --endpoints name the etcd by what its certificate names, and that --cacert is its CA", "external etcd: %w", err)
}

// fresh wants no record of ours in the etcd. Verb says what for.
func (e *externalConfig) fresh(ctx context.Context, verb string) error {
	s, err := e.look(ctx)
	if err != nil {
		return err
	}
	if s.Records > 0 {
		return failed("if nobody needs them: etcdctl del --prefix "+cluster.Root, "%s: the external etcd holds %d records below %s already", verb, s.Records, cluster.Root)
	}
	if !s.Enabled && s.Others > 0 {
		return e.explain(fmt.Errorf("%s: %w (%d)", verb, external.ErrShared, s.Others))
	}
	return nil
}

// newExternalServer is a server beside an external etcd, which serves joins only.
func newExternalServer(d dirs, name, dc string, bind, advertise netip.Addr, e *externalConfig) serverConfig {
	s := serverConfig{Name: name, Datacenter: dc, TLS: d.pem(cluster.SubjectServer), ListenJoin: []string{joinHost(bind, joinPort)}}
	s.use(e, []string{joinHost(advertise, joinPort)})
	return s
}

// use has a server keep its records in an external etcd. Its record names its
// join service, at advertise.
func (s *serverConfig) use(e *externalConfig, advertise []string) {
	s.Engine, s.External, s.Advertise = engineExternal, e, advertise
	s.DataDir, s.Listen, s.ListenPeers = "", nil, nil
	s.TLS.StoreCA = e.CA
}

// serves are the addresses of its own that a server listens on: the store, or
// joins where it has none.
func (s *serverConfig) serves() []string {
	if s.External != nil {
		return s.ListenJoin
	}
	return s.Listen
}

// endpoints are where clients find the store of a server.
func (s *serverConfig) endpoints() []string {
	if s.External != nil {
		return s.External.Endpoints
	}
	return s.Advertise
}

// elsewhere is what clients of a server's store are told beside its endpoints.
func (s *serverConfig) elsewhere() elsewhere {
	if s.External != nil {
		return elsewhere{Servers: s.Advertise}
	}
	return elsewhere{}
}

// with is the configuration of the same store with another credential.
func (c clientConfig) with(b membership.Credential) clientConfig {
	as := newClientConfig(c.Endpoints, b)
	as.elsewhere, as.StoreCA = c.elsewhere, c.StoreCA
	return as
}

// clientOf is a client file for the store of a server.
func clientOf(s serverConfig, b membership.Credential) (clientConfig, error) {
	if s.External != nil {
		ca, err := os.ReadFile(s.External.CA)
		if err != nil {
			return clientConfig{}, err
		}
		b.StoreCA = ca
	}
	as := newClientConfig(s.endpoints(), b)
	as.elsewhere = s.elsewhere()
	return as, nil
}

// tellExternal says what the operator of an etcd has to set.
func tellExternal(w io.Writer, s serverConfig) {
	fmt.Fprintf(w, "first, on each member of your etcd:\n")
	fmt.Fprintf(w, "  add %s to the file that its --trusted-ca-file names: it lets in certificates of your client CA and of this cluster's\n", s.TLS.CA)
	fmt.Fprintf(w, "  run it with --client-cert-auth, --auto-compaction-retention=1h, and restart it, one member at a time\n")
	fmt.Fprintf(w, "the server keeps etcd's users and roles as %s; authentication is switched on by it if all keys are ours\n", clean(operatorOf(s.External)))
}

func operatorOf(e *externalConfig) string {
	name, err := e.operator()
	if err != nil {
		return e.Cert
	}
	return name
}

// externalWait is how long a server waits before it tries an etcd again.
const externalWait = time.Second
