package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/backup"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
	"github.com/meshvpc/meshvpc/cluster/engine/external"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func (p *program) clusterBackupCommand() *cli.Command {
	return p.verb("backup", "FILE", "write the store and the cluster's CA into one file, while all runs", append(storeFlags(),
		passphraseFlag(),
		&cli.BoolFlag{Name: "no-ca", Usage: "leave out the CA's key, which alone can make the certificates of a restored cluster"},
		&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "replace a file that is there"},
	), p.withStore(p.clusterBackup))
}

// backupReport is `cluster backup -o json`.
type backupReport struct {
	File      string    `json:"file"`
	Cluster   string    `json:"cluster"`
	ClusterID string    `json:"cluster_id"`
	Revision  int64     `json:"revision"`
	Bytes     int64     `json:"bytes"` // of the store
	CAKey     bool      `json:"ca_key"`
	Time      time.Time `json:"time"`
}

func (p *program) clusterBackup(ctx context.Context, c *cli.Context, s *session) error {
	path := c.Args().First()
	if _, err := os.Lstat(path); err == nil && !c.Bool("yes") {
		return backupExists(path)
	}
	parts := []backup.Part{{Name: backup.CA, Text: []byte(s.client.CA)}}
	if s.client.CA == "" {
		return failed("use an admin's client file", "back up cluster: this client file has no CA")
	}
	if !c.Bool("no-ca") {
		ca, err := caOfHost(s.client.credential())
		if err != nil {
			return err
		}
		sealed, err := p.sealCA(c, ca)
		if err != nil {
			return err
		}
		parts[0].Text = ca.CertPEM()
		parts = append(parts, backup.Part{Name: backup.CAKey, Text: sealed})
	}
	m, err := backupStore(ctx, s, path, p.now(), parts, c.Bool("yes"))
	switch {
	case errors.Is(err, backup.ErrExists):
		return backupExists(path)
	case err != nil:
		return fmt.Errorf("back up cluster: %w", err)
	}
	r := backupReport{File: path, Cluster: clean(m.Cluster), ClusterID: clean(m.ClusterID), Revision: m.Revision, Bytes: m.Parts[backup.Store].Size,
		CAKey: !c.Bool("no-ca"), Time: m.Time}
	return p.print(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "cluster %s at revision %d is in %s (%d KiB), read back and whole\n", r.Cluster, r.Revision, path, r.Bytes>>10)
		if r.CAKey {
			fmt.Fprintf(w, "the CA's key is in it under the passphrase; who has both is master of the cluster: keep them apart\n")
		} else {
			fmt.Fprintf(w, "the CA's key is not in it: without a copy of a server's ca.key no certificate of this cluster can be made any more\n")
		}
		fmt.Fprintf(w, "restore by: meshvpc cluster restore %s\n", path)
	})
}

func backupExists(path string) error {
	return failed("name another file, or replace it by --yes", "back up cluster: %s exists", path)
}

// caOfHost is the CA of the cluster that a client file is for, from the files of
// the server on this host.
func caOfHost(operator membership.Credential) (*membership.CA, error) {
	const hint = "run it on a host with a server, or leave the key out by --no-ca"
	var cfg serverConfig
	switch err := readConfig(hostDirs().server(), &cfg); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, failed(hint, "back up cluster: the CA's key is not on this host: it has no server")
	case err != nil:
		return nil, err
	}
	ca, err := cfg.TLS.loadCA()
	if err != nil {
		return nil, failed(hint, "back up cluster: %w", err)
	}
	if !membership.SharesCA(operator.CA, ca.CertPEM()) {
		return nil, failed("name the client file of the cluster that this host's server is of", "back up cluster: the client file is for a cluster with another CA than %s", cfg.TLS.CA)
	}
	return ca, nil
}

// sealCA is the CA's key under a passphrase.
func (p *program) sealCA(c *cli.Context, ca *membership.CA) ([]byte, error) {
	passphrase, err := p.passphrase(c, true)
	if err != nil {
		return nil, err
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return nil, err
	}
	return backup.Seal(key, passphrase, ca.CertPEM())
}

// backupStore adds the snapshot of the first server that answers to the parts,
// and writes them.
func backupStore(ctx context.Context, s *session, path string, now time.Time, parts []backup.Part, replace bool) (backup.Manifest, error) {
	var errs []error
	for _, endpoint := range s.endpoints {
		one := s.client
		one.Endpoints = []string{endpoint}
		t, err := dialSession(one, s.source, s.call)
		if err != nil {
			return backup.Manifest{}, err
		}
		m, err := writeBackup(ctx, t.cli, saverOf(s.client), t.store, path, now, parts, replace)
		t.cli.Close()
		if err == nil || errors.Is(err, backup.ErrExists) {
			return m, err
		}
		errs = append(errs, err)
	}
	return backup.Manifest{}, errors.Join(errs...)
}

// writeBackup writes a backup of the store of the one server that cli is
// connected to. Its answer to a linearizable read shows that it is not behind, so
// what was acknowledged before is in the snapshot.
func writeBackup(ctx context.Context, cli *clientv3.Client, save saver, s *store.Store, path string, now time.Time, parts []backup.Part, replace bool) (m backup.Manifest, err error) {
	_, header, err := s.Read(ctx, cluster.KeyConfig)
	if err != nil {
		return m, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".backup-*") // of mode 0700
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	snapshot := filepath.Join(dir, backup.Store)
	if err := save(ctx, cli, snapshot); err != nil {
		return m, err
	}
	_, m, err = describe(snapshot)
	if err != nil {
		return m, err
	}
	m.Version, m.Time, m.Revision = version(), cluster.At(now).Time, max(m.Revision, header.Revision)
	return backup.Write(path, m, append(parts, backup.Part{Name: backup.Store, File: snapshot}), replace)
}

// saver writes the store that cli reaches into a new file.
type saver func(ctx context.Context, cli *clientv3.Client, path string) error

// saverOf is how to save the store of a client file.
func saverOf(c clientConfig) saver {
	if c.StoreCA != "" {
		return saveRecords
	}
	return saveSnapshot
}

// saveRecords saves our part of an external etcd.
func saveRecords(ctx context.Context, cli *clientv3.Client, path string) error {
	return external.Save(ctx, cli, cluster.Root, path)
}

// saveSnapshot writes what a server's store holds into a new file.
func saveSnapshot(ctx context.Context, cli *clientv3.Client, path string) error {
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(client.Snapshot(ctx, cli, to), to.Close())
}

// describe reads a snapshot's records, and what a manifest says of them.
func describe(path string) (map[string][]byte, backup.Manifest, error) {
	s, err := etcd.ReadSnapshot(path, cluster.Root)
	if err != nil {
		return nil, backup.Manifest{}, err
	}
	r, err := cluster.Decode(cluster.KeyConfig, s.Values[cluster.KeyConfig])
	cfg, ok := r.(*cluster.Config)
	if err != nil || !ok {
		return nil, backup.Manifest{}, failed("mend the record config first (meshvpc get config)", "read snapshot: it holds no readable config: %w", err)
	}
	return s.Values, backup.Manifest{Cluster: cfg.Cluster, ClusterID: cfg.ID, Era: cfg.Era, Revision: s.Revision}, nil
}
