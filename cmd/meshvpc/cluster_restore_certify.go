package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/backup"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

// certify has the CA certify what has no certificate on this host.
func (p *program) certify(c *cli.Context, r *restoration) error {
	ca, err := p.caOfBackup(c, r)
	if err != nil {
		return err
	}
	addresses, err := serverAddresses(r.server)
	if err != nil {
		return err
	}
	for _, x := range []struct {
		subject cluster.Subject
		keep    *pemFiles
	}{{serverSubject(r.server), &r.server.TLS}, {cluster.Subject{Kind: cluster.SubjectNode, Name: r.agent.Node}, r.agent.TLS}} {
		if x.keep == nil {
			continue // an agent that speaks in the clear
		}
		has, err := x.keep.load()
		if errors.Is(err, fs.ErrNotExist) {
			if has, err = ca.Credential(x.subject, addresses, r.now.Time); err == nil {
				r.files = append(r.files, file{x.keep.CA, has.CA}, file{x.keep.Cert, has.Cert}, file{x.keep.Key, has.Key})
			}
		}
		if err != nil {
			return fmt.Errorf("restore cluster: %w", err)
		}
		if x.subject.Kind == cluster.SubjectNode {
			if r.server.Restored.NodeKey, err = has.KeyHash(); err != nil {
				return fmt.Errorf("restore cluster: %w", err)
			}
		}
	}
	return r.certifyAdmin(ca)
}

// certifyAdmin makes a client file for the first admin. If the host's own is there,
// that will do if it is an admin's, else another admin is made beside it.
func (r *restoration) certifyAdmin(ca *membership.CA) error {
	var has clientConfig
	name := firstAdmin
	err := readConfig(r.dirs.client(), &has)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.admin = r.dirs.client()
	case err != nil || !r.isAdmin(has.credential()):
		name = "restored-admin"
		r.admin = filepath.Join(r.dirs.config, name+".yaml")
	case r.moved:
		mine := has.credential()
		mine.StoreCA = nil
		as, err := clientOf(r.server, mine)
		r.files = append(r.files, file{r.dirs.client(), as})
		return err
	default:
		return nil
	}
	credential, err := ca.Credential(cluster.Subject{Kind: cluster.SubjectUser, Name: name}, nil, r.now.Time)
	if err != nil {
		return err
	}
	key, err := credential.KeyHash()
	if err != nil {
		return err
	}
	r.server.Restored.AdminName = name
	r.server.Restored.Admin = &cluster.User{Role: cluster.UserAdmin, Key: key, Created: r.now, By: "cluster restore"}
	as, err := clientOf(r.server, credential)
	r.files = append(r.files, file{r.admin, as})
	return err
}

func (r *restoration) isAdmin(c membership.Credential) bool {
	s, err := c.Subject()
	if err != nil || s.Kind != cluster.SubjectUser {
		return false
	}
	u := record[*cluster.User](r, cluster.KeyUser(s.Name))
	key, err := c.KeyHash()
	return err == nil && u != nil && u.Role == cluster.UserAdmin && u.Key == key
}

// caOfBackup is the cluster's CA, its key from this host, else from the backup.
func (p *program) caOfBackup(c *cli.Context, r *restoration) (*membership.CA, error) {
	t, cert := r.server.TLS, r.file.Text(backup.CA)
	mine, err := os.ReadFile(t.CA)
	if err == nil && !bytes.Equal(bytes.TrimSpace(mine), bytes.TrimSpace(cert)) {
		return nil, failed("restore on a host of that cluster, or on a new one; if the CA was replaced since the backup (cluster rotate-ca), restore one that was made after it", "restore cluster: %s is another CA than the backup's", t.CA)
	}
	key, err := os.ReadFile(t.CAKey)
	switch {
	case err == nil:
		return membership.ReadCA(cert, key)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("restore cluster: %w", err)
	case r.file.Text(backup.CAKey) == nil:
		return nil, failed("copy that file from a server of the cluster, or use a backup that has the key", "restore cluster: the backup is without the CA's key, and there is no %s", t.CAKey)
	}
	passphrase, err := p.passphrase(c, false)
	if err != nil {
		return nil, err
	}
	if key, err = backup.Unseal(r.file.Text(backup.CAKey), passphrase, cert); err != nil {
		return nil, failed("give the passphrase that the backup was made with", "restore cluster: open the CA's key: %w", err)
	}
	r.files = append(r.files, file{t.CA, cert}, file{t.CAKey, key})
	return membership.ReadCA(cert, key)
}
