package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
	"github.com/meshvpc/meshvpc/cluster/membership/voters"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func (p *program) clusterCommand() *cli.Command {
	return p.noun("cluster", "make a cluster, join it, look at its store",
		[]string{
			"meshvpc cluster init --datacenter skynet",
			"meshvpc cluster init --datacenter skynet --name jhoster1 --underlay 192.168.1.5=203.0.113.7",
			"meshvpc cluster init --datacenter skynet --engine external --endpoints https://etcd1:2379,https://etcd2:2379 --cacert etcd-ca.crt --cert root.crt --key root.key",
			"meshvpc cluster join 2001:db8::1 --datacenter hetzner --token-file token",
			"meshvpc cluster join 203.0.113.7 --datacenter hetzner --name gold-hoster-01 --underlay eth0 --token - <token",
			"meshvpc cluster token list",
			"meshvpc cluster credential list",
			"meshvpc cluster status",
			"meshvpc cluster members -o json",
			"eval \"$(meshvpc cluster env)\" && etcdctl get --prefix /meshvpc/v1/nodes/",
			"meshvpc cluster env",
			"meshvpc cluster backup /var/backups/cluster.meshvpc",
			"meshvpc cluster backup cluster.meshvpc --passphrase-file /root/passphrase --yes",
			"meshvpc cluster restore cluster.meshvpc --datacenter skynet --underlay 192.168.1.5=203.0.113.7",
			"meshvpc cluster restore cluster.meshvpc --engine external --endpoints https://etcd1:2379 --cacert etcd-ca.crt --cert root.crt --key root.key",
			"meshvpc cluster recover --force-new-cluster",
			"meshvpc cluster confirm --dark gold-hoster-01",
			"meshvpc cluster timings 200ms",
			"meshvpc cluster rotate-ca",
			"meshvpc cluster rotate-ca --leave-behind gold-hoster-01 --yes",
		},
		p.clusterInitCommand(), p.clusterJoinCommand(), p.clusterTokenCommand(), p.clusterCredentialCommand(),
		p.clusterRotateCommand(), p.clusterBackupCommand(), p.clusterRestoreCommand(), p.clusterRecoverCommand(), p.clusterConfirmCommand(),
		p.clusterTimingsCommand(),
		p.verb("status", "", "the store's health: leader, quorum, members", storeFlags(), p.withStore(p.clusterStatus)),
		p.verb("members", "", "list the servers", storeFlags(), p.withStore(p.clusterMembers)),
		p.verb("env", "", "print the environment for etcdctl", []cli.Flag{configFlag(), outputFlag()}, p.clusterEnv),
	)
}

// clusterReport is `cluster status -o json`.
type clusterReport struct {
	Engine   string         `json:"engine"`
	Leader   string         `json:"leader"`
	Quorum   bool           `json:"quorum"`
	Members  []serverReport `json:"members"`
	Warnings []string       `json:"warnings"`
}

type serverReport struct {
	Name       string   `json:"name"`
	Datacenter string   `json:"datacenter"`
	Voter      bool     `json:"voter"`
	Healthy    bool     `json:"healthy"`
	Lag        uint64   `json:"lag"` // log entries behind the leader
	Witness    bool     `json:"witness"`
	Why        string   `json:"why"` // why it votes, or does not
	Endpoints  []string `json:"endpoints"`
	// Timings of its store, as it said; null: it has not.
	Timings    *cluster.Timings `json:"timings"`
	Restarting bool             `json:"restarting"` // its store begins anew
}

func (p *program) clusterStatus(ctx context.Context, c *cli.Context, s *session) error {
	r, err := clusterHealth(ctx, s)
	if err != nil {
		return err
	}
	err = p.print(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "engine: %s\nleader: %s\nquorum: %s\n\n", r.Engine, cmp.Or(r.Leader, "none"), yesNo(r.Quorum))
		serverTable(w, r.Members)
		for _, warning := range r.Warnings {
			fmt.Fprintf(w, "\nwarning: %s\n", warning)
		}
	})
	if err == nil && !r.Quorum {
		return exitCode(exitNotSo)
	}
	return err
}

func (p *program) clusterMembers(ctx context.Context, c *cli.Context, s *session) error {
	r, err := clusterHealth(ctx, s)
	if err != nil {
		return err
	}
	return p.print(c, r.Members, func(w io.Writer) { serverTable(w, r.Members) })
}

func serverTable(w io.Writer, members []serverReport) {
	var rows [][]string
	for _, m := range members {
		kind := "server"
		if m.Witness {
			kind = "witness"
		}
		rows = append(rows, []string{cmp.Or(m.Name, "-"), kind, m.Datacenter, yesNo(m.Voter), yesNo(m.Healthy), fmt.Sprint(m.Lag), m.Why, strings.Join(m.Endpoints, " ")})
	}
	columns(w, []string{"server", "kind", "datacenter", "voter", "healthy", "lag", "why", "endpoints"}, rows)
}

// clusterHealth asks every server for its state. A linearizable read proves
// the quorum.
func clusterHealth(ctx context.Context, s *session) (clusterReport, error) {
	r := clusterReport{Engine: engineEtcd, Members: []serverReport{}, Warnings: []string{}}
	start := "start \"meshvpc server\" on it"
	if s.client.StoreCA != "" {
		r.Engine, start = engineExternal, "see to it: it is a member of your etcd"
	}
	records, _, err := store.List[*cluster.Server](ctx, s.store, cluster.PrefixSrvs)
	switch {
	case cluster.Unreadable(err):
		r.Warnings = append(r.Warnings, "some servers have no datacenter here: "+oneLine(err.Error()))
	case err != nil:
		return r, err
	}
	r.Quorum = true
	known := map[string]*cluster.Server{}
	for _, it := range records {
		known[last(it.Key)] = it.Value
	}
	callCtx, cancel := context.WithTimeout(ctx, s.call)
	defer cancel()
	members, err := s.cli.MemberList(callCtx)
	if err != nil {
		return r, fmt.Errorf("list servers: %w", err)
	}
	applied := map[string]uint64{}
	var newest uint64
	for _, m := range members.Members {
		name := clean(m.Name)
		for n, s := range known {
			if name == "" && slices.Contains(m.PeerURLs, "https://"+s.Peer) { // it has not started yet
				name = n
			}
		}
		status := serverStatus(ctx, s, m.ClientURLs)
		report := serverReport{Name: name, Voter: !m.IsLearner, Healthy: status != nil, Endpoints: m.ClientURLs}
		if record := known[name]; record != nil {
			report.Datacenter, report.Witness, report.Why = clean(record.Datacenter), record.Witness, clean(record.Why)
			report.Timings, report.Restarting = record.Timings, record.Restarting
			delete(known, name)
		}
		if status != nil && status.Leader == m.ID {
			r.Leader = name
		}
		index := uint64(0)
		if status != nil {
			index = status.RaftAppliedIndex
			r.Warnings = append(r.Warnings, diskWarnings(name, status.Errors)...)
		}
		applied[name], newest = index, max(newest, index)
		r.Members = append(r.Members, report)
	}
	if r.Engine == engineExternal {
		clear(known) // none of ours is a member of it
	}
	for _, name := range slices.Sorted(maps.Keys(known)) { // not in the store yet
		s := known[name]
		r.Members = append(r.Members, serverReport{Name: name, Datacenter: clean(s.Datacenter), Witness: s.Witness, Why: clean(s.Why), Endpoints: []string{}})
	}
	slices.SortFunc(r.Members, func(a, b serverReport) int { return cmp.Compare(a.Name, b.Name) })
	for i, m := range r.Members {
		if m.Healthy {
			r.Members[i].Lag = newest - applied[m.Name]
		} else if !m.Voter { // voterWarnings has the others
			r.Warnings = append(r.Warnings, fmt.Sprintf("server %s does not answer: %s", cmp.Or(m.Name, "without a name, which has not started yet,"), start))
		}
	}
	if text, err := trustWarning(ctx, s.store); err != nil {
		r.Warnings = append(r.Warnings, "whether the CA is being replaced cannot be read: "+oneLine(err.Error()))
	} else if text != "" {
		r.Warnings = append(r.Warnings, text)
	}
	for _, warning := range voterWarnings(r.Members) {
		r.Warnings = append(r.Warnings, warning.String())
	}
	return r, nil
}

func serverStatus(ctx context.Context, s *session, urls []string) *clientv3.StatusResponse {
	for _, u := range urls {
		ctx, cancel := context.WithTimeout(ctx, min(s.call, defaultCall/2))
		status, err := s.cli.Status(ctx, u)
		cancel()
		if err == nil {
			return status
		}
	}
	return nil
}

// diskWarnings picks what a server's own errors say of its disk.
func diskWarnings(server string, errs []string) (warnings []string) {
	for _, text := range errs {
		if strings.HasPrefix(text, etcd.ShortOfDisk) {
			warnings = append(warnings, fmt.Sprintf("server %s: %s; see what fills it: \"meshvpc doctor\" there", server, clean(text)))
		}
	}
	return warnings
}

// voterWarnings says what the voters cannot survive.
func voterWarnings(members []serverReport) []voters.Warning {
	var view voters.View
	for _, m := range members {
		role := voters.Learner
		switch {
		case m.Voter:
			role = voters.Voter
		case !m.Healthy && len(m.Endpoints) == 0: // it has a record and is no member, or has not started
			role = voters.Absent
		}
		view.Servers = append(view.Servers, voters.Server{
			Name: cmp.Or(m.Name, "a member that has not started yet"), Datacenter: m.Datacenter, Role: role, Healthy: m.Healthy,
		})
	}
	return voters.Warnings(view)
}

// clusterEnv prints what etcdctl needs to speak to the store. It wants the three
// PEM texts of a client file in files of their own, which are put beside it.
func (p *program) clusterEnv(_ context.Context, c *cli.Context) error {
	path, err := filepath.Abs(clientPath(c.String("config")))
	if err != nil {
		return err
	}
	s, err := openSession(path, 0)
	if err != nil {
		return err
	}
	defer s.cli.Close()
	env := map[string]string{"ETCDCTL_ENDPOINTS": strings.Join(s.cli.Endpoints(), ",")}
	if s.client.CA != "" {
		dir := pemOf(path)
		for name, text := range map[string]string{"ETCDCTL_CACERT": cmp.Or(s.client.StoreCA, s.client.CA), "ETCDCTL_CERT": s.client.Cert, "ETCDCTL_KEY": s.client.Key} {
			env[name] = filepath.Join(dir, strings.ToLower(strings.TrimPrefix(name, "ETCDCTL_")))
			if err := writeFile(env[name], []byte(text)); err != nil {
				return err
			}
		}
	}
	return p.print(c, env, func(w io.Writer) {
		for _, name := range slices.Sorted(maps.Keys(env)) {
			fmt.Fprintf(w, "export %s=%s\n", name, shellWord(env[name]))
		}
	})
}

// pemOf is the directory of a client file's texts.
func pemOf(client string) string { return client + ".pem" }

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:,@%+=-]+$`)

// shellWord writes s so that a shell takes it as it is: endpoints come from
// servers, and what is printed is evaluated.
func shellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// joinHost writes an address as others dial it.
func joinHost(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }
