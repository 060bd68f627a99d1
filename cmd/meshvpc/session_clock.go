package main

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshvpc/meshvpc/cluster/membership"
)

// untimely keeps why handshakes failed, if that was a clock: all that is left of it in
// what a client of the store says is that nobody answered.
type untimely struct{ last atomic.Pointer[error] }

func (u *untimely) notice(cfg *tls.Config) {
	verify := cfg.VerifyConnection
	if verify == nil {
		return
	}
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		err := verify(s)
		if errors.Is(err, membership.ErrUntimely) {
			u.last.Store(&err)
		}
		return err
	}
}

// explain says of a store that did not answer what a clock has to do with it; nil if
// that is nothing.
func (u *untimely) explain(ctx context.Context, endpoints []string, c membership.Credential, now time.Time) error {
	at := strings.Join(endpoints, ", ")
	if last := u.last.Load(); last != nil {
		return failed(setClock+"; if the clock is right, start \"meshvpc server\" there again: it renews its certificate", "reach the store at %s: %w", at, *last)
	}
	own, _, err := c.Periods()
	if err != nil || c.StoreCA != nil || !anySaysEnded(ctx, endpoints, c) {
		return nil
	}
	const second = time.RFC3339
	return failed("if it holds by the right time: "+setClock+", on the server; if not, get another where an admin is: meshvpc cluster credential create NAME --role ROLE",
		"reach the store at %s: by the clock of a server the certificate of this client does not hold: it holds from %s to %s; this host's clock says %s",
		at, own.From.UTC().Format(second), own.Until.UTC().Format(second), now.UTC().Format(second))
}

// endedThere is what a server answers by whose clock a client's certificate does not
// hold: RFC 8446 §6.2, certificate_expired. crypto/tls hands it on as text only.
var endedThere = tls.AlertError(45).Error()

// saysWithin is how long servers are waited for that have nothing against a
// certificate, and say nothing.
const saysWithin = 300 * time.Millisecond

// anySaysEnded reports whether one of the servers answers that.
func anySaysEnded(ctx context.Context, endpoints []string, c membership.Credential) bool {
	ctx, cancel := context.WithTimeout(ctx, saysWithin)
	defer cancel()
	var ended atomic.Bool
	var asking sync.WaitGroup
	for _, e := range endpoints {
		asking.Go(func() {
			if saysEnded(ctx, e, c) {
				ended.Store(true)
			}
		})
	}
	asking.Wait()
	return ended.Load()
}

func saysEnded(ctx context.Context, address string, c membership.Credential) bool {
	conn, err := (&tls.Dialer{Config: membership.Dialer(c.Load)}).DialContext(ctx, "tcp", address)
	if err == nil {
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		_, err = conn.Read(make([]byte, 1)) // with TLS 1.3 it says so after the handshake
	}
	return err != nil && strings.Contains(err.Error(), endedThere)
}
