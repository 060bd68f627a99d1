package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// What the free space on the disk of a data directory leads to, in bytes.
const (
	lowSpace        = 1 << 30  // less: a warning
	tightSpace      = minFree  // less, so that etcd cannot lay out its log any more: the ballast is given up
	tooLittle       = 16 << 20 // less, without ballast: the end, while there is room for one in good order
	worthCompacting = 16 << 20 // of a database, if so much is unused
	ballastMost     = 64 << 20 // what etcd needs to start
	ballastPart     = 16       // of the disk, at most
	spaceEvery      = time.Second
)

// ballastName is a file in the data directory that takes up room, to be given up when
// the disk is full.
const ballastName = "ballast"

// level is how full a disk is.
type level int

const (
	roomy level = iota
	low
	tight
)

// step is what is to be done about it.
type step int

const (
	wait   step = iota
	lay         // the ballast
	giveUp      // the ballast
	end         // serving
)

// ballastSize is what the ballast of a disk is to have.
func ballastSize(total uint64) uint64 {
	return min(ballastMost, total/ballastPart) &^ (1<<20 - 1)
}

// judgeSpace says how full a disk is that was as was, and what to do; held is the size
// of the ballast, 0 for none. Between two levels there is a gap, so that a disk at the
// edge is not told of again and again. Pure.
func judgeSpace(s space, held uint64, was level) (level, step) {
	now := roomy
	switch {
	case s.usable < tightSpace, was == tight && s.free < tightSpace+ballastMost:
		now = tight
	case s.free < lowSpace, was != roomy && s.free < lowSpace+2*ballastMost: // laying the ballast takes some, too
		now = low
	}
	size := ballastSize(s.total)
	switch {
	case s.readOnly:
		return now, end
	case s.usable < tightSpace && held > 0:
		return now, giveUp
	case s.usable < tooLittle:
		return now, end
	case held < size && s.free+held >= size+minFreeNew:
		return now, lay
	}
	return now, wait
}

// ballast watches the disk of a data directory.
type ballast struct {
	dir    string
	log    *zap.Logger
	level  level
	short  func(*string) // is told what is to be said of the disk, see shortage
	failed bool          // to lay it; no more attempts
	// compact is called while the disk is almost full, with what is free.
	compact func(free uint64) error
	large   bool // that has failed; no more attempts
}

// run returns nil when ctx ends, and before that when the disk can take no more:
// ErrFull, ErrReadOnly.
func (b *ballast) run(ctx context.Context) error {
	tick := time.NewTicker(spaceEvery)
	defer tick.Stop()
	for {
		if err := b.look(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (b *ballast) path() string { return filepath.Join(b.dir, ballastName) }

func (b *ballast) look() error {
	s, err := spaceOf(b.dir)
	if err != nil {
		return diskError(b.dir, err)
	}
	var held uint64
	if info, err := os.Stat(b.path()); err == nil {
		held = uint64(info.Size())
	}
	now, do := judgeSpace(s, held, b.level)
	b.tell(now, s)
	b.short(shortage(now, s))
	switch do {
	case end:
		if s.readOnly {
			return ErrReadOnly
		}
		return fmt.Errorf("%w: %d MiB are free, etcd needs %d MiB to start", ErrFull, s.usable>>20, uint64(minFree)>>20)
	case giveUp:
		if err := giveUpBallast(b.dir); err != nil {
			return diskError(b.dir, err)
		}
		b.log.Error("the disk is almost full: gave up the ballast, and stop when that is used up",
			zap.String("dir", b.dir), zap.Uint64("free_mib", (s.free+held)>>20), zap.Uint64("stops_below_mib", tooLittle>>20))
		held, s.usable = 0, s.usable+held
	case lay:
		b.lay(ballastSize(s.total))
	}
	if now == tight && held == 0 && !b.large {
		if err := b.compact(s.usable); err != nil {
			b.large = true
			b.log.Error("cannot make the database smaller", zap.Error(err))
		}
	}
	return nil
}

// tell logs a level that has changed.
func (b *ballast) tell(now level, s space) {
	if now == b.level {
		return
	}
	switch free := zap.Uint64("free_mib", s.free>>20); {
	case now == roomy:
		b.log.Info("the disk has space again", zap.String("dir", b.dir), free)
	case now > b.level:
		b.log.Warn("little space is free on the disk of the store: free some, or move the data directory to a larger one",
			zap.String("dir", b.dir), free, zap.Uint64("want_mib", lowSpace>>20))
	}
	b.level = now
}

func (b *ballast) lay(size uint64) {
	if b.failed || size == 0 {
		return
	}
	f, err := os.OpenFile(b.path(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		if err = errors.Join(allocate(f, int64(size)), f.Sync(), f.Close()); err != nil {
			err = errors.Join(err, giveUpBallast(b.dir))
		}
	}
	if err != nil {
		b.failed = true
		b.log.Warn("cannot lay out the ballast, which is given up when the disk is full; go on without", zap.String("file", b.path()), zap.Error(err))
		return
	}
	b.log.Debug("laid out the ballast, which is given up when the disk is full", zap.String("file", b.path()), zap.Uint64("mib", size>>20))
}

// fill writes what no file system makes smaller.
func fill(f *os.File, size int64) error {
	_, err := io.CopyN(f, rand.NewChaCha8([32]byte{}), size)
	return err
}

// giveUpBallast is no error if there is none.
func giveUpBallast(dir string) error {
	if err := os.Remove(filepath.Join(dir, ballastName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("give up the ballast: %w", err)
	}
	return nil
}

// watchDisk runs the ballast of a member until stop, and says by full when it has to
// end.
func (e *Engine) watchDisk(ctx context.Context, member *embed.Etcd, broke *broken) (full <-chan error, stop func()) {
	b := &ballast{dir: e.cfg.DataDir, log: e.log, short: e.short.Store, compact: func(free uint64) error { return compact(member, free, e.log) }}
	ctx, cancel := context.WithCancel(ctx)
	failed, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		if err := b.run(ctx); err != nil {
			failed <- err
		}
	}()
	return failed, func() {
		cancel()
		select {
		case <-ended:
		case <-broke.happened: // it may wait for that for ever
		}
	}
}

// compact gives what a member's database does not use any more back to the disk, if
// that is worth it and there is room: it is copied for that.
func compact(member *embed.Etcd, free uint64, log *zap.Logger) error {
	db := member.Server.Backend()
	size, used := uint64(db.Size()), uint64(db.SizeInUse())
	if size < used+worthCompacting || used+tooLittle > free {
		return nil
	}
	if err := db.Defrag(); err != nil {
		return err
	}
	log.Info("made the database smaller", zap.Uint64("mib", size>>20), zap.Int64("now_mib", db.Size()>>20))
	return nil
}
