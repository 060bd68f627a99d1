package external

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster/engine/client"
)

// Errors compared by errors.Is.
var (
	// ErrNotRoot is returned when the etcd does not let the client keep its users.
	ErrNotRoot = errors.New("the certificate's user does not have the role root")
	// ErrShared is returned when authentication is off and others have keys: to
	// switch it on would shut them out.
	ErrShared = errors.New("the etcd has no authentication, and keys of others")
)

// root is the user and the role that etcd wants before authentication.
const root = "root"

// State is what there is in an etcd.
type State struct {
	Enabled bool  // authentication is on
	Records int64 // keys with the prefix
	Others  int64 // all other keys
}

// Look reads the state as root; it may end with ErrNotRoot.
func Look(ctx context.Context, cli *clientv3.Client, prefix string) (s State, err error) {
	status, err := cli.AuthStatus(ctx) // which anybody may
	if err == nil {                    // this only a root
		_, err = client.Judged(ctx, func() (*clientv3.AuthUserListResponse, error) { return cli.UserList(ctx) })
	}
	switch {
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrUserEmpty), errors.Is(err, rpctypes.ErrUserNotFound):
		return s, fmt.Errorf("look at etcd: %w: %w", ErrNotRoot, err)
	case err != nil:
		return s, fmt.Errorf("look at etcd: %w", err)
	}
	s.Enabled = status.Enabled
	all, err := cli.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly())
	if err != nil {
		return s, fmt.Errorf("look at etcd: %w", err)
	}
	ours, err := cli.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return s, fmt.Errorf("look at etcd: %w", err)
	}
	s.Records, s.Others = ours.Count, all.Count-ours.Count
	return s, nil
}

// Enable switches authentication on, with the users root and operator as its
// roots. The users of all others are to be there before. It refuses an etcd of
// which a State says that others use it, by ErrShared.
func Enable(ctx context.Context, cli *clientv3.Client, s State, operator string) error {
	if s.Others > 0 {
		return fmt.Errorf("switch authentication on: %w (%d)", ErrShared, s.Others)
	}
	steps := []step{{do: addRole, role: root}}
	for _, user := range slices.Compact([]string{root, operator}) {
		steps = append(steps, step{do: addUser, user: user}, step{do: giveRole, user: user, role: root})
	}
	for _, st := range steps {
		if err := apply(ctx, cli, st); err != nil {
			return tell(st, err)
		}
	}
	if _, err := cli.AuthEnable(ctx); err != nil {
		return fmt.Errorf("switch authentication on: %w", err)
	}
	return nil
}
