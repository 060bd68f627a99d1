package etcd_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/meshvpc/meshvpc/cluster/engine/enginetest"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
)

// damages are what disks do to a store's files. Each is done in a process of its own
// , since an etcd that fails to start leaves much behind.
var damages = map[string]func(dir string) error{
	"torn log": func(dir string) error {
		return change(dir, "wal/*.wal", func(b []byte) []byte {
			end := len(bytes.TrimRight(b, "\x00"))
			b[end-3] ^= 0xff // in the last record
			return b
		})
	},
	"database is nonsense": func(dir string) error {
		return change(dir, "snap/db", func(b []byte) []byte { return bytes.Repeat([]byte{7}, len(b)) })
	},
	"database is cut": func(dir string) error {
		return change(dir, "snap/db", func(b []byte) []byte { return b[:2*4096+100] })
	},
	"database is empty pages": func(dir string) error {
		return change(dir, "snap/db", func(b []byte) []byte { clear(b[2*4096:]); return b })
	},
}

func change(dir, pattern string, how func([]byte) []byte) error {
	paths, err := filepath.Glob(filepath.Join(dir, "member", pattern))
	if err != nil || len(paths) != 1 {
		return errors.Join(err, errors.New("want one file at "+pattern))
	}
	b, err := os.ReadFile(paths[0])
	if err != nil {
		return err
	}
	return os.WriteFile(paths[0], how(b), 0o600)
}

// TestDamaged: a store whose files are not as they were is an error with a name, and
// no end of the process by etcd.
func TestDamaged(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			ports := enginetest.FreePorts(t, 2)
			cfg := config(t.TempDir(), ports)
			engine, stop := start(t, cfg)
			mustPut(t, dial(t, engine.Endpoints()), "a", "1")
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if err := damage(cfg.DataDir); err != nil {
				t.Fatal(err)
			}
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), childDir+"="+cfg.DataDir, childPorts+"="+ports[0].String()+" "+ports[1].String())
			out, err := child.CombinedOutput()
			if err == nil || !bytes.Contains(out, []byte("start etcd: "+etcd.ErrDamaged.Error())) || bytes.Contains(out, []byte("goroutine ")) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
