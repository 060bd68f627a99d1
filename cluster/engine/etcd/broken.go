package etcd

import (
	"fmt"
	"sync"
	"sync/atomic"

	"go.uber.org/zap/zapcore"
)

// broken takes the place of the end of the process, which is what etcd does, by zap's
// Fatal or Panic, when it cannot write to its disk: it ends the engine, by an error.
// Who logged that never goes on, and may hold any lock: nothing that etcd had not
// done by then is done, and the member cannot be closed.
type broken struct {
	dir      string
	started  atomic.Bool
	once     sync.Once
	happened chan struct{} // closed once err is set
	err      error
}

func newBroken(dir string) *broken { return &broken{dir: dir, happened: make(chan struct{})} }

// OnWrite implements zapcore.CheckWriteHook.
func (b *broken) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := diskError(b.dir, entryError(e, fields))
	if e.Level < zapcore.FatalLevel && b.started.Load() && !IsDisk(err) {
		zapcore.WriteThenPanic.OnWrite(e, fields) // a fault of etcd's: where, is worth knowing
	}
	b.once.Do(func() {
		b.err = err
		close(b.happened)
	})
	select {}
}

// entryError is what an entry says, and wraps the errors in it.
func entryError(e *zapcore.CheckedEntry, fields []zapcore.Field) error {
	err := fmt.Errorf("%s", e.Message)
	for _, f := range fields {
		if cause, ok := f.Interface.(error); ok {
			err = fmt.Errorf("%w: %w", err, cause)
		}
	}
	return err
}
