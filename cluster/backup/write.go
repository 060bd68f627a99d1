package backup

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Part is a part to be written: the content of a file, or else a text.
type Part struct {
	Name string
	Text []byte
	File string
}

func (p Part) open() (io.ReadCloser, error) {
	if p.File == "" {
		return io.NopCloser(bytes.NewReader(p.Text)), nil
	}
	return os.Open(p.File)
}

func (p Part) sum() (Sum, error) {
	r, err := p.open()
	if err != nil {
		return Sum{}, err
	}
	defer r.Close()
	return sumOf(r)
}

func sumOf(r io.Reader) (Sum, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return Sum{n, hex.EncodeToString(h.Sum(nil))}, err
}

// Write makes a backup at path. A file that is there is replaced only if replace
// says so, else that is ErrExists.
func Write(path string, m Manifest, parts []Part, replace bool) (Manifest, error) {
	m.Format, m.Parts = format, map[string]Sum{}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // of mode 0600
	if err != nil {
		return m, fmt.Errorf("write backup: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // it may have got its name
	err = write(f, &m, parts)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		_, err = Open(f.Name())
	}
	if err == nil {
		err = name(f.Name(), path, replace)
	}
	if err != nil {
		return m, fmt.Errorf("write backup: %w", err)
	}
	return m, nil
}

// name gives the file at temp its name.
func name(temp, path string, replace bool) error {
	if replace {
		return os.Rename(temp, path)
	}
	err := os.Link(temp, path) // fails if there is one
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %s", ErrExists, path)
	}
	return err
}

func write(w io.Writer, m *Manifest, parts []Part) error {
	for _, p := range parts {
		sum, err := p.sum()
		if err != nil {
			return err
		}
		m.Parts[p.Name] = sum
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	sum, err := sumOf(bytes.NewReader(text))
	if err != nil {
		return err
	}
	head := []Part{{Name: manifestName, Text: text}, {Name: sumName, Text: []byte(sum.SHA256 + "  " + manifestName + "\n")}}
	t := tar.NewWriter(w)
	for _, p := range append(head, parts...) {
		if err := add(t, p, *m); err != nil {
			return err
		}
	}
	return t.Close()
}

func add(t *tar.Writer, p Part, m Manifest) error {
	size := m.Parts[p.Name].Size
	if _, listed := m.Parts[p.Name]; !listed {
		size = int64(len(p.Text))
	}
	if err := t.WriteHeader(&tar.Header{Name: p.Name, Mode: 0o600, Size: size, ModTime: m.Time, Format: tar.FormatPAX}); err != nil {
		return err
	}
	r, err := p.open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(t, r)
	return err
}
