package main

import (
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// writeELF writes a program of nothing but a header.
func writeELF(t *testing.T, file string, abi elf.OSABI, m elf.Machine) string {
	t.Helper()
	b := make([]byte, 64)
	copy(b, elf.ELFMAG)
	b[elf.EI_CLASS], b[elf.EI_DATA], b[elf.EI_VERSION], b[elf.EI_OSABI] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT), byte(abi)
	binary.LittleEndian.PutUint16(b[16:], uint16(elf.ET_EXEC))
	binary.LittleEndian.PutUint16(b[18:], uint16(m))
	binary.LittleEndian.PutUint32(b[20:], uint32(elf.EV_CURRENT))
	binary.LittleEndian.PutUint16(b[52:], 64)
	if err := os.WriteFile(file, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestFindProgram(t *testing.T) {
	dir := t.TempDir()
	freebsd := writeELF(t, filepath.Join(dir, "f"), elf.ELFOSABI_FREEBSD, elf.EM_X86_64)
	arm := writeELF(t, filepath.Join(dir, "a"), elf.ELFOSABI_NONE, elf.EM_AARCH64)
	script := filepath.Join(dir, "s")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	own := programFile{os: runtime.GOOS, arch: runtime.GOARCH}
	for name, tt := range map[string]struct {
		named, os, arch string
		err             string
	}{
		"the running one":    {os: own.os, arch: own.arch},
		"named":              {named: arm, os: "linux", arch: "arm64"},
		"named, of FreeBSD":  {named: freebsd, os: "freebsd", arch: "amd64"},
		"another machine":    {named: arm, os: "linux", arch: "amd64", err: "is a program for linux/arm64; the host runs linux/amd64"},
		"another system":     {named: freebsd, os: "linux", arch: "amd64", err: "is a program for freebsd/amd64; the host runs linux/amd64"},
		"Linux on FreeBSD":   {named: arm, os: "freebsd", arch: "arm64", err: "is a program for linux/arm64"},
		"a script":           {named: script, os: "linux", arch: "amd64", err: "it is no program"},
		"nothing":            {named: filepath.Join(dir, "none"), os: "linux", arch: "amd64", err: "no such file"},
		"no sibling":         {os: "freebsd", arch: "riscv64", err: "for which there is no program"},
		"a machine of tales": {named: arm, os: "linux", arch: "pdp11", err: "the host runs linux/pdp11"},
	} {
		got, err := findProgram(tt.named, tt.os, tt.arch, own)
		switch {
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("%s: %v; want %q", name, err, tt.err)
		case tt.err == "" && (err != nil || got.os != tt.os || got.arch != tt.arch || got.size == 0 || len(got.sum) != 64):
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}
