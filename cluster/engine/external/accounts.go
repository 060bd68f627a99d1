package external

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
)

// lookEvery is how often all users and roles are read anew: others may change
// them.
const lookEvery = 10 * time.Minute

// Accounts keeps the users and roles of an etcd. Its client's certificate is one
// of a user with the role root. It is safe for concurrent use.
type Accounts struct {
	cli *clientv3.Client

	mu     sync.Mutex
	have   *cluster.Accounts // nil: not known
	looked time.Time
}

// NewAccounts does nothing yet. The client stays the caller's.
func NewAccounts(cli *clientv3.Client) *Accounts { return &Accounts{cli: cli} }

// Set makes users and roles as want says, and returns how many writes that took.
// What was begun and failed, the next Set ends.
func (a *Accounts) Set(ctx context.Context, want cluster.Accounts) (writes int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.have == nil || time.Since(a.looked) > lookEvery {
		have, err := observe(ctx, a.cli)
		if err != nil {
			return 0, fmt.Errorf("read users of etcd: %w", err)
		}
		a.have, a.looked = &have, time.Now()
	}
	have := *a.have
	a.have = nil // until all is done
	for _, s := range plan(have, want) {
		if err := apply(ctx, a.cli, s); err != nil {
			return writes, tell(s, err)
		}
		writes++
	}
	have = after(have, want)
	a.have = &have
	return writes, nil
}

// Has reports whether there is a user of that name, also one without a role.
func (a *Accounts) Has(ctx context.Context, user string) (bool, error) {
	users, err := client.Judged(ctx, func() (*clientv3.AuthUserListResponse, error) { return a.cli.UserList(ctx) })
	if err != nil {
		return false, fmt.Errorf("read users of etcd: %w", err)
	}
	return slices.Contains(users.Users, user), nil
}

// observe reads the users and roles that are ours to keep.
func observe(ctx context.Context, cli *clientv3.Client) (have cluster.Accounts, err error) {
	have = cluster.Accounts{Users: map[string][]string{}, Roles: map[string][]cluster.Grant{}}
	roles, err := client.Judged(ctx, func() (*clientv3.AuthRoleListResponse, error) { return cli.RoleList(ctx) })
	if err != nil {
		return have, err
	}
	for _, name := range roles.Roles {
		if !cluster.IsAccountRole(name) {
			continue
		}
		role, err := client.Judged(ctx, func() (*clientv3.AuthRoleGetResponse, error) { return cli.RoleGet(ctx, name) })
		if errors.Is(err, rpctypes.ErrRoleNotFound) {
			continue // since the list was read
		}
		if err != nil {
			return have, err
		}
		have.Roles[name] = nil
		for _, p := range role.Perm {
			have.Roles[name] = append(have.Roles[name], cluster.Grant{Key: string(p.Key), End: string(p.RangeEnd), Write: p.PermType == authpb.READWRITE})
		}
	}
	users, err := client.Judged(ctx, func() (*clientv3.AuthUserListResponse, error) { return cli.UserList(ctx) })
	if err != nil {
		return have, err
	}
	for _, name := range users.Users {
		if _, err := cluster.ParseSubject(name); err != nil {
			continue
		}
		user, err := client.Judged(ctx, func() (*clientv3.AuthUserGetResponse, error) { return cli.UserGet(ctx, name) })
		if errors.Is(err, rpctypes.ErrUserNotFound) {
			continue
		}
		if err != nil {
			return have, err
		}
		have.Users[name] = slices.DeleteFunc(user.Roles, func(r string) bool { return !cluster.IsAccountRole(r) })
	}
	return have, nil
}

// before is the answer that says that a step was done before, nil if there is none.
func before(do verb) error {
	switch do {
	case takeRole:
		return rpctypes.ErrRoleNotGranted
	case takeGrant:
		return rpctypes.ErrPermissionNotGranted
	case deleteRole:
		return rpctypes.ErrRoleNotFound
	case addRole:
		return rpctypes.ErrRoleAlreadyExist
	case addUser:
		return rpctypes.ErrUserAlreadyExist
	}
	return nil
}

func apply(ctx context.Context, cli *clientv3.Client, s step) error {
	_, err := client.Judged(ctx, func() (_ struct{}, err error) {
		switch s.do {
		case takeRole:
			_, err = cli.UserRevokeRole(ctx, s.user, s.role)
		case takeGrant:
			_, err = cli.RoleRevokePermission(ctx, s.role, s.grant.Key, s.grant.End)
		case deleteRole:
			_, err = cli.RoleDelete(ctx, s.role)
		case addRole:
			_, err = cli.RoleAdd(ctx, s.role)
		case giveGrant:
			may := clientv3.PermissionType(clientv3.PermRead)
			if s.grant.Write {
				may = clientv3.PermissionType(clientv3.PermReadWrite)
			}
			_, err = cli.RoleGrantPermission(ctx, s.role, s.grant.Key, s.grant.End, may)
		case addUser: // without a password: its certificate says who it is
			_, err = cli.UserAddWithOptions(ctx, s.user, "", &clientv3.UserAddOptions{NoPassword: true})
		case giveRole:
			_, err = cli.UserGrantRole(ctx, s.user, s.role)
		}
		return struct{}{}, err
	})
	if known := before(s.do); known != nil && errors.Is(rpctypes.Error(err), known) {
		return nil
	}
	return err
}
