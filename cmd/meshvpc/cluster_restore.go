package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/backup"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
)

func (p *program) clusterRestoreCommand() *cli.Command {
	return p.verb("restore", "FILE", "make this host the server of the cluster that a backup is of", append([]cli.Flag{
		passphraseFlag(),
		&cli.StringFlag{Name: "datacenter", Usage: "`NAME` of the datacenter that this host is in (default: what the backup says of this node)"},
		&cli.StringFlag{Name: "name", Usage: "`NAME` of this node (default: what it is already, else the host's name)"},
		underlayFlag(),
		&cli.Int64Flag{Name: "era", Usage: "the store's new `ERA`, if hosts have seen a later one than the next"},
		outputFlag(),
	}, externalFlags()...), p.clusterRestore)
}

// restoreReport is `cluster restore -o json`.
type restoreReport struct {
	Cluster   string   `json:"cluster"`
	ClusterID string   `json:"cluster_id"`
	Revision  int64    `json:"revision"` // of the backup
	Era       int64    `json:"era"`      // from the server's start on
	Node      string   `json:"node"`
	Endpoints []string `json:"endpoints"`
	Admin     string   `json:"admin,omitempty"` // the client file that was made
}

// clusterRestore makes a store and the files that are not there. The server's
// first start does the rest, see restored.
func (p *program) clusterRestore(ctx context.Context, c *cli.Context) error {
	d := hostDirs()
	f, err := backup.Open(c.Args().First())
	switch {
	case errors.Is(err, backup.ErrDamaged):
		return failed("use another backup, see what is in "+d.snapshots(), "restore cluster: %w", err)
	case errors.Is(err, backup.ErrNewer):
		return failed("update meshvpc on this host", "restore cluster: %w", err)
	case err != nil:
		return fmt.Errorf("restore cluster: %w", err)
	}
	return withSnapshot(d, f, func(snapshot string) error {
		values, m, err := describe(snapshot)
		if err != nil {
			return fmt.Errorf("restore cluster: %w", err)
		}
		r := &restoration{dirs: d, file: f, values: values, manifest: m, now: cluster.At(p.now())}
		if err := r.plan(ctx, c); err != nil {
			return err
		}
		if err := p.certify(c, r); err != nil {
			return err
		}
		if err := r.apply(ctx, snapshot); err != nil {
			return err
		}
		return p.printRestored(c, r)
	})
}

// withSnapshot takes the snapshot out of a backup for as long as do runs.
func withSnapshot(d dirs, f *backup.File, do func(path string) error) (err error) {
	if err := os.MkdirAll(d.state, 0o700); err != nil {
		return fmt.Errorf("restore cluster: %w", err)
	}
	dir, err := os.MkdirTemp(d.state, ".restore-*") // of mode 0700
	if err != nil {
		return fmt.Errorf("restore cluster: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, backup.Store)
	if err := f.ExtractStore(path); err != nil {
		return fmt.Errorf("restore cluster: %w", err)
	}
	return do(path)
}

// restoration is a restore under way.
type restoration struct {
	dirs     dirs
	file     *backup.File
	values   map[string][]byte // of the snapshot, by key
	manifest backup.Manifest   // as the snapshot says
	now      cluster.Time

	server serverConfig
	agent  agentConfig
	isNode bool   // agent.yaml is there
	moved  bool   // from another engine, whose server.yaml is there
	files  []file // to be written, none of which is there
	admin  string // the client file among them
}

// record is one of the snapshot's, nil if there is none that can be read.
func record[T cluster.Record](r *restoration, key string) (none T) {
	if v, err := cluster.Decode(key, r.values[key]); err == nil {
		if t, ok := v.(T); ok {
			return t
		}
	}
	return none
}

// plan decides the host's configuration: what is there stays, the rest is as
// `cluster init` would make it.
func (r *restoration) plan(ctx context.Context, c *cli.Context) error {
	theirs, err := chosenEngine(c)
	if err != nil {
		return err
	}
	err = readConfig(r.dirs.agent(), &r.agent)
	r.isNode = err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch err := readConfig(r.dirs.server(), &r.server); {
	case errors.Is(err, fs.ErrNotExist):
		err = r.planServer(c, theirs)
		if err != nil {
			return err
		}
	case err != nil:
		return err
	case c.IsSet("name") || c.IsSet("datacenter") || c.IsSet("underlay"):
		return usage("leave out --name, --datacenter and --underlay, or change that file", "this host's server is as %s says", r.dirs.server())
	case c.IsSet("engine"):
		if err := r.move(theirs); err != nil {
			return err
		}
	}
	if r.server.External != nil {
		if err := r.server.External.fresh(ctx, "restore cluster"); err != nil {
			return err
		}
	} else if err := etcd.CheckEmpty(dataDir(r.server)); errors.Is(err, etcd.ErrNotEmpty) {
		return failed("stop the server and move that directory away, if the backup is to take its place", "restore cluster: %w", err)
	} else if err != nil {
		return fmt.Errorf("restore cluster: %w", err)
	}
	if r.isNode && r.agent.Node != r.server.Name {
		return failed("give both one name", "restore cluster: this host is node %s in %s, and server %s in %s", r.agent.Node, r.dirs.agent(), r.server.Name, r.dirs.server())
	}
	node := record[*cluster.Node](r, cluster.KeyNode(r.server.Name))
	switch {
	case r.isNode && node != nil && node.ID != r.agent.ID:
		return failed("remove "+r.dirs.agent()+" if this host is to be that node", "restore cluster: in the backup, node %s is another host (id %s)", r.server.Name, clean(node.ID))
	case !r.isNode && node != nil && node.State == cluster.NodeLeft:
		return failed("choose another --name", "restore cluster: in the backup, node %s is removed", r.server.Name)
	case !r.isNode:
		pem := r.dirs.pem(cluster.SubjectNode)
		r.agent = agentConfig{Node: r.server.Name, ID: randomID(), Underlay: c.StringSlice("underlay"), TLS: &pem}
		if node != nil {
			r.agent.ID = node.ID
		}
	}
	if !r.isNode || r.moved {
		r.agent.Endpoints, r.agent.elsewhere = r.server.endpoints(), r.server.elsewhere()
		if r.agent.TLS != nil {
			r.agent.TLS.StoreCA = r.server.TLS.StoreCA
		}
		r.files = append(r.files, file{r.dirs.agent(), r.agent})
	}
	era := max(r.manifest.Era+1, c.Int64("era"))
	r.server.Bootstrap, r.server.Joined = nil, nil // what they are for is in the backup
	r.server.Restored = &restored{ClusterID: r.manifest.ClusterID, FormerEra: r.manifest.Era, Era: era, NodeID: r.agent.ID}
	return nil
}

// planServer is a server where there was none.
func (r *restoration) planServer(c *cli.Context, theirs *externalConfig) error {
	given := c.String("name")
	if given == "" {
		given = r.agent.Node
	}
	name, err := chooseName(given, os.Hostname)
	if err != nil {
		return err
	}
	dc := c.String("datacenter")
	if n := record[*cluster.Node](r, cluster.KeyNode(name)); n != nil && dc == "" {
		dc = n.Datacenter
	} else if dc, err = datacenterOf(c); err != nil {
		return err
	}
	have, err := hostAddresses()
	if err != nil {
		return err
	}
	bind, advertise, err := checkUnderlay(c.StringSlice("underlay"), have)
	if err != nil {
		return err
	}
	r.server = newServerConfig(r.dirs, name, dc, bind, advertise)
	if theirs != nil {
		r.server = newExternalServer(r.dirs, name, dc, bind, advertise, theirs)
	}
	return nil
}

// apply writes server.yaml before the store is there: a server that starts with
// the store finds what is to be done at first. What was begun, a second restore
// ends.
func (r *restoration) apply(ctx context.Context, snapshot string) error {
	if r.server.External != nil {
		return r.applyExternal(ctx)
	}
	cfg, err := engineConfig(r.server, r.dirs.server())
	if err != nil {
		return err
	}
	cfg.ClusterToken, cfg.Logger = randomID(), zap.NewNop()
	if err := os.Remove(r.dirs.endpointsFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("restore cluster: forget the servers there were: %w", err)
	}
	for _, f := range append(r.files, file{r.dirs.server(), r.server}) {
		if err := f.write(); err != nil {
			return err
		}
	}
	return etcd.Restore(cfg, snapshot)
}

func (p *program) printRestored(c *cli.Context, r *restoration) error {
	report := restoreReport{Cluster: clean(r.manifest.Cluster), ClusterID: clean(r.manifest.ClusterID), Revision: r.manifest.Revision,
		Era: r.server.Restored.Era, Node: r.server.Name, Endpoints: r.server.endpoints(), Admin: r.admin}
	return p.print(c, report, func(w io.Writer) {
		fmt.Fprintf(w, "node %s has the store of cluster %s as of %s (revision %d)\n", report.Node, report.Cluster, r.file.Time.Format("2006-01-02 15:04:05 MST"), report.Revision)
		if r.admin != "" {
			fmt.Fprintf(w, "%s is an admin's: keep it to yourself\n", r.admin)
		}
		if r.server.External != nil {
			tellExternal(w, r.server)
		}
		fmt.Fprintf(w, "1. start it:   meshvpc server   and   meshvpc agent\n")
		if r.moved || r.server.External != nil {
			fmt.Fprintf(w, "2. have the other hosts know of it: there, meshvpc cluster join with a new token, which keeps what they are, and restart the agent\n")
		} else {
			fmt.Fprintf(w, "2. if other hosts know servers by other addresses than %s: put it into \"endpoints\" of their agent.yaml and client.yaml\n", cmp.Or(append(report.Endpoints, "")...))
		}
		fmt.Fprintf(w, "3. hosts keep their network as it is until all are heard from and you say so: meshvpc cluster confirm\n")
		fmt.Fprintf(w, "Nodes and users that were removed since the backup are in it: remove them again before that. Tokens open nothing any more.\n")
	})
}
