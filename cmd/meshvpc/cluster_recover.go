package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/backup"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

func (p *program) clusterRecoverCommand() *cli.Command {
	return p.verb("recover", "", "go on with this server's store when most servers are lost for good", []cli.Flag{
		&cli.BoolFlag{Name: "force-new-cluster", Usage: "required: what only the lost servers know is lost with them"},
		yesFlag(), outputFlag(),
	}, p.clusterRecover)
}

// recoverReport is `cluster recover -o json`.
type recoverReport struct {
	Cluster   string   `json:"cluster"`
	ClusterID string   `json:"cluster_id"`
	Revision  int64    `json:"revision"` // the last that this server knew
	Era       int64    `json:"era"`      // from the server's start on
	Node      string   `json:"node"`
	Lost      []string `json:"lost"`  // the servers that are none any more
	Aside     string   `json:"aside"` // where the store of before lies
}

// clusterRecover makes a new store, of this server alone, from the one it has: as
// `cluster restore` does with a backup, so that whoever watched the old one reads
// all anew, and no lost server finds its way back into it.
func (p *program) clusterRecover(ctx context.Context, c *cli.Context) (err error) {
	if !c.Bool("force-new-cluster") {
		return usage("give --force-new-cluster if the other servers are lost for good; if they can be started, start them", "recover cluster: it goes on without what only the lost servers know")
	}
	d := hostDirs()
	var cfg serverConfig
	if err := readConfig(d.server(), &cfg); err != nil {
		return notJoined(err)
	}
	members, err := recoverableStore(cfg)
	if err != nil {
		return err
	}
	if err := mayRecover(cfg.Name, members, answering(ctx, cfg, members)); err != nil {
		return err
	}
	e, err := engineConfig(cfg, d.server())
	if err != nil {
		return err
	}
	e.ClusterToken, e.Logger = randomID(), zap.NewNop()
	dir, err := os.MkdirTemp(d.state, ".recover-*") // of mode 0700
	if err != nil {
		return fmt.Errorf("recover cluster: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	snapshot := filepath.Join(dir, backup.Store)
	if err := etcd.Salvage(ctx, e, snapshot); err != nil {
		return failed("restore a backup instead: meshvpc cluster restore FILE (this server's own are in "+d.snapshots()+")", "recover cluster: %w", err)
	}
	values, m, err := describe(snapshot)
	if err != nil {
		return fmt.Errorf("recover cluster: %w", err)
	}
	r := &restoration{dirs: d, values: values, manifest: m, server: cfg}
	node := record[*cluster.Node](r, cluster.KeyNode(cfg.Name))
	if node == nil || node.State == cluster.NodeLeft {
		return failed("recover on another server", "recover cluster: by its own records node %s is none", cfg.Name)
	}
	report := recoverReport{Cluster: clean(m.Cluster), ClusterID: clean(m.ClusterID), Revision: m.Revision, Era: m.Era + 1,
		Node: cfg.Name, Lost: lostServers(cfg.Name, members), Aside: etcd.Supplanted(e.DataDir)}
	fmt.Fprintf(p.err, "cluster %s goes on with server %s alone, without what only %s knew; these must not come back with their stores\n", report.Cluster, cfg.Name, few(report.Lost))
	if err := p.confirmBy(c, "the cluster's name", report.Cluster, "nothing was changed"); err != nil {
		return err
	}
	r.server.Bootstrap, r.server.Joined = nil, nil // what they are for is in the store
	r.server.Restored = &restored{ClusterID: m.ClusterID, FormerEra: m.Era, Era: report.Era, NodeID: node.ID}
	if err := r.replace(e, snapshot); err != nil {
		return fmt.Errorf("recover cluster: %w", err)
	}
	return p.print(c, report, func(w io.Writer) { tellRecovered(w, report) })
}

// replace puts the new store into the old one's place. What was begun, a second
// recovery ends: it finds the old store where it was put.
func (r *restoration) replace(e etcd.Config, snapshot string) error {
	if err := etcd.Supplant(e.DataDir); err != nil {
		return err
	}
	for _, f := range []file{
		{r.dirs.endpointsFile(), []byte(strings.Join(r.server.endpoints(), "\n") + "\n")},
		{r.dirs.server(), r.server},
	} {
		if err := f.write(); err != nil {
			return err
		}
	}
	return etcd.Restore(e, snapshot)
}

// recoverableStore are the members of this server's store, if it can be the one to
// go on with.
func recoverableStore(cfg serverConfig) ([]etcd.Member, error) {
	if cfg.External != nil || cfg.Engine == engineExternal {
		return nil, failed("recover it by etcd's own means, or restore a backup: meshvpc cluster restore FILE", "recover cluster: the store is an etcd of yours")
	}
	if cfg.Witness {
		return nil, failed("recover on a server that is none; if there is none left, restore a backup on a new host: meshvpc cluster restore FILE",
			"recover cluster: server %s is a witness, which has no CA key and could let nobody in", cfg.Name)
	}
	if _, err := os.Stat(markRemoved(cfg)); err == nil {
		return nil, failed("recover on another server", "recover cluster: server %s was taken out of the cluster", cfg.Name)
	}
	members, err := etcd.StoredMembers(dataDir(cfg))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, failed("recover on a server that has its store, or restore a backup: meshvpc cluster restore FILE", "recover cluster: there is no store in %s", dataDir(cfg))
	case errors.Is(err, etcd.ErrRunning):
		return nil, failed("see first what is wrong (meshvpc cluster status); if most servers are lost for good, stop this one, and recover then", "recover cluster: meshvpc server runs on this host")
	case err != nil:
		return nil, failed("restore a backup instead: meshvpc cluster restore FILE", "recover cluster: %w", err)
	}
	return members, nil
}

// answering are the other members that answer by now, whatever they say.
func answering(ctx context.Context, cfg serverConfig, members []etcd.Member) (names []string) {
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, m := range members {
		if m.Name == cfg.Name || len(m.Clients) == 0 {
			continue
		}
		asking.Go(func() {
			if answers(ctx, cfg, m.Clients) {
				mu.Lock()
				defer mu.Unlock()
				names = append(names, m.Name)
			}
		})
	}
	asking.Wait()
	slices.Sort(names)
	return names
}

func answers(ctx context.Context, cfg serverConfig, urls []string) bool {
	cli, err := client.Dial(client.Config{Endpoints: urls, TLS: membership.Dialer(cfg.TLS.load)})
	if err != nil {
		return false
	}
	defer cli.Close()
	return slices.ContainsFunc(urls, func(u string) bool {
		ctx, cancel := context.WithTimeout(ctx, defaultCall/2)
		defer cancel()
		_, err := cli.Status(ctx, u)
		return err == nil || status.Code(err) == codes.PermissionDenied
	})
}

// mayRecover refuses while the store can still be had: with this server started,
// or without it.
func mayRecover(self string, members []etcd.Member, answer []string) error {
	voters, alive, votes := 0, 0, false
	for _, m := range members {
		if m.Learner {
			continue
		}
		voters++
		if m.Name == self {
			votes = true
		}
		if m.Name == self || slices.Contains(answer, m.Name) {
			alive++
		}
	}
	switch {
	case !votes:
		return failed("recover on a server that has a vote, or restore a backup: meshvpc cluster restore FILE", "recover cluster: server %s has no vote, and may not have caught up", self)
	case 2*alive > voters && voters == 1:
		return failed("start it: meshvpc server", "recover cluster: server %s votes alone, nothing is lost", self)
	case 2*alive > voters:
		return failed("start meshvpc server here, then take out the lost ones: meshvpc node remove NAME", "recover cluster: nothing is lost: %s and this server are most of the %d that vote", few(answer), voters)
	case len(answer) > 0:
		return failed("stop meshvpc server there first, for good: hosts would go on asking it", "recover cluster: %s runs still, with the old store", few(answer))
	}
	return nil
}

func lostServers(self string, members []etcd.Member) []string {
	lost := []string{}
	for _, m := range members {
		if m.Name != self && m.Name != "" {
			lost = append(lost, clean(m.Name))
		}
	}
	return lost
}

func tellRecovered(w io.Writer, r recoverReport) {
	fmt.Fprintf(w, "node %s has the store of cluster %s, alone (revision %d); the one of before is in %s\n", r.Node, r.Cluster, r.Revision, r.Aside)
	fmt.Fprintf(w, "1. start it:   meshvpc server   and   meshvpc agent\n")
	fmt.Fprintf(w, "2. keep meshvpc server stopped on %s: several of them that come back together would go on as the old cluster\n", few(r.Lost))
	fmt.Fprintf(w, "3. hosts keep their network as it is until all are heard from and you say so: meshvpc cluster confirm\n")
	fmt.Fprintf(w, "4. of each lost server, here: meshvpc node remove NAME; if its host comes back, there, one after the other:\n")
	fmt.Fprintf(w, "   meshvpc server (which says that it was removed),   meshvpc node purge,   meshvpc cluster join with a new token\n")
	fmt.Fprintf(w, "5. have several servers again: meshvpc cluster token create --role server\n")
}
