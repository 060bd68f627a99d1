package sim

import "github.com/meshvpc/meshvpc/hostops/fake"

// frames holds a gentle world to this: from when a broadcast of one member
// reaches another once, and back, it always does, and what their workloads send each
// other arrives.
type frames struct {
	w      *World
	writes int // to kernels, when it last looked
	up     map[[3]string]bool
}

func (f *frames) check() {
	if n := f.w.kernelWrites(); n == f.writes {
		return
	} else {
		f.writes = n
	}
	for _, vpc := range f.w.operator.vpcs() {
		for i, a := range f.w.nodes {
			for _, b := range f.w.nodes[i+1:] {
				key := [3]string{vpc, a.name, b.name}
				to, back := f.w.net.Copies(a.host, b.host, vpc), f.w.net.Copies(b.host, a.host, vpc)
				once := to == 1 && back == 1
				switch {
				case once && f.talk(a.host, b.host, vpc):
					f.up[key] = true
				case f.up[key]:
					f.w.fail("in %s, %s – %s: a broadcast arrives %d times, and back %d times, or no frame from workload to workload", vpc, a.name, b.name, to, back)
					delete(f.up, key)
				}
			}
		}
	}
}

// talk has workloads of two hosts send to each other, or one to the other, or
// neither, in turns of some kernel writes, and reports whether all arrived.
func (f *frames) talk(a, b *fake.Host, vpc string) bool {
	const turn = 8
	who := f.writes / turn % 4
	return (who&1 == 0 || f.w.net.Tell(a, b, vpc)) && (who&2 == 0 || f.w.net.Tell(b, a, vpc))
}
