package etcd

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// through is a call through a gate, answered after it took so long.
func through(g *gate, request any, took time.Duration) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := g.unary(context.Background(), request, nil, func(context.Context, any) (any, error) {
			time.Sleep(took) //nolint:forbidigo // in a bubble
			return nil, nil
		})
		done <- err
	}()
	return done
}

// isDone looks once all that can happen has.
func isDone(done <-chan error) bool {
	synctest.Wait()
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// TestGateHolds: what is under way ends, what comes waits, and how it is is told.
func TestGateHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{}
		begun := time.Now()
		before := through(g, &pb.PutRequest{}, 50*time.Millisecond)
		read := through(g, &pb.RangeRequest{}, time.Minute)
		synctest.Wait()
		held := g.hold(time.Second)
		during, look := through(g, &pb.TxnRequest{}, 0), through(g, &pb.StatusRequest{}, 0)
		late := through(g, &pb.RangeRequest{}, 0)
		if err := g.quiet(t.Context()); err != nil || time.Since(begun) != 50*time.Millisecond || !isDone(before) {
			t.Errorf("quiet after %v, %v; want it after the write, 50ms", time.Since(begun), err)
		}
		if isDone(during) || isDone(late) || !isDone(look) {
			t.Error("want a write and a read to wait, and the status not to")
		}
		g.open()
		if !isDone(during) || !isDone(late) {
			t.Error("they wait though the gate is open")
		}
		<-held
		<-read
	})
}

// TestGateOpensByItself: who closed it may be gone.
func TestGateOpensByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{}
		g.hold(time.Second)
		begun := time.Now()
		if err := <-through(g, &pb.PutRequest{}, 0); err != nil || time.Since(begun) != time.Second {
			t.Errorf("through after %v: %v; want 1s", time.Since(begun), err)
		}
		g.hold(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := g.enter(ctx, true); err == nil {
			t.Error("through a closed gate")
		}
		g.open()
	})
}

// TestGateNeverQuiet: a proposal that gets no answer is not waited for longer than asked.
func TestGateNeverQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{}
		stuck := through(g, &pb.PutRequest{}, time.Hour)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.quiet(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("quiet: %v", err)
		}
		<-stuck
	})
}
