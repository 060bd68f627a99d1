package mvcc

import (
	"fmt"
	"testing"
)

// BenchmarkTxn is a guarded put, as an allocation does it, among n keys.
func BenchmarkTxn(b *testing.B) {
	for _, n := range []int{10, 1000, 100000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := filled(b, n)
			key := fmt.Sprintf("key/%08d", n/2)
			for b.Loop() {
				kv, _ := s.current.Get(key)
				if r, err := s.Txn(TxnRequest{If: []Compare{Unchanged(key, kv.ModRevision)}, Then: []Op{put(key, "y")}}); err != nil || !r.Succeeded {
					b.Fatal(r, err)
				}
			}
		})
	}
}

// BenchmarkClone is a snapshot of n keys, each put at a revision of its own.
func BenchmarkClone(b *testing.B) {
	for _, n := range []int{10, 1000, 100000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := filled(b, n)
			for b.Loop() {
				s.Clone()
			}
		})
	}
}

func filled(b *testing.B, n int) *State {
	b.Helper()
	s := NewState()
	for i := range n {
		if _, err := s.Txn(TxnRequest{Then: []Op{put(fmt.Sprintf("key/%08d", i), "x")}}); err != nil {
			b.Fatal(err)
		}
	}
	return s
}
