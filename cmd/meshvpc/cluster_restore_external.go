package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// move has the server of this host go on with another engine: theirs, or for nil
// an etcd of its own.
func (r *restoration) move(theirs *externalConfig) error {
	r.moved = true
	if theirs != nil {
		advertise := r.server.Advertise
		if r.server.External == nil {
			advertise = elsewhere{}.joins(advertise)
		}
		r.server.use(theirs, advertise)
		return nil
	}
	if r.server.External == nil {
		return nil // it is one already
	}
	var at [2]netip.AddrPort
	for i, list := range [][]string{r.server.ListenJoin, r.server.Advertise} {
		parsed, err := parseListen(r.dirs.server(), "listen_join, advertise", list)
		if err != nil {
			return err
		}
		if len(parsed) == 0 {
			return failed("mend that file", "read config %s: listen_join and advertise are required", r.dirs.server())
		}
		at[i] = parsed[0]
	}
	beside := func(a netip.AddrPort, port uint16) []string {
		return []string{joinHost(a.Addr(), a.Port()-joinPort+port)}
	}
	own := newServerConfig(r.dirs, r.server.Name, r.server.Datacenter, at[0].Addr(), at[1].Addr())
	own.Listen, own.Advertise, own.ListenPeers = beside(at[0], clientPort), beside(at[1], clientPort), beside(at[0], peerPort)
	own.TLS, own.LogLevel, own.ListenJoin = r.server.TLS, r.server.LogLevel, r.server.ListenJoin
	own.TLS.StoreCA = ""
	r.server = own
	return nil
}

// applyExternal puts the records of the backup, as the restore changes them, into
// an external etcd, and writes the files. The record config comes last: without
// it no server starts, and no host does anything.
func (r *restoration) applyExternal(ctx context.Context) error {
	values, err := r.changed(ctx)
	if err != nil {
		return err
	}
	cli, err := r.server.External.dial(nil)
	if err != nil {
		return err
	}
	defer cli.Close()
	for _, f := range append(r.files, file{r.dirs.server(), r.server}) {
		if err := f.write(); err != nil {
			return err
		}
	}
	kv := client.New(cli)
	for _, ops := range batches(values) {
		call, cancel := context.WithTimeout(ctx, defaultCall)
		_, err := kv.Txn(call, mvcc.TxnRequest{Then: ops})
		cancel()
		if err != nil {
			return failed("delete what was written (etcdctl del --prefix "+cluster.Root+") and restore again", "restore cluster: write records: %w", err)
		}
	}
	return nil
}

// changed is what the store of the backup is after the first start of a server: it
// has the new era before any host can see it.
func (r *restoration) changed(ctx context.Context) (map[string][]byte, error) {
	memory := mvcc.NewMemory(mvcc.Config{})
	for _, ops := range batches(r.values) {
		if _, err := memory.Txn(ctx, mvcc.TxnRequest{Then: ops}); err != nil {
			return nil, fmt.Errorf("restore cluster: %w", err)
		}
	}
	if err := applyRestored(ctx, memory, r.server, r.now.Time, zap.NewNop()); err != nil {
		return nil, err
	}
	all, err := memory.Range(ctx, mvcc.Prefix(cluster.Root))
	if err != nil {
		return nil, fmt.Errorf("restore cluster: %w", err)
	}
	values := map[string][]byte{}
	for _, kv := range all.Keys {
		values[kv.Key] = kv.Value
	}
	return values, nil
}

// maxBatch is how many bytes are written in one transaction; etcd takes 1.5 MiB.
const maxBatch = 1 << 20

// batches are transactions that write values, the record config the last.
func batches(values map[string][]byte) (list [][]mvcc.Op) {
	var ops []mvcc.Op
	size := 0
	put := func(key string) {
		if len(ops) == mvcc.MaxTxnOps || size+len(values[key]) > maxBatch && len(ops) > 0 {
			list, ops, size = append(list, ops), nil, 0
		}
		ops, size = append(ops, mvcc.Put(key, values[key])), size+len(key)+len(values[key])
	}
	var keys []string
	for key := range values {
		if key != cluster.KeyConfig {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		put(key)
	}
	if len(ops) > 0 {
		list, ops = append(list, ops), nil
	}
	if _, ok := values[cluster.KeyConfig]; ok {
		size = 0
		put(cluster.KeyConfig)
		list = append(list, ops)
	}
	return list
}
