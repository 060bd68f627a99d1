package membership

import (
	"strconv"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// Compatible reports whether two versions of the product may be in one cluster,
// and, if not, which is the older: those of one major number whose minor numbers
// are the same or neighbours. What is no release ("", "(devel)") goes with all.
func Compatible(a, b string) (older string, ok bool) {
	x, isA := release(a)
	y, isB := release(b)
	if !isA || !isB || x[0] == y[0] && x[1]-y[1] >= -1 && x[1]-y[1] <= 1 {
		return "", true
	}
	if x[0] < y[0] || x[0] == y[0] && x[1] < y[1] {
		return a, false
	}
	return b, false
}

// release is major and minor of "1.2.3", with "v" before it or not, and anything
// after "-" or "+".
func release(s string) (v [2]int, ok bool) {
	s, _, _ = strings.Cut(strings.TrimPrefix(s, "v"), "+")
	s, _, _ = strings.Cut(s, "-")
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return v, false
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return v, false
		}
		if i < len(v) {
			v[i] = int(n)
		}
	}
	return v, true
}

// checkVersion refuses a joiner that is too far from this server.
func checkVersion(joiner, server string) error {
	older, ok := Compatible(joiner, server)
	if ok {
		return nil
	}
	which := "the server"
	if older == joiner {
		which = "this host"
	}
	return refusef(CodeVersion, "this host has meshvpc %s and the server %s, which is too far apart: upgrade %s", cluster.CleanText(joiner), server, which)
}
