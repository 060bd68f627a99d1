package controller

import (
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// betterSeat names another server that should rather lead, "" if none should. Who
// leads is lost with its datacenter, and failover is blind until another was elected:
// so it sits where nothing is that would have to
// move. What moves on from there later is no reason to follow it.
func (w *world) betterSeat() string {
	held, ok := store.At[*cluster.Leader](w.view, cluster.KeyLeader)
	if !ok {
		return ""
	}
	owned := w.movingIn()
	here, ok := store.At[*cluster.Server](w.view, cluster.KeyServer(held.Value.Name))
	if !ok || owned[here.Value.Datacenter] == 0 {
		return ""
	}
	for it := range store.Below[*cluster.Server](w.view, cluster.PrefixSrvs) {
		name, s := strings.TrimPrefix(it.Key, cluster.PrefixSrvs), it.Value
		if !s.Witness && !s.Restarting && owned[s.Datacenter] == 0 && w.alive[name] && !w.fenced[name] {
			return name
		}
	}
	return ""
}

// movingIn is how many endpoints that can move have their owner in a datacenter.
func (w *world) movingIn() map[string]int {
	count := map[string]int{}
	for _, v := range w.vpcs {
		for _, e := range v.endpoints {
			if own := e.own.Value; v.moves(e) && own != nil && w.nodes[own.Node] != nil {
				count[w.nodes[own.Node].Datacenter]++
			}
		}
	}
	return count
}
