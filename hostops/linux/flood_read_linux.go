package linux

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// readBudgets reads what bounds flooding. One that is not whole counts as zero: it is
// made anew, or taken away.
func (f *filter) readBudgets(s *hostops.Filter, chains []*nftables.Chain) error {
	f.floods = map[string]bool{}
	t := bridgeTable()
	f.requests.Add(1)
	sets, err := f.cc.GetSets(t)
	if err != nil {
		return err
	}
	s.Budgets = map[cluster.VNI]hostops.Budget{}
	note := func(name string) {
		for _, prefix := range []string{chainFlood, setHeard, setFlooded} {
			if digits, is := strings.CutPrefix(name, prefix); is {
				if n, err := strconv.ParseUint(digits, 10, 24); err == nil {
					f.floods[name] = true
					s.Budgets[cluster.VNI(n)] = hostops.Budget{}
				}
			}
		}
	}
	for _, set := range sets {
		note(set.Name)
	}
	for _, c := range chains {
		note(c.Name)
	}
	for v := range s.Budgets {
		parts := floodParts(v)
		if !f.floods[parts[0]] || !f.floods[parts[1]] || !f.floods[parts[2]] {
			continue
		}
		f.requests.Add(1)
		rs, err := f.cc.GetRules(t, &nftables.Chain{Table: t, Name: parts[0]})
		if err != nil {
			return err
		}
		s.Budgets[v] = budgetOf(v, rs)
	}
	return nil
}

// budgetOf reads the rules of one budget.
func budgetOf(v cluster.VNI, rs []*nftables.Rule) (b hostops.Budget) {
	if len(rs) == 0 {
		return b
	}
	if n, err := fmt.Sscanf(commentOf(rs[0]), "meshvpc flood %d told %t", &b.Rate, &b.Told); n != 2 || err != nil || len(rs) != len(floodRules(v, b)) {
		return hostops.Budget{}
	}
	for _, r := range rs {
		if commentOf(r) != floodText(b) {
			return hostops.Budget{}
		}
	}
	return b
}

// FloodDrops implements hostops.Dropper.
func (d *Driver) FloodDrops(ctx context.Context) (map[cluster.VNI]uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("count flood drops: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[cluster.VNI]uint64{}
	for v := range d.filter.state.Budgets {
		d.requests.Add(1)
		rs, err := d.filter.cc.GetRules(bridgeTable(), &nftables.Chain{Table: bridgeTable(), Name: floodParts(v)[0]})
		if err != nil {
			return nil, fmt.Errorf("count flood drops: %w", err)
		}
		for _, r := range rs {
			for _, e := range r.Exprs {
				if n, ok := e.(*expr.Counter); ok {
					out[v] += n.Packets
				}
			}
		}
	}
	return out, nil
}
