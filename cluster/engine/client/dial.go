package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Config says whom to dial. Endpoints are required.
type Config struct {
	// Endpoints are URLs of servers, "http://10.0.0.1:2379"; https with TLS.
	Endpoints []string
	// DialTimeout bounds one attempt to connect; default 2 s.
	DialTimeout time.Duration
	// SyncInterval is how often the endpoints are replaced by those that the
	// servers advertise; 0 is never.
	SyncInterval time.Duration
	// Dialer opens connections to "host:port"; nil is gRPC's own.
	Dialer func(ctx context.Context, address string) (net.Conn, error)
	// TLS is nil for plain HTTP.
	TLS *tls.Config
	// Logger gets the client's warnings; nil means none.
	Logger *zap.Logger
}

// A dead connection is noticed within pingInterval + pingTimeout. Servers cut
// clients that ping more often than every 5 s.
const (
	pingInterval = 10 * time.Second
	pingTimeout  = 3 * time.Second
	maxBackoff   = 3 * time.Second // between attempts to connect
)

// What a server may send before it is read, bytes. gRPC would measure what a
// connection carries, with a ping for each answer of a watch: in a mesh every
// change would wake every host, and the server for it, twice.
const (
	streamWindow = 1 << 20
	connWindow   = 2 << 20
)

// Dial makes a client. It does not wait for a connection: while no server
// answers, calls block until their context ends. The caller closes the client.
func Dial(cfg Config) (*clientv3.Client, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("dial store: no endpoints")
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 2 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	retry := backoff.DefaultConfig
	retry.BaseDelay, retry.MaxDelay = 100*time.Millisecond, maxBackoff
	options := []grpc.DialOption{
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: cfg.DialTimeout}),
		grpc.WithStaticStreamWindowSize(streamWindow), grpc.WithStaticConnWindowSize(connWindow),
	}
	if cfg.Dialer != nil {
		options = append(options, grpc.WithContextDialer(cfg.Dialer))
	}
	cli, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		AutoSyncInterval:     cfg.SyncInterval,
		DialTimeout:          cfg.DialTimeout,
		DialKeepAliveTime:    pingInterval,
		DialKeepAliveTimeout: pingTimeout,
		PermitWithoutStream:  true,
		TLS:                  cfg.TLS,
		Logger:               cfg.Logger.Named("etcd-client").WithOptions(zap.IncreaseLevel(zap.WarnLevel)),
		DialOptions:          options,
	})
	if err != nil {
		return nil, fmt.Errorf("dial store: %w", err)
	}
	return cli, nil
}
