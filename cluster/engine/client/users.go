package client

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// judgements is how often a call is made that etcd judged by rules which changed
// meanwhile.
const judgements = 10

// Judged calls do again while etcd answers that its users or roles have changed
// since it looked whether the call is allowed: it has done nothing then. That
// happens with an external etcd only.
func Judged[T any](ctx context.Context, do func() (T, error)) (answer T, err error) {
	for range judgements {
		answer, err = do()
		if !errors.Is(rpctypes.Error(err), rpctypes.ErrAuthOldRevision) || ctx.Err() != nil {
			break
		}
	}
	return answer, err
}
