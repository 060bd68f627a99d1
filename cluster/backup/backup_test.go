package backup

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func mustWrite(t *testing.T, path string, replace bool) Manifest {
	t.Helper()
	db := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(db, bytes.Repeat([]byte("snapshot"), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := Write(path, Manifest{Version: "1", Time: time.Unix(1800000000, 0).UTC(), Cluster: "c", ClusterID: "id", Era: 2, Revision: 7},
		[]Part{{Name: CA, Text: []byte("cert")}, {Name: CAKey, Text: []byte("key")}, {Name: Store, File: db}}, replace)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "b")
	want := mustWrite(t, path, false)
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, f.Manifest); d != "" || string(f.Text(CA)) != "cert" || string(f.Text(CAKey)) != "key" || f.Text("other") != nil {
		t.Errorf("parts %q %q, manifest (-want, +got):\n%s", f.Text(CA), f.Text(CAKey), d)
	}
	db := filepath.Join(dir, "db")
	if err := f.ExtractStore(db); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(db); err != nil || !bytes.Equal(got, bytes.Repeat([]byte("snapshot"), 1000)) {
		t.Errorf("snapshot of %d bytes, %v", len(got), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	if _, err := Write(path, Manifest{}, []Part{{Name: CA}, {Name: Store}}, false); !errors.Is(err, ErrExists) {
		t.Errorf("Write over a backup = %v; want ErrExists", err)
	}
	mustWrite(t, path, true)
	if left, err := filepath.Glob(filepath.Join(dir, ".b*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestDamage changes or cuts a backup anywhere: what is read then is what was
// written, or nothing.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "b")
	want := mustWrite(t, path, false)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	try := func(what string, at int, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err == nil && (!cmp.Equal(f.Manifest, want) || string(f.Text(CA)) != "cert" || string(f.Text(CAKey)) != "key") || err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatalf("%s at %d of %d: %v", what, at, len(whole), err)
		}
	}
	for at := 0; at < len(whole); at += 61 {
		b := bytes.Clone(whole)
		b[at] ^= 0x20
		try("changed", at, b)
		try("cut", at, whole[:at])
	}
}

func TestSeal(t *testing.T) {
	box, err := Seal([]byte("secret"), []byte("correct horse"), []byte("cert"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(box, []byte("secret")) {
		t.Error("the secret can be read")
	}
	broken := bytes.Clone(box)
	broken[len(broken)-1] ^= 1
	for name, tt := range map[string]struct {
		text, passphrase, about string
		want                    string
		err                     error
	}{
		"right":            {string(box), "correct horse", "cert", "secret", nil},
		"wrong passphrase": {string(box), "wrong horse", "cert", "", ErrPassphrase},
		"another CA's":     {string(box), "correct horse", "other", "", ErrPassphrase},
		"broken":           {string(broken), "correct horse", "cert", "", ErrPassphrase},
		"short":            {"meshvpc sealed 1\nabc", "correct horse", "cert", "", ErrDamaged},
		"no seal":          {"-----BEGIN", "correct horse", "cert", "", ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Unseal([]byte(tt.text), []byte(tt.passphrase), []byte(tt.about))
			if string(got) != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("Unseal = %q, %v; want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
}
