package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/pkg/v3/runtime"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// front is where clients are served: etcd's services by gRPC's own server. etcd
// would put them behind net/http, which closes idle connections under clients that
// are about to call; gRPC's tells them to go elsewhere, and hears that they know.
type front struct {
	listeners []net.Listener
	tls       *tls.Config // nil: plain
	grpc      *grpc.Server
	http      *http.Server // /metrics; nil: plain
	other     *handed
	serving   sync.WaitGroup

	soft  context.Context // ends connections that have not begun
	leave context.CancelFunc
	hard  context.Context // ends all
	end   context.CancelFunc
}

// How long a client may take to begin, and those under way to end, once told to.
const (
	beginWithin = 5 * time.Second
	drainMost   = 3 * time.Second
	spareFiles  = 150 // descriptors that no client gets
)

// listen opens the ports: what comes before serve waits.
func listen(c *Config) (_ *front, err error) {
	f := &front{}
	f.hard, f.end = context.WithCancel(context.Background())
	f.soft, f.leave = context.WithCancel(f.hard)
	defer func() {
		if err != nil {
			f.abort()
		}
	}()
	if t := c.TLS; t != nil {
		info := transport.TLSInfo{CertFile: t.Cert, KeyFile: t.Key, TrustedCAFile: t.CA, ClientCertAuth: true, MinVersion: tls.VersionTLS13}
		if f.tls, err = info.ServerConfig(); err != nil {
			return nil, fmt.Errorf("configure TLS: %w", err)
		}
		f.tls.NextProtos = []string{"http/1.1", "h2"} // gRPC's clients offer h2 alone
		f.other = &handed{conns: make(chan net.Conn), done: f.hard.Done()}
		f.http = &http.Server{Handler: observable(c.MayObserve), ReadHeaderTimeout: beginWithin, ReadTimeout: beginWithin}
	}
	limit, err := runtime.FDLimit()
	if err != nil {
		return nil, fmt.Errorf("read limit of open files: %w", err)
	}
	for _, a := range c.ListenClient {
		l, err := net.Listen("tcp", a.String())
		if err != nil {
			return nil, fmt.Errorf("serve clients: %w", err)
		}
		if limit > spareFiles {
			l = transport.LimitListener(l, int(min(limit-spareFiles, 1<<20)))
		}
		f.listeners = append(f.listeners, leashed{l, f.hard})
	}
	return f, nil
}

// serve begins, once the member is ready. What ends it otherwise than by stop or
// abort is sent to failed.
func (f *front) serve(member *embed.Etcd, failed chan<- error, options ...grpc.ServerOption) {
	options = append([]grpc.ServerOption{grpc.ConnectionTimeout(beginWithin),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: embed.DefaultGRPCKeepAliveInterval, Timeout: embed.DefaultGRPCKeepAliveTimeout})}, options...)
	if f.tls != nil {
		options = append(options, grpc.Creds(byProtocol{credentials.NewTLS(f.tls), f}))
	}
	f.grpc = v3rpc.Server(member.Server, nil, nil, options...)
	for _, l := range f.listeners {
		f.serving.Go(func() {
			if err := f.grpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				select {
				case failed <- fmt.Errorf("serve clients: %w", err):
				case <-f.hard.Done():
				}
			}
		})
	}
	if f.http != nil {
		f.serving.Go(func() { _ = f.http.Serve(f.other) }) // ends with its listener alone
	}
}

// stop has clients go elsewhere, and returns when they are gone, or cut. Calls under
// way are answered, streams are ended by cut.
func (f *front) stop(cut func()) {
	defer f.abort()
	if f.grpc == nil {
		cut()
		return
	}
	f.leave()
	patience := time.AfterFunc(drainMost, func() { f.end(); f.grpc.Stop() })
	defer patience.Stop()
	gone := make(chan struct{})
	go func() { f.grpc.GracefulStop(); close(gone) }() // waited for below
	cut()
	<-gone
}

// abort ends all at once.
func (f *front) abort() {
	f.end()
	for _, l := range f.listeners {
		_ = l.Close() // gRPC may have
	}
	if f.grpc != nil {
		f.grpc.Stop()
	}
	if f.http != nil {
		_ = f.http.Close() // its connections have ended
	}
	f.serving.Wait()
}

// leashed ends its connections with a context.
type leashed struct {
	net.Listener
	hard context.Context
}

func (l leashed) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &leashedConn{c, context.AfterFunc(l.hard, func() { _ = c.Close() })}, nil
}

type leashedConn struct {
	net.Conn
	loose func() bool
}

// Close implements net.Conn.
func (c *leashedConn) Close() error {
	c.loose()
	return c.Conn.Close()
}

// byProtocol hands connections that are not HTTP/2 over to net/http.
type byProtocol struct {
	credentials.TransportCredentials
	of *front
}

// ServerHandshake implements credentials.TransportCredentials.
func (b byProtocol) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	defer context.AfterFunc(b.of.soft, func() { _ = raw.Close() })()
	c := tls.Server(raw, b.of.tls)
	if err := c.Handshake(); err != nil {
		return nil, nil, err
	}
	state := c.ConnectionState()
	if state.NegotiatedProtocol == "h2" {
		return c, credentials.TLSInfo{State: state, CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}, nil
	}
	if err := c.SetDeadline(time.Time{}); err != nil { // gRPC's
		return nil, nil, err
	}
	if !b.of.other.hand(c) {
		return nil, nil, net.ErrClosed
	}
	return nil, nil, credentials.ErrConnDispatched
}

// Clone implements credentials.TransportCredentials.
func (b byProtocol) Clone() credentials.TransportCredentials { return b }

// handed is a listener of connections that another accepted.
type handed struct {
	conns chan net.Conn
	done  <-chan struct{}
}

func (h *handed) hand(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.done:
		return false
	}
}

// Accept implements net.Listener.
func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (*handed) Close() error { return nil }

// Addr implements net.Listener.
func (*handed) Addr() net.Addr { return &net.TCPAddr{} }

// observable serves the metrics, and nothing else that etcd has to say by plain
// HTTP: a question after its health would be a read by way of all members, and what
// the process was started with is nobody's business.
func observable(may func(tls.ConnectionState) bool) http.Handler {
	mux := http.NewServeMux()
	metrics := promhttp.Handler()
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, r *http.Request) {
		if may != nil && (r.TLS == nil || !may(*r.TLS)) {
			http.Error(w, "not allowed", http.StatusForbidden)
			return
		}
		metrics.ServeHTTP(w, r)
	})
	return mux
}
