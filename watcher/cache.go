package watcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// cacheFile is the JSON of the cache. Node and id guard against a file that
// was copied from another machine.
type cacheFile struct {
	Version int     `json:"version"`
	Node    string  `json:"node"`
	NodeID  string  `json:"node_id"`
	Memory  *memory `json:"memory"`
}

const cacheVersion = 1

// Content is what the cache file is to hold. To encode that of a large mesh
// takes longer than the pass that made it: it is for whoever writes the file, if
// nothing newer has come by then.
type Content struct{ file cacheFile }

// Encode makes the file's bytes. It may run beside the agent's steps.
func (c *Content) Encode() ([]byte, error) {
	b, err := json.Marshal(c.file)
	if err != nil {
		return nil, fmt.Errorf("encode cache: %w", err)
	}
	return b, nil
}

// cacheCoalesce is how long a peer that came or went may be missing in the
// cache file, and half of it more, not the same for all hosts of a mesh: it costs
// more to write the file than to take the peer in. It says at once what else
// changed: a VPC that came or went, an address, the cluster's settings.
const cacheCoalesce = 5 * time.Second

// loadCache reads the last known good state; an absent file is an empty one.
// A file that cannot be used is an error, and the memory is empty.
func loadCache(path, node, nodeID string) (*memory, error) {
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &memory{VPCs: map[string]*vpc{}}, nil
	case err != nil:
		return &memory{VPCs: map[string]*vpc{}}, fmt.Errorf("read cache: %w", err)
	}
	return decodeCache(path, b, node, nodeID)
}

// decodeCache is loadCache of a file's content.
func decodeCache(path string, b []byte, node, nodeID string) (*memory, error) {
	empty := &memory{VPCs: map[string]*vpc{}}
	f := cacheFile{Memory: &memory{}}
	if err := json.Unmarshal(b, &f); err != nil {
		return empty, fmt.Errorf("read cache %s: %w", path, err)
	}
	if f.Version != cacheVersion || f.Node != node || f.NodeID != nodeID {
		return empty, fmt.Errorf("read cache %s: it is of version %d, node %q: %w", path, f.Version, f.Node, cluster.ErrInvalid)
	}
	m := f.Memory
	if m.VPCs == nil {
		m.VPCs = map[string]*vpc{}
	}
	if err := m.validate(); err != nil {
		return empty, fmt.Errorf("read cache %s: %w", path, err)
	}
	return m, nil
}

// validate holds a memory that was read to what absorb would have accepted.
func (m *memory) validate() error {
	if err := m.Underlay.Validate(); err != nil {
		return err
	}
	if err := m.validateFences(); err != nil {
		return err
	}
	for _, v := range m.Remove {
		if err := v.Validate(); err != nil {
			return fmt.Errorf("to be removed: %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.VPCs)) {
		if err := m.VPCs[name].validate(name); err != nil {
			return fmt.Errorf("VPC %q: %w", name, err)
		}
	}
	return nil
}

func (v *vpc) validate(name string) error {
	switch err := cluster.CheckVPCName(name); {
	case err != nil:
		return err
	case v == nil:
		return fmt.Errorf("%w: null", cluster.ErrInvalid)
	case v.VNI > cluster.MaxVNI:
		return v.VNI.Validate()
	}
	if err := v.validatePorts(); err != nil {
		return err
	}
	switch {
	case v.Members == nil: // left, or not read yet
		return nil
	case v.MTU < cluster.MinMTU || v.MTU > cluster.MaxMTU:
		return fmt.Errorf("%w MTU %d: want %d to %d", cluster.ErrInvalid, v.MTU, cluster.MinMTU, cluster.MaxMTU)
	}
	for node, m := range v.Members {
		if err := cluster.CheckNodeName(node); err != nil {
			return err
		}
		if m == nil {
			return fmt.Errorf("%w member %s: null", cluster.ErrInvalid, node)
		}
		if err := m.Validate(); err != nil {
			return fmt.Errorf("member %s: %w", node, err)
		}
		if !netip.PrefixFrom(m.VTEP, v.Length).IsValid() {
			return fmt.Errorf("%w prefix length %d of %s", cluster.ErrInvalid, v.Length, m.VTEP)
		}
	}
	if err := v.Gateway.Validate(); err != nil {
		return err
	}
	for peer, l := range v.Links {
		if v.Members[peer] == nil {
			return fmt.Errorf("%w link to %s: no member", cluster.ErrInvalid, cluster.CleanText(peer))
		}
		if err := l.Validate(); err != nil {
			return fmt.Errorf("link to %s: %w", peer, err)
		}
	}
	return v.VNI.Validate()
}

// saveCache replaces the file; it holds either the old or the new state,
// whenever the power fails.
func saveCache(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write cache: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write cache: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write cache: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// cacher writes the cache file beside the passes: the newest state wins, with a
// pause after each write of several times what that took, and one more at the end. A
// first write after a pause is done at once.
type cacher struct {
	path string
	save func(path string, b []byte) error
	kick chan struct{}
	done chan struct{} // receives when settled or problem may have changed

	mu   sync.Mutex
	next *Content
	seq  int // of next
	err  error
}

// The pause after a write: who attaches a workload waits for the next.
const (
	cachePauses     = 9
	cachePauseLeast = 10 * time.Millisecond
	cachePauseMost  = 100 * time.Millisecond
)

func newCacher(path string, save func(path string, b []byte) error) *cacher {
	return &cacher{path: path, save: save, kick: make(chan struct{}, 1), done: make(chan struct{}, 1)}
}

// put hands over the state to be written.
func (c *cacher) put(next *Content) {
	c.mu.Lock()
	c.next = next
	c.seq++
	c.mu.Unlock()
	wake(c.kick)
}

// settled reports whether all that was handed over has been written, or cannot
// be: then problem says why.
func (c *cacher) settled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next == nil || c.err != nil
}

// problem is why the file is not what it should be, nil if it is.
func (c *cacher) problem() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// run writes until ctx ends. A failed write is tried again.
func (c *cacher) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			c.write()
			return
		case <-c.kick:
		}
		begun := time.Now()
		written := c.write()
		pause := min(max(cachePauses*time.Since(begun), cachePauseLeast), cachePauseMost)
		if !written {
			pause = 10 * time.Second
			wake(c.kick)
		}
		store.Sleep(ctx, pause)
	}
}

func (c *cacher) write() bool {
	c.mu.Lock()
	next, seq := c.next, c.seq
	c.mu.Unlock()
	if next == nil {
		return true
	}
	b, err := next.Encode()
	if err == nil {
		err = c.save(c.path, b)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && seq == c.seq {
		c.next = nil
	}
	if (err == nil) != (c.err == nil) || c.next == nil {
		wake(c.done)
	}
	c.err = err
	return err == nil
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
