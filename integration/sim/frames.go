package sim

// frames holds a gentle world to this: from when a broadcast of one member
// reaches another once, and back, it always does.
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
				switch once := to == 1 && back == 1; {
				case once:
					f.up[key] = true
				case f.up[key]:
					f.w.fail("in %s, %s – %s: a broadcast arrives %d times, and back %d times", vpc, a.name, b.name, to, back)
					delete(f.up, key)
				}
			}
		}
	}
}
