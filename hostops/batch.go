package hostops

import (
	"iter"
	"slices"
)

// batches divides a plan into operations that can be given to the kernel
// together: of a batch none needs what another one makes, nor would be unsafe if
// another one failed. It asks skip, which may have changed its mind by then, about
// each operation before that is in a batch.
//
// The order of the plan is kept but for pairs' tunnels: those of a run take the
// first step of each together, then the second, and so on. What lies between two
// runs, as where a peer changes from one tunnel to another, stays where it is.
func batches(ops []Op, skip func(Op) bool) iter.Seq[[]Op] {
	return func(yield func([]Op) bool) {
		for len(ops) > 0 {
			n := runOf(ops)
			run := slices.Clip(ops[:n])
			for ops = ops[n:]; len(run) > 0; {
				var batch []Op
				batch, run = split(run)
				if slices.ContainsFunc(batch, skip) {
					batch = slices.DeleteFunc(slices.Clone(batch), skip)
				}
				if len(batch) > 0 && !yield(batch) {
					return
				}
			}
		}
	}
}

// runOf is how many operations at the beginning of ops, which are some, are one
// run: on tables, or on the tunnels of one VPC's pairs. Any other is alone.
func runOf(ops []Op) int {
	vpc, longest := ops[0].On().VPC, 1
	for _, is := range []func(Op) bool{isEntry, isPairs} {
		n := slices.IndexFunc(ops, func(op Op) bool { return !is(op) || op.On().VPC != vpc })
		if n < 0 {
			n = len(ops)
		}
		longest = max(longest, n)
	}
	return longest
}

// split takes the first batch from a run.
func split(run []Op) (batch, rest []Op) {
	if !slices.ContainsFunc(run, func(op Op) bool { return !isEntry(op) }) {
		return run, nil
	}
	begun := map[string]bool{}
	for _, op := range run {
		if object := op.On().Object; begun[object] {
			rest = append(rest, op)
		} else {
			begun[object] = true
			batch = append(batch, op)
		}
	}
	return batch, rest
}

// isEntry reports whether op sets or removes an entry of a table.
func isEntry(op Op) bool {
	switch op.(type) {
	case AddPeer, RemovePeer, SetFDB, RemoveFDB, SetNeighbour, RemoveNeighbour, SetAnswer, RemoveAnswer:
		return true
	}
	return false
}

// isPairs reports whether op is a step on the way of a pair's tunnel. None removes
// anything: that comes after all that adds, on whichever tunnel.
func isPairs(op Op) bool {
	if _, is := pairOf(op.On().Object); !is {
		return false
	}
	switch op.(type) {
	case CreateTunnel, SetMTU, SetAlias, SetQuiet, SetLearning, SetMaster, ResetPort, SetIsolated, SetSending, SetStatic, SetDown, SetUp, AddPeer, SetFDB:
		return true
	}
	return false
}
