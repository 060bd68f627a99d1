package cluster

// Nearest is the candidate that word most likely stands for, "" if none is
// near: at most two edits away, and fewer than half of its letters.
func Nearest(word string, candidates []string) string {
	best, least := "", 3
	for _, c := range candidates {
		if max(len(c)-len(word), len(word)-len(c)) >= least {
			continue // so many edits at the least
		}
		if d := distance(word, c); d < least && 2*d < max(len(c), len(word)) {
			best, least = c, d
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap that make b
// of a (optimal string alignment).
func distance(a, b string) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
