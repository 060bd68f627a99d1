package client

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

func TestHappensOnce(t *testing.T) {
	put, remove, get := mvcc.Op{Kind: mvcc.OpPut, Key: "a"}, mvcc.Delete("a"), mvcc.Get("a")
	at := mvcc.Unchanged
	for name, tt := range map[string]struct {
		txn  mvcc.TxnRequest
		want bool
	}{
		"a change":                 {mvcc.TxnRequest{If: []mvcc.Compare{at("a", 7)}, Then: []mvcc.Op{put}, Else: []mvcc.Op{get}}, true},
		"a removal":                {mvcc.TxnRequest{If: []mvcc.Compare{at("b", 3), at("a", 7)}, Then: []mvcc.Op{get, remove}}, true},
		"no guard":                 {mvcc.TxnRequest{Then: []mvcc.Op{put}}, false},
		"a new key":                {mvcc.TxnRequest{If: []mvcc.Compare{at("a", 0)}, Then: []mvcc.Op{put}}, false},
		"a new key, by creation":   {mvcc.TxnRequest{If: []mvcc.Compare{mvcc.Absent("a")}, Then: []mvcc.Op{put}}, false},
		"guarded by another key":   {mvcc.TxnRequest{If: []mvcc.Compare{at("b", 7)}, Then: []mvcc.Op{put}}, false},
		"it only reads":            {mvcc.TxnRequest{If: []mvcc.Compare{at("a", 7)}, Then: []mvcc.Op{get}}, false},
		"another relation":         {mvcc.TxnRequest{If: []mvcc.Compare{{Key: "a", Target: mvcc.TargetMod, Relation: mvcc.Greater, Number: 7}}, Then: []mvcc.Op{put}}, false},
		"by version":               {mvcc.TxnRequest{If: []mvcc.Compare{{Key: "a", Target: mvcc.TargetVersion, Number: 7}}, Then: []mvcc.Op{put}}, false},
		"it writes when it cannot": {mvcc.TxnRequest{If: []mvcc.Compare{at("a", 7)}, Then: []mvcc.Op{put}, Else: []mvcc.Op{put}}, false},
		"a range of keys":          {mvcc.TxnRequest{If: []mvcc.Compare{at("a", 7)}, Then: []mvcc.Op{{Kind: mvcc.OpDelete, Key: "a", End: "b"}}}, false},
	} {
		if got := happensOnce(tt.txn); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// TestOnce has each try answer after a time, or never.
func TestOnce(t *testing.T) {
	const never = time.Hour
	type answer struct {
		after time.Duration
		well  bool
		err   error
	}
	for name, tt := range map[string]struct {
		tries []answer
		well  bool
		err   error
		took  time.Duration
		made  int
	}{
		"at once":                      {[]answer{{0, true, nil}}, true, nil, 0, 1},
		"refused at once":              {[]answer{{0, false, nil}}, false, nil, 0, 1},
		"an error at once":             {[]answer{{0, false, io.EOF}}, false, io.EOF, 0, 1},
		"the first is silent":          {[]answer{{never, false, nil}, {0, true, nil}}, true, nil, firstPatience, 2},
		"two are silent":               {[]answer{{never, false, nil}, {never, false, nil}, {0, true, nil}}, true, nil, 3 * firstPatience, 3},
		"the first is slow":            {[]answer{{firstPatience * 3 / 2, true, nil}, {0, false, nil}}, true, nil, firstPatience * 3 / 2, 2},
		"refused, and no other answer": {[]answer{{never, false, nil}, {0, false, nil}, {0, false, nil}}, false, mvcc.ErrUnavailable, 5 * time.Second, 3},
		"both are refused":             {[]answer{{firstPatience * 3 / 2, false, nil}, {0, false, nil}}, false, nil, firstPatience * 3 / 2, 2},
		"an error, then an answer":     {[]answer{{never, false, nil}, {0, false, io.EOF}, {0, true, nil}}, true, nil, 3 * firstPatience, 3},
		"an error, then refused":       {[]answer{{firstPatience * 3 / 2, false, io.EOF}, {firstPatience, false, nil}}, false, mvcc.ErrUnavailable, 2 * firstPatience, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				var tries atomic.Int32
				began := time.Now()
				got, err := once(ctx, func(well bool) bool { return well }, func(ctx context.Context) (bool, error) {
					a := tt.tries[tries.Add(1)-1]
					select {
					case <-time.After(a.after):
						return a.well, a.err
					case <-ctx.Done():
						return false, ctx.Err()
					}
				})
				made := int(tries.Load())
				if got != tt.well || !errors.Is(err, tt.err) || made != tt.made || time.Since(began) != tt.took {
					t.Errorf("%v, %v after %d tries and %v; want %v, %v, %d, %v", got, err, made, time.Since(began), tt.well, tt.err, tt.made, tt.took)
				}
			})
		})
	}
}
