package external

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
)

// page is how many records are read at once.
const page = 500

// Save writes the records below a prefix, as they were at one moment, to a new
// file in the format of etcd's snapshots. A snapshot of the etcd itself would hold
// its users, and what others keep there.
func Save(ctx context.Context, cli *clientv3.Client, prefix, path string) error {
	records, err := read(ctx, cli, prefix)
	if err != nil {
		return fmt.Errorf("read records: %w", err)
	}
	return etcd.WriteSnapshot(path, records)
}

func read(ctx context.Context, cli *clientv3.Client, prefix string) (records []*mvccpb.KeyValue, err error) {
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	var revision int64
	for {
		answer, err := client.Judged(ctx, func() (*clientv3.GetResponse, error) {
			return cli.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(revision))
		})
		if err != nil {
			return nil, err
		}
		records = append(records, answer.Kvs...)
		if !answer.More {
			return records, nil
		}
		if revision == 0 { // of the first page, for all that follow
			revision = answer.Header.Revision
		}
		from = string(records[len(records)-1].Key) + "\x00"
	}
}
