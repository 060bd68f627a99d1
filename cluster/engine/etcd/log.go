package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// quieted is our logger as etcd gets it: warnings and worse, and once stopping
// only what ends the process, since etcd logs its own stop as errors.
func quieted(log *zap.Logger, stopping *atomic.Bool) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core { return quietCore{c, stopping} }))
}

type quietCore struct {
	zapcore.Core
	stopping *atomic.Bool
}

// onePort begins a warning that is logged at every start, though etcd serves neither
// here: a front does.
const onePort = "Running http and grpc server on single port"

func (c quietCore) Enabled(l zapcore.Level) bool {
	least := zapcore.WarnLevel
	if c.stopping.Load() {
		least = zapcore.DPanicLevel
	}
	return l >= least && c.Core.Enabled(l)
}

func (c quietCore) With(fields []zapcore.Field) zapcore.Core {
	return quietCore{c.Core.With(fields), c.stopping}
}

func (c quietCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(e.Level) || strings.HasPrefix(e.Message, onePort) {
		return ce
	}
	return ce.AddCore(e, c)
}

// What a handshake fails with for which a clock may be to blame, here, and as the
// other end answers (RFC 8446 §6.2, certificate_expired).
var untimely = []string{strings.TrimSuffix(x509.CertificateInvalidError{Reason: x509.Expired}.Error(), ": "), tls.AlertError(45).Error()}

const clockHint = "the clock of this server or of the other is wrong, or the certificate ended: meshvpc doctor says which, on either"

// Write implements zapcore.Core. etcd says of a certificate that does not hold now
// what the time is, and not whose clock says so.
func (c quietCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	for _, f := range fields {
		text := f.String
		if err, ok := f.Interface.(error); ok {
			text = err.Error()
		}
		if slices.ContainsFunc(untimely, func(sign string) bool { return strings.Contains(text, sign) }) {
			fields = append(slices.Clip(fields), zap.String("hint", clockHint))
			break
		}
	}
	return c.Core.Write(e, fields)
}
