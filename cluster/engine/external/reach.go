package external

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"

	"golang.org/x/net/http2"
)

// ErrRefused is returned when a member of the etcd takes no connection with the
// certificate that was shown, or without one.
var ErrRefused = errors.New("the etcd refused the certificate")

// settings is an empty SETTINGS frame, which a client of HTTP/2 begins with
// (RFC 9113 §3.4).
var settings = []byte{0, 0, 0, 4, 0, 0, 0, 0, 0}

// Reach dials one member, "https://host:port", and waits for its first word. By
// TLS 1.3 a client learns only then whether its certificate was taken: if not, the
// error wraps ErrRefused.
func Reach(ctx context.Context, endpoint string, cfg *tls.Config) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		return fmt.Errorf("reach etcd: %w", err)
	}
	cfg = cfg.Clone()
	cfg.ServerName, cfg.NextProtos = u.Hostname(), []string{"h2"}
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return reached(endpoint, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // which ends what waits
	defer stop()
	if _, err = conn.Write(append([]byte(http2.ClientPreface), settings...)); err == nil {
		_, err = io.ReadFull(conn, make([]byte, len(settings)))
	}
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return reached(endpoint, err)
}

func reached(endpoint string, err error) error {
	if err == nil {
		return nil
	}
	if op, network := errors.AsType[*net.OpError](err); network && op.Op == "remote error" {
		return fmt.Errorf("reach etcd at %s: %w: %w", endpoint, ErrRefused, op.Err)
	}
	return fmt.Errorf("reach etcd at %s: %w", endpoint, err)
}
