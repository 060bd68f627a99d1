package controller

import (
	"testing"
	"testing/synctest"

	"github.com/meshvpc/meshvpc/cluster"
)

// TestLearningChanges: what is asked for is in force, and old hosts keep off it.
func TestLearningChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.startHosts()
		r.start("a", r.mem)
		r.join("h1", "192.0.2.1")
		s := spec("all", "10.100.0.0/16")
		s.Learning = cluster.LearnStatic
		r.vpc("blue", s)
		settle()
		net := get[*cluster.VPCNet](r, cluster.KeyVPCNet("blue"))
		if net.Learning != cluster.LearnStatic || net.Needs < 2 {
			t.Errorf("in force: %+v, want static, for hosts that know of it", net)
		}
		s.Learning = ""
		r.put(cluster.KeyVPCSpec("blue"), s)
		settle()
		if net := get[*cluster.VPCNet](r, cluster.KeyVPCNet("blue")); net.Learning != "" || net.Needs != 0 {
			t.Errorf("in force: %+v, want dynamic, for all", net)
		}
	})
}
