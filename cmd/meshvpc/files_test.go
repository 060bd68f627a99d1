package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/meshvpc/meshvpc/cluster"
)

// TestShellWord: a shell that evaluates the line has the value, and runs nothing.
func TestShellWord(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no shell")
	}
	t.Chdir(t.TempDir())
	for _, s := range []string{"https://[2001:db8::1]:2379,https://a:2379", "/home/it's/a b.pem/key", "https://$(touch ran):2379", "`touch ran`;touch ran", "a\ntouch ran", `\`, ""} {
		out, err := exec.Command(sh, "-c", "export X="+shellWord(s)+"\nprintf %s \"$X\"").Output()
		if err != nil || string(out) != s {
			t.Errorf("%q came out as %q, %v", s, out, err)
		}
	}
	if _, err := os.Stat("ran"); err == nil {
		t.Error("a value was carried out")
	}
}

// TestForget: nothing is left of a node's credentials, and nobody else could have
// read them.
func TestForget(t *testing.T) {
	root := t.TempDir()
	d := dirs{config: filepath.Join(root, "etc"), state: filepath.Join(root, "state"), run: filepath.Join(root, "run")}
	node, user := d.pem(cluster.SubjectNode), d.pem(cluster.SubjectUser)
	for _, path := range []string{d.cache(), d.agent(), d.client(), node.CA, node.Cert, node.Key, user.Key, filepath.Join(pemOf(d.client()), "key")} {
		if err := writeFile(path, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	files := func() (all []string) {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || path == root {
				return err
			}
			info, err := e.Info()
			if err == nil && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
			if !e.IsDir() {
				all = append(all, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if n := len(files()); n != 8 {
		t.Errorf("%d files, want 8", n)
	}
	if err := forget(d); err != nil {
		t.Fatal(err)
	}
	if left := files(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
