package store

import (
	"fmt"
	"testing"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// BenchmarkViewEvent is one event among n records.
func BenchmarkViewEvent(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var keys []mvcc.KeyValue
			for i := range n {
				keys = append(keys, mvcc.KeyValue{Key: fmt.Sprintf("%sn%06d", prefixLive, i), Value: []byte(live(i)), ModRevision: 2})
			}
			v := NewView()
			v.apply(prefixLive, batch{list: true, keys: keys, rev: 2})
			revision := int64(2)
			b.ReportAllocs()
			for b.Loop() {
				revision++
				kv := keys[int(revision*7919)%n]
				kv.ModRevision = revision
				v.apply(prefixLive, batch{events: []mvcc.Event{{KV: kv}}, rev: revision})
			}
		})
	}
}

// BenchmarkFeedEvent is one event that a feed of n records hears, of which
// another goroutine keeps a clone.
func BenchmarkFeedEvent(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var keys []mvcc.KeyValue
			for i := range n {
				keys = append(keys, mvcc.KeyValue{Key: fmt.Sprintf("%sn%06d", prefixLive, i), Value: []byte(live(i)), ModRevision: 2})
			}
			at := listed(mvcc.Header{Revision: 2}, keys)
			var kept position
			b.ReportAllocs()
			for b.Loop() {
				kv := keys[int(at.Revision*7919)%n]
				kv.ModRevision = at.Revision + 1
				at.heard(mvcc.WatchResponse{Events: []mvcc.Event{{KV: kv}}})
				kept = at.clone()
			}
			_ = kept
		})
	}
}
