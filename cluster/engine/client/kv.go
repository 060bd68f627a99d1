package client

import (
	"context"
	"fmt"
	"math"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

type kv struct{ cli *clientv3.Client }

// New gives a client the shape of mvcc.KV. The client stays the caller's.
func New(cli *clientv3.Client) mvcc.KV { return kv{cli} }

// Range implements mvcc.KV.
func (s kv) Range(ctx context.Context, r mvcc.RangeRequest) (mvcc.RangeResponse, error) {
	opts := append(rangeOptions(r.End, r.Limit, r.KeysOnly), clientv3.WithRev(max(r.Revision, 0)))
	if r.CountOnly {
		opts = append(opts, clientv3.WithCountOnly())
	}
	resp, err := again(ctx, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return Judged(ctx, func() (*clientv3.GetResponse, error) { return s.cli.Get(ctx, r.Key, opts...) })
	})
	if err != nil {
		return mvcc.RangeResponse{}, translate(ctx, err)
	}
	answer := mvcc.RangeResponse{Header: header(resp.Header), Keys: keyValues(resp.Kvs), More: resp.More, Count: resp.Count}
	if r.KeysOnly {
		dropLeases(answer.Keys)
	}
	return answer, nil
}

// Txn implements mvcc.KV.
func (s kv) Txn(ctx context.Context, t mvcc.TxnRequest) (mvcc.TxnResponse, error) {
	cmps := make([]clientv3.Cmp, 0, len(t.If))
	for _, c := range t.If {
		cmp, err := compare(c)
		if err != nil {
			return mvcc.TxnResponse{}, err
		}
		cmps = append(cmps, cmp)
	}
	then, err := operations(t.Then)
	if err != nil {
		return mvcc.TxnResponse{}, err
	}
	or, err := operations(t.Else)
	if err != nil {
		return mvcc.TxnResponse{}, err
	}
	commit := func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return Judged(ctx, func() (*clientv3.TxnResponse, error) {
			return s.cli.Txn(ctx).If(cmps...).Then(then...).Else(or...).Commit()
		})
	}
	var resp *clientv3.TxnResponse
	if happensOnce(t) {
		resp, err = once(ctx, func(r *clientv3.TxnResponse) bool { return r.Succeeded }, commit)
	} else {
		resp, err = commit(ctx)
	}
	if err != nil {
		return mvcc.TxnResponse{}, translate(ctx, err)
	}
	answer := mvcc.TxnResponse{Header: header(resp.Header), Succeeded: resp.Succeeded}
	ran := t.Else
	if resp.Succeeded {
		ran = t.Then
	}
	for i, r := range resp.Responses {
		answer.Responses = append(answer.Responses, response(r))
		if ran[i].KeysOnly {
			dropLeases(answer.Responses[i].Keys)
		}
	}
	return answer, nil
}

// Grant implements mvcc.KV.
func (s kv) Grant(ctx context.Context, ttl time.Duration) (mvcc.LeaseID, time.Duration, error) {
	resp, err := s.cli.Grant(ctx, max(1, int64(math.Ceil(ttl.Seconds()))))
	if err != nil {
		return 0, 0, translate(ctx, err)
	}
	return mvcc.LeaseID(resp.ID), time.Duration(resp.TTL) * time.Second, nil
}

// KeepAlive implements mvcc.KV.
func (s kv) KeepAlive(ctx context.Context, id mvcc.LeaseID) (time.Duration, error) {
	resp, err := again(ctx, func(ctx context.Context) (*clientv3.LeaseKeepAliveResponse, error) {
		return s.cli.KeepAliveOnce(ctx, clientv3.LeaseID(id))
	})
	if err != nil {
		return 0, translate(ctx, err)
	}
	return time.Duration(resp.TTL) * time.Second, nil
}

// Revoke implements mvcc.KV.
func (s kv) Revoke(ctx context.Context, id mvcc.LeaseID) error {
	_, err := again(ctx, func(ctx context.Context) (*clientv3.LeaseRevokeResponse, error) {
		return s.cli.Revoke(ctx, clientv3.LeaseID(id))
	})
	return translate(ctx, err)
}

func rangeOptions(end string, limit int64, keysOnly bool) []clientv3.OpOption {
	opts := []clientv3.OpOption{clientv3.WithLimit(limit)}
	if end != "" {
		opts = append(opts, clientv3.WithRange(end))
	}
	if keysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	return opts
}

func operations(ops []mvcc.Op) ([]clientv3.Op, error) {
	list := make([]clientv3.Op, 0, len(ops))
	for _, op := range ops {
		switch op.Kind {
		case mvcc.OpRange:
			list = append(list, clientv3.OpGet(op.Key, rangeOptions(op.End, op.Limit, op.KeysOnly)...))
		case mvcc.OpPut:
			list = append(list, clientv3.OpPut(op.Key, string(op.Value), clientv3.WithLease(clientv3.LeaseID(op.Lease))))
		case mvcc.OpDelete:
			var opts []clientv3.OpOption
			if op.End != "" {
				opts = append(opts, clientv3.WithRange(op.End))
			}
			list = append(list, clientv3.OpDelete(op.Key, opts...))
		default:
			return nil, fmt.Errorf("build transaction: operation %d is unknown", op.Kind)
		}
	}
	return list, nil
}

func compare(c mvcc.Compare) (clientv3.Cmp, error) {
	relations := [...]string{mvcc.Equal: "=", mvcc.Greater: ">", mvcc.Less: "<", mvcc.NotEqual: "!="}
	if int(c.Relation) >= len(relations) {
		return clientv3.Cmp{}, fmt.Errorf("build transaction: relation %d is unknown", c.Relation)
	}
	relation := relations[c.Relation]
	switch c.Target {
	case mvcc.TargetVersion:
		return clientv3.Compare(clientv3.Version(c.Key), relation, c.Number), nil
	case mvcc.TargetCreate:
		return clientv3.Compare(clientv3.CreateRevision(c.Key), relation, c.Number), nil
	case mvcc.TargetMod:
		return clientv3.Compare(clientv3.ModRevision(c.Key), relation, c.Number), nil
	case mvcc.TargetValue:
		return clientv3.Compare(clientv3.Value(c.Key), relation, string(c.Value)), nil
	case mvcc.TargetLease:
		return clientv3.Compare(clientv3.LeaseValue(c.Key), relation, c.Number), nil
	}
	return clientv3.Cmp{}, fmt.Errorf("build transaction: compare target %d is unknown", c.Target)
}

func header(h *etcdserverpb.ResponseHeader) mvcc.Header {
	return mvcc.Header{ClusterID: h.GetClusterId(), Revision: h.GetRevision()}
}

func response(r *etcdserverpb.ResponseOp) mvcc.OpResponse {
	if got := r.GetResponseRange(); got != nil {
		return mvcc.OpResponse{Keys: keyValues(got.Kvs), Count: got.Count, More: got.More}
	}
	return mvcc.OpResponse{Deleted: r.GetResponseDeleteRange().GetDeleted()}
}

func keyValues(kvs []*mvccpb.KeyValue) []mvcc.KeyValue {
	if len(kvs) == 0 {
		return nil
	}
	list := make([]mvcc.KeyValue, 0, len(kvs))
	for _, kv := range kvs {
		list = append(list, keyValue(kv))
	}
	return list
}

func keyValue(kv *mvccpb.KeyValue) mvcc.KeyValue {
	return mvcc.KeyValue{
		Key:            string(kv.Key),
		Value:          kv.Value,
		CreateRevision: kv.CreateRevision,
		ModRevision:    kv.ModRevision,
		Version:        kv.Version,
		Lease:          mvcc.LeaseID(kv.Lease),
	}
}

// dropLeases makes keys-only answers alike: etcd before 3.7 gives leases.
func dropLeases(kvs []mvcc.KeyValue) {
	for i := range kvs {
		kvs[i].Lease = 0
	}
}
