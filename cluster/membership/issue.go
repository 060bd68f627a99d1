package membership

import (
	"context"
	"errors"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// issue gives a subject a younger certificate of its key, or an admin one of a
// new user.
func (a *admitter) issue(ctx context.Context, by holderOf, r IssueRequest) ([]byte, error) {
	w, err := requested([]byte(r.Request))
	if err != nil {
		return nil, refusef(CodeInvalid, "%v", err)
	}
	if by.Kind != cluster.SubjectServer {
		r.Addresses = nil
	} else if len(r.Addresses) > maxAddresses || r.User != "" {
		return nil, refusef(CodeInvalid, "this is no request of a server")
	}
	subject := by.Subject
	if r.User == "" {
		err = a.mayRenew(ctx, by, w)
	} else {
		subject, err = a.user(ctx, by, w, r)
	}
	if err != nil {
		return nil, err
	}
	ca, err := a.ca()
	if err != nil {
		return nil, err
	}
	return ca.Issue(w.key, subject, r.Addresses, a.now())
}

var errNotYours = refusef(CodeForbidden, "the certificate is no longer one of this cluster's nodes or users")

// mayRenew: the record still names the asker's key. Another key is for who joins
// again, so that an answer that is lost locks nobody out.
func (a *admitter) mayRenew(ctx context.Context, by holderOf, w wanted) error {
	if err := a.holdsKey(ctx, by); err != nil {
		return err
	}
	if w.hash != by.hash {
		return refusef(CodeInvalid, "a certificate is renewed for the key that it has")
	}
	return nil
}

// holdsKey: the record still names the asker's key.
func (a *admitter) holdsKey(ctx context.Context, by holderOf) error {
	key := ""
	switch by.Kind {
	case cluster.SubjectNode:
		it, err := store.Get[*cluster.Node](ctx, a.store, cluster.KeyNode(by.Name))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err == nil && it.Value.State != cluster.NodeLeft {
			key = it.Value.Key
		}
	case cluster.SubjectUser:
		it, err := store.Get[*cluster.User](ctx, a.store, cluster.KeyUser(by.Name))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err == nil {
			key = it.Value.Key
		}
	case cluster.SubjectServer:
		it, err := a.server(ctx, by)
		if err != nil {
			return err
		}
		key = it.Key
	}
	if key != by.hash {
		return errNotYours
	}
	return nil
}

// user makes a user, which an admin may.
func (a *admitter) user(ctx context.Context, by holderOf, w wanted, r IssueRequest) (cluster.Subject, error) {
	subject := cluster.Subject{Kind: cluster.SubjectUser, Name: r.User}
	admin, err := store.Get[*cluster.User](ctx, a.store, cluster.KeyUser(by.Name))
	switch {
	case by.Kind != cluster.SubjectUser, errors.Is(err, store.ErrNotFound):
		return subject, errNotYours
	case err != nil:
		return subject, err
	case admin.Value.Key != by.hash:
		return subject, errNotYours
	case admin.Value.Role != cluster.UserAdmin:
		return subject, refusef(CodeForbidden, "only an admin makes credentials, and %s is %s", by, admin.Value.Role)
	case cluster.CheckNodeName(r.User) != nil:
		return subject, refusef(CodeInvalid, "invalid name of a user: want 1 to 63 of a-z, 0-9 and -, not beginning or ending with -")
	}
	user := &cluster.User{Role: r.Role, Key: w.hash, Created: cluster.At(a.now()), By: by.String()}
	if err := user.Validate(); err != nil {
		return subject, refusef(CodeInvalid, "%v", err)
	}
	if _, err := store.Get[*cluster.Node](ctx, a.store, cluster.KeyNode(r.User)); !errors.Is(err, store.ErrNotFound) {
		if err == nil {
			err = refusef(CodeTaken, "there is a node of the name %s: choose another", r.User)
		}
		return subject, err
	}
	if _, err := store.Get[*cluster.User](ctx, a.store, cluster.KeyUser(r.User)); !errors.Is(err, store.ErrNotFound) {
		if err == nil {
			err = refusef(CodeTaken, "there is a user of the name %s: revoke that credential first", r.User)
		}
		return subject, err
	}
	if a.external != nil {
		if err := a.external.unused(ctx, subject); err != nil {
			return subject, err
		}
	}
	var change store.Change
	change.Why = "credential of " + r.User
	change.Require(admin.Key, admin.Mod)
	store.Create(&change, cluster.KeyUser(r.User), user)
	note(&change, user.Created, user.By, cluster.Change{Verb: cluster.VerbCreated,
		Key: cluster.Short(cluster.KeyUser(r.User)), Detail: "role " + string(r.Role)})
	_, err = a.store.Commit(ctx, change)
	if errors.Is(err, store.ErrConflict) {
		err = refusef(CodeTaken, "somebody else has just made a credential or changed yours: try again")
	}
	if err == nil && a.external != nil {
		err = a.external.Admit(ctx)
	}
	return subject, err
}
