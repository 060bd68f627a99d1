package main

import (
	"path/filepath"
	"testing"
)

func TestNamespacePath(t *testing.T) {
	relative, err := filepath.Abs("a/b")
	if err != nil {
		t.Fatal(err)
	}
	for word, want := range map[string]string{
		"web1": "/run/netns/web1", "1234": "/proc/1234/ns/net", "/run/x/../netns/web1": "/run/netns/web1", "a/b": relative,
		"0": "/run/netns/0", "12x": "/run/netns/12x", "..": "", ".": "", "a\nb": "",
	} {
		if got, err := namespacePath(word); got != want || (err == nil) != (want != "") {
			t.Errorf("namespacePath(%q) = %q, %v; want %q", word, got, err, want)
		}
	}
}
