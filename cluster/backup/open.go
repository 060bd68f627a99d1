package backup

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxText bounds the parts that are kept in memory, and the manifest, in bytes.
const maxText = 1 << 20

// File is a backup that was read whole and found as it was written.
type File struct {
	Manifest
	path  string
	texts map[string][]byte // all parts but Store
}

// Open reads a backup and checks all sums. Errors: ErrDamaged, ErrNewer, and
// those of the file system.
func Open(path string) (*File, error) {
	f := &File{path: path, texts: map[string][]byte{}}
	sums, err := f.each(func(name string, r io.Reader) (Sum, error) {
		if name == Store {
			return sumOf(r)
		}
		text, err := io.ReadAll(io.LimitReader(r, maxText))
		if err != nil {
			return Sum{}, err
		}
		f.texts[name] = text
		return sumOf(bytes.NewReader(text))
	})
	if err != nil {
		return nil, fmt.Errorf("read backup %s: %w", path, err)
	}
	if err := f.check(sums); err != nil {
		return nil, fmt.Errorf("read backup %s: %w", path, err)
	}
	return f, nil
}

// check compares the sums of what was read with the manifest.
func (f *File) check(sums map[string]Sum) error {
	if want, _, _ := strings.Cut(string(f.texts[sumName]), " "); want == "" || want != sums[manifestName].SHA256 {
		return fmt.Errorf("%w: %s is not as it was written", ErrDamaged, manifestName)
	}
	if err := json.Unmarshal(f.texts[manifestName], &f.Manifest); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, manifestName, err)
	}
	if f.Format > format {
		return ErrNewer
	}
	for _, name := range []string{CA, Store} {
		if _, ok := f.Parts[name]; !ok {
			return fmt.Errorf("%w: it has no %s", ErrDamaged, name)
		}
	}
	for name, want := range f.Parts {
		if sums[name] != want {
			return fmt.Errorf("%w: %s is not as it was written", ErrDamaged, name)
		}
	}
	return nil
}

// Text is a part, but not Store; nil if there is none.
func (f *File) Text(name string) []byte {
	if _, listed := f.Parts[name]; !listed {
		return nil
	}
	return f.texts[name]
}

// ExtractStore writes the snapshot to a new file, of mode 0600.
func (f *File) ExtractStore(path string) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("extract snapshot: %w", err)
	}
	sums, err := f.each(func(name string, r io.Reader) (Sum, error) {
		if name != Store {
			return Sum{}, nil
		}
		return sumOf(io.TeeReader(r, out))
	})
	if err == nil && sums[Store] != f.Parts[Store] {
		err = fmt.Errorf("%w: it has changed meanwhile", ErrDamaged)
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("extract snapshot: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

// each hands the parts over in the order of the file, and returns their sums.
func (f *File) each(do func(name string, r io.Reader) (Sum, error)) (map[string]Sum, error) {
	in, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	sums := map[string]Sum{}
	t := tar.NewReader(in)
	for {
		h, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			return sums, nil
		case err != nil:
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if _, twice := sums[h.Name]; twice {
			return nil, fmt.Errorf("%w: two parts of one name", ErrDamaged)
		}
		if sums[h.Name], err = do(h.Name, t); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
}
