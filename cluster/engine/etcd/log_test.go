package etcd

import (
	"crypto/x509"
	"errors"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestClockHint: what etcd logs of a certificate that does not hold now says that a
// clock may be wrong, and nothing else does.
func TestClockHint(t *testing.T) {
	expired := x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time 2000-01-01T00:00:00Z is before 2026-01-01T00:00:00Z"}
	core, logged := observer.New(zap.InfoLevel)
	log := quieted(zap.New(core), new(atomic.Bool))
	for _, f := range []zap.Field{zap.Error(expired), zap.String("error", "tls: failed to verify certificate: "+expired.Error()),
		zap.String("error", "remote error: tls: expired certificate"), zap.Error(errors.New("connection refused")), zap.Int("n", 1)} {
		log.Warn("rejected connection", zap.String("remote", "192.0.2.1"), f)
	}
	var hints int
	for i, e := range logged.TakeAll() {
		if hint := e.ContextMap()["hint"]; (hint == clockHint) != (i < 3) || hint != nil && hint != clockHint {
			t.Errorf("entry %d: hint %v", i, hint)
		} else if hint != nil {
			hints++
		}
	}
	if log.Info("below"); hints != 3 || logged.Len() != 0 {
		t.Errorf("%d hints, %d entries below warnings", hints, logged.Len())
	}
}
