package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// BenchmarkEndpointList is the command as a person runs it, connection and TLS
// included, beside one read of the same keys by a client that is connected.
func BenchmarkEndpointList(b *testing.B) {
	s := startStore(b)
	config := filepath.Join(b.TempDir(), "client.yaml")
	if err := writeConfig(config, newClientConfig([]string{s.endpoint}, s.admin)); err != nil {
		b.Fatal(err)
	}
	const endpoints = 10000
	var ops []mvcc.Op
	put := func(key string, r cluster.Record) {
		value, err := cluster.Encode(r, nil)
		if err != nil {
			b.Fatal(err)
		}
		ops = append(ops, mvcc.Put(key, value))
	}
	commit := func() {
		if _, err := s.kv.Txn(b.Context(), mvcc.TxnRequest{Then: ops}); err != nil {
			b.Fatal(err)
		}
		ops = nil
	}
	for i := range endpoints {
		name := fmt.Sprintf("web-%05d", i)
		put(cluster.KeyEndpointSpec("blue", name), &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true, Created: cluster.At(time.Unix(1800000000, 0))})
		put(cluster.KeyEndpointOwn("blue", name), &cluster.EndpointOwn{State: cluster.OwnAssigned, Node: "jhoster1", Era: 1, Epoch: 2,
			IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 10, byte(i / 250), byte(1 + i%250)})}, MAC: cluster.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}})
		if len(ops) == mvcc.MaxTxnOps || i == endpoints-1 {
			commit()
		}
	}
	list := func() time.Duration {
		began := time.Now()
		if code := newProgram(nil, io.Discard, io.Discard).run(context.Background(), []string{"meshvpc", "endpoint", "list", "--config", config}); code != exitDone {
			b.Fatalf("exit code %d", code)
		}
		return time.Since(began)
	}
	read := func() time.Duration {
		began := time.Now()
		keys, _, err := store.New(s.kv, cluster.Identity{Role: cluster.Operator}).Read(b.Context(), cluster.PrefixVPCs)
		if err != nil || len(keys) != 2*endpoints {
			b.Fatalf("%d keys, %v", len(keys), err)
		}
		return time.Since(began)
	}
	var listed, raw time.Duration
	for b.Loop() {
		listed, raw = listed+list(), raw+read()
	}
	b.ReportMetric(float64(listed.Milliseconds())/float64(b.N), "list-ms/op")
	b.ReportMetric(float64(raw.Milliseconds())/float64(b.N), "read-ms/op")
	b.ReportMetric(float64(listed)/float64(raw), "ratio")
}
