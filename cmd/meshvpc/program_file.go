package main

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// programFile is a build of meshvpc in a file of this host.
type programFile struct {
	path     string
	os, arch string // as Go spells them
	size     int64  // in bytes
	sum      string // SHA-256 in hex
}

// findProgram is the program for a host: the file named, else the running one
// if it is for such a host, else meshvpc-OS-ARCH beside it.
func findProgram(named, system, arch string, own programFile) (programFile, error) {
	file := named
	if file == "" {
		self, err := os.Executable()
		if err != nil {
			return programFile{}, fmt.Errorf("find this program: %w", err)
		}
		if file = self; own.os != system || own.arch != arch {
			file = filepath.Join(filepath.Dir(self), "meshvpc-"+system+"-"+arch)
		}
	}
	f, err := readProgram(file)
	build := fmt.Sprintf("CGO_ENABLED=0 GOOS=%s GOARCH=%s go build -o meshvpc-%s-%s ./cmd/meshvpc, then name it by --binary", system, arch, system, arch)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f, failed(build, "the host runs %s/%s, for which there is no program: %w", system, arch, err)
	case err != nil:
		return f, failed(build, "read program %s: %w", file, err)
	case f.os != system || f.arch != arch:
		return f, failed(build, "%s is a program for %s/%s; the host runs %s/%s", file, f.os, f.arch, system, arch)
	}
	return f, nil
}

// machines are ELF's numbers, with the class and byte order that Go builds for.
var machines = map[string]elf.FileHeader{
	"amd64":   {Machine: elf.EM_X86_64, Class: elf.ELFCLASS64, Data: elf.ELFDATA2LSB},
	"arm64":   {Machine: elf.EM_AARCH64, Class: elf.ELFCLASS64, Data: elf.ELFDATA2LSB},
	"386":     {Machine: elf.EM_386, Class: elf.ELFCLASS32, Data: elf.ELFDATA2LSB},
	"arm":     {Machine: elf.EM_ARM, Class: elf.ELFCLASS32, Data: elf.ELFDATA2LSB},
	"riscv64": {Machine: elf.EM_RISCV, Class: elf.ELFCLASS64, Data: elf.ELFDATA2LSB},
	"ppc64le": {Machine: elf.EM_PPC64, Class: elf.ELFCLASS64, Data: elf.ELFDATA2LSB},
	"s390x":   {Machine: elf.EM_S390, Class: elf.ELFCLASS64, Data: elf.ELFDATA2MSB},
}

// readProgram reads a file's ELF header and sums it up.
func readProgram(path string) (programFile, error) {
	p := programFile{path: path}
	f, err := os.Open(path)
	if err != nil {
		return p, err
	}
	defer f.Close()
	e, err := elf.NewFile(f)
	if err != nil {
		return p, fmt.Errorf("it is no program: %w", err)
	}
	p.os, p.arch = systemOfELF(e.FileHeader)
	sum := sha256.New()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return p, err
	}
	p.size, err = io.Copy(sum, f)
	p.sum = hex.EncodeToString(sum.Sum(nil))
	return p, err
}

// systemOfELF tells by its header what a program runs on; what it does not know
// it names as ELF does.
func systemOfELF(h elf.FileHeader) (system, arch string) {
	system, arch = h.OSABI.String(), h.Machine.String()
	switch h.OSABI {
	case elf.ELFOSABI_NONE, elf.ELFOSABI_LINUX:
		system = "linux"
	case elf.ELFOSABI_FREEBSD:
		system = "freebsd"
	}
	if h.Type != elf.ET_EXEC && h.Type != elf.ET_DYN {
		return system, h.Type.String()
	}
	for name, m := range machines {
		if h.Machine == m.Machine && h.Class == m.Class && h.Data == m.Data {
			return system, name
		}
	}
	return system, arch
}
