package main

import (
	"os"
	"testing"
)

func TestFileMapping(t *testing.T) {
	for line, want := range map[string]bool{
		"00400000-00f9c000 r-xp 00000000 fe:00 1234 /usr/bin/meshvpc":         true,
		"00f9c000-01d12000 r--p 00b9c000 fe:00 1234 /usr/bin/meshvpc":         true,
		"01d12000-01e00000 rw-p 01912000 fe:00 1234 /usr/bin/meshvpc":         false, // written data would be lost
		"7f0000000000-7f0000100000 r-xp 00000000 fe:00 9 /lib/libc.so":        false,
		"7f0000000000-7f0000100000 rw-p 00000000 00:00 0 ":                    false,
		"7f0000000000-7f0000100000 r-xp 00000000 fe:00 9 /opt/usr/bin/meshvp": false,
		"": false,
	} {
		start, length, ok := fileMapping(line, "/usr/bin/meshvpc")
		if ok != want || ok && (start == 0 || length == 0) {
			t.Errorf("fileMapping(%q) = %x, %x, %v; want %v", line, start, length, ok, want)
		}
	}
}

// The program goes on working after its text was given back.
func TestReleaseText(t *testing.T) {
	if _, err := os.Stat("/proc/self/maps"); err != nil {
		t.Skipf("no /proc here: %v", err)
	}
	for range 3 {
		if err := releaseText(); err != nil {
			t.Fatal(err)
		}
	}
}
