package main

import "testing"

// TestMemoryLimit: limits after one look and another, in MiB.
func TestMemoryLimit(t *testing.T) {
	for name, tt := range map[string]struct{ limit, live, goal, want int64 }{
		"a small heap grows by percent":   {24, 2, 8, 24},
		"just enough is left":             {24, 6, 10, 24},
		"nothing is left":                 {24, 6, 6, 28},
		"live passed the goal":            {24, 8, 6, 30},
		"raised, and enough":              {28, 6, 10, 28},
		"raised, and nearly enough":       {40, 25, 37, 40},
		"half of a large heap":            {24, 20, 24, 30},
		"raised, and there is more again": {40, 6, 18, 32},
		"raised, and no more needed":      {28, 2, 8, 26},
		"never less":                      {25, 2, 30, 24},
	} {
		if got := memoryLimit(tt.limit<<20, tt.live<<20, tt.goal<<20); got != tt.want<<20 {
			t.Errorf("%s: memoryLimit(%d, %d, %d) = %d MiB; want %d", name, tt.limit, tt.live, tt.goal, got>>20, tt.want)
		}
	}
}
