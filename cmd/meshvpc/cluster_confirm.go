package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func (p *program) clusterConfirmCommand() *cli.Command {
	return p.verb("confirm", "", "have the hosts follow a store that was restored", append(storeFlags(),
		&cli.StringSliceFlag{Name: "dark", Usage: "`NODE` that is not heard from, and may follow when it comes back"},
		yesFlag(),
	), p.withStore(p.clusterConfirm))
}

// confirmReport is `cluster confirm -o json`.
type confirmReport struct {
	Era       int64    `json:"era"`
	Confirmed bool     `json:"confirmed"` // false: there was nothing to confirm
	Dark      []string `json:"dark,omitempty"`
	Changes   []string `json:"changes,omitempty"`
}

// clusterConfirm shows what hosts will do and lets them. Each that is not heard
// from has to be named: it may be one that the store has forgotten to expect.
func (p *program) clusterConfirm(ctx context.Context, c *cli.Context, s *session) error {
	v, err := s.read(ctx, nil, cluster.KeyConfig, cluster.PrefixNodes, cluster.PrefixLive, cluster.PrefixVPCs, cluster.PrefixStat)
	if err != nil {
		return err
	}
	it, ok := store.At[*cluster.Config](v, cluster.KeyConfig)
	if !ok {
		return failed("see it by \"meshvpc get config\"", "confirm store: it holds no readable config")
	}
	r := confirmReport{Era: it.Value.Era, Changes: changesBy(v)}
	if !it.Value.Unconfirmed() {
		return p.print(c, confirmReport{Era: r.Era}, func(w io.Writer) { fmt.Fprintf(w, "era %d needs no confirmation\n", r.Era) })
	}
	if r.Dark, err = darkNodes(silentNodes(v), c.StringSlice("dark")); err != nil {
		return err
	}
	for _, change := range r.Changes {
		fmt.Fprintln(p.err, change)
	}
	if err := p.confirmBy(c, "the era", fmt.Sprint(r.Era), "hosts keep their network as it is"); err != nil {
		return err
	}
	var change store.Change
	it.Value.ConfirmedEra = r.Era
	store.Put(&change, it, it.Value)
	if err := s.commit(ctx, change); err != nil {
		return err
	}
	r.Confirmed = true
	return p.print(c, r, func(w io.Writer) { fmt.Fprintf(w, "hosts follow the store of era %d now\n", r.Era) })
}

// silentNodes are those whose agents are not heard from since the restore, which
// took all signs of life away.
func silentNodes(v *store.View) (silent []string) {
	for it := range store.Below[*cluster.Node](v, cluster.PrefixNodes) {
		if n := it.Value; n.Agent && n.State != cluster.NodeLeft && !v.Has(cluster.KeyLive(last(it.Key))) {
			silent = append(silent, last(it.Key))
		}
	}
	return silent
}

// darkNodes wants the silent nodes named, and no other.
func darkNodes(silent, named []string) ([]string, error) {
	for _, n := range named {
		if !slices.Contains(silent, n) {
			return nil, usage("name those that are not heard from: "+few(silent), "node %q is heard from, or is none", clean(n))
		}
	}
	unnamed := slices.DeleteFunc(slices.Clone(silent), func(n string) bool { return slices.Contains(named, n) })
	if len(unnamed) > 0 {
		return nil, notSo("start their agents and see that they reach this store; those that are gone: --dark "+strings.Join(unnamed, " --dark "),
			"confirm store: not heard from since the restore: %s", few(unnamed))
	}
	return silent, nil
}

// changesBy is what hosts that are heard from have and the records do not.
func changesBy(v *store.View) (changes []string) {
	for it := range store.Below[*cluster.VPCStatus](v, cluster.PrefixStat) {
		k, err := cluster.ParseKey(it.Key)
		if err != nil || it.Value.State == cluster.HostLeft || !v.Has(cluster.KeyLive(k.Node)) {
			continue
		}
		if !v.Has(cluster.KeyVPCSpec(k.VPC)) {
			changes = append(changes, fmt.Sprintf("%s keeps VPC %s, which no record tells of", k.Node, k.VPC))
			continue
		}
		for _, l := range it.Value.Links {
			if !v.Has(cluster.KeyMember(k.VPC, l.Peer)) {
				changes = append(changes, fmt.Sprintf("%s drops its link to %s in VPC %s: that is no member in the records", k.Node, l.Peer, k.VPC))
			}
		}
	}
	return changes
}
