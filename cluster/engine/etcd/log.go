package etcd

import (
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
	return c.Core.Check(e, ce)
}
