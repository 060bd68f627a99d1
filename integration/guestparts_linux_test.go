package integration

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// guestParts is what a virtual machine is made of, as found on this machine.
type guestParts struct {
	qemu    string   // the program
	kernel  string   // a Linux for x86-64
	modules []string // files for the kernel
	busybox string   // static
}

// howToGuest is told to whom lacks a part.
const howToGuest = "on Debian .ci/guest as root puts all of it in place, elsewhere install qemu-system-x86_64 and a static busybox, " +
	"and name a kernel: MESHVPC_TEST_KERNEL=/boot/vmlinuz-V MESHVPC_TEST_MODULES=/lib/modules/V"

// guestModules make a device of virtio work. What a kernel has built in is not there
// as a file.
var guestModules = []string{"virtio", "virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci",
	"dim", "failover", "net_failover", "virtio_net"}

// findGuestParts looks where .ci/guest puts them, then at this machine's own.
func findGuestParts() (p guestParts, err error) {
	if p.qemu, err = exec.LookPath("qemu-system-x86_64"); err != nil {
		return p, err
	}
	roots := []string{"/"}
	if dir, err := os.UserCacheDir(); err == nil { // without one, nothing was put there
		roots = []string{filepath.Join(dir, "meshvpc", "guest"), "/"}
	}
	var modules string
	if p.kernel, modules, err = findKernel(roots); err != nil {
		return p, err
	}
	for _, name := range guestModules {
		found, err := findModule(modules, name)
		if err != nil {
			return p, err
		}
		p.modules = append(p.modules, found...)
	}
	p.busybox, err = findBusybox(roots)
	return p, err
}

// findKernel names the kernel and the directory of its modules, "" for none.
func findKernel(roots []string) (kernel, modules string, err error) {
	if kernel = os.Getenv("MESHVPC_TEST_KERNEL"); kernel != "" {
		return kernel, os.Getenv("MESHVPC_TEST_MODULES"), nil
	}
	for _, root := range roots {
		kernels, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
		if err != nil {
			return "", "", err
		}
		for _, kernel := range slices.Backward(kernels) {
			f, err := os.Open(kernel)
			if err != nil {
				continue // some systems keep theirs from all but root
			}
			f.Close()
			version := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
			for _, lib := range []string{"usr/lib", "lib"} {
				if dir := filepath.Join(root, lib, "modules", version); isDir(dir) {
					return kernel, dir, nil
				}
			}
		}
	}
	return "", "", errors.New("no kernel with modules")
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// findModule finds a module's file, at most one.
func findModule(dir, name string) ([]string, error) {
	if dir == "" {
		return nil, nil
	}
	var found []string
	err := filepath.WalkDir(filepath.Join(dir, "kernel"), func(path string, _ os.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(filepath.Base(path), name+".ko") {
			found = []string{path}
			return filepath.SkipAll
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for module %s: %w", name, err)
	}
	return found, nil
}

// findBusybox finds one that needs no libraries.
func findBusybox(roots []string) (string, error) {
	for _, root := range roots {
		for _, bin := range []string{"usr/bin", "bin"} {
			path := filepath.Join(root, bin, "busybox")
			f, err := elf.Open(path)
			if err != nil {
				continue
			}
			libraries, err := f.ImportedLibraries()
			f.Close()
			if err == nil && len(libraries) == 0 {
				return path, nil
			}
		}
	}
	return "", errors.New("no static busybox")
}
