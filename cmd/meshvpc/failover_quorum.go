package main

import (
	"fmt"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/document"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// An endpoint that is to leave a datacenter by itself needs somebody who decides that
// without it. Where a datacenter has half of the voting servers or more, a new endpoint
// that counts on its loss is refused: nobody learns in peace that it would not work.
// One that there is already goes on to move when a node is lost, or another datacenter,
// which is worth having; so it is left as it is, and `status` is degraded until there is
// a witness. `apply` warns, too: it restores what was, and a file has no --force.

// quorumOf counts the servers in a view.
func quorumOf(v *store.View) (q cluster.Quorum) {
	for it := range store.Below[*cluster.Server](v, cluster.PrefixSrvs) {
		q.Add(it.Value)
	}
	return q
}

// strandedText says what the loss of a datacenter would mean for whoever is to leave it.
func strandedText(q *cluster.Quorum, dc string) string {
	all, there := q.Voters(dc)
	return fmt.Sprintf("%d of %d voting servers are in %s: if that datacenter is lost, nobody is left to decide, and nothing leaves it by itself", there, all, dc)
}

// strandedMend says what to add.
func strandedMend(q *cluster.Quorum) string {
	switch q.Sites() {
	case 0, 1:
		return "add a server in another datacenter and a witness in a third: meshvpc cluster token create --role server, and --role witness"
	case 2:
		return "add a witness in a third datacenter: meshvpc cluster token create --role witness"
	}
	return "there are servers in three datacenters, why they do not vote evenly: meshvpc cluster members"
}

// mayFail refuses a new endpoint that counts on the loss of a datacenter which nobody
// could decide after.
func mayFail(v *store.View, name string, f *cluster.Failover) error {
	q := quorumOf(v)
	stranded := q.Stranded(f.Place, nodesOf(v))
	if len(stranded) == 0 {
		return nil
	}
	return failed(strandedMend(&q)+"; or --force: it still moves when a node is lost, or another datacenter",
		"create endpoint %q: %s", name, strandedText(&q, stranded[0]))
}

// stranded are the datacenters that some endpoint would not leave by itself, sorted.
func stranded(v *store.View, q *cluster.Quorum) (dcs []string) {
	nodes := nodesOf(v)
	for _, e := range endpointsOf(v, (*endpointRecords).moves) {
		dcs = append(dcs, q.Stranded(e.spec.Failover.Place, nodes)...)
	}
	slices.Sort(dcs)
	return slices.Compact(dcs)
}

// judgeQuorum finds that endpoints count on the loss of a datacenter that has most of
// the votes.
func (r *statusReport) judgeQuorum(v *store.View) {
	q := quorumOf(v)
	for _, dc := range stranded(v, &q) {
		r.add("failover: "+strandedText(&q, dc), strandedMend(&q))
	}
}

// warnStranded tells of new endpoints of a file that mayFail would refuse.
func (a *application) warnStranded() {
	q, nodes := quorumOf(a.view), nodesOf(a.view)
	told := map[string]bool{}
	for _, step := range a.steps {
		if step.Action != document.Create || step.Endpoint == nil {
			continue
		}
		for _, dc := range q.Stranded(step.Endpoint.Failover.Place, nodes) {
			if !told[dc] {
				a.warn("%s; %s", strandedText(&q, dc), strandedMend(&q))
			}
			told[dc] = true
		}
	}
}
