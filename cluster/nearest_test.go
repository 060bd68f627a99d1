package cluster

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	for word, want := range map[string]string{"stauts": "status", "creat": "create", "x": "", "lst": "list", "remove": "", "": "", strings.Repeat("x", 1<<20): ""} {
		if got := Nearest(word, []string{"status", "create", "list"}); got != want {
			t.Errorf("Nearest(%.20q) = %q, want %q", word, got, want)
		}
	}
}
