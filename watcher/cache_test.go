package watcher

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// TestUnusableCache: a file that could not have been written by this agent
// starts it empty, and the error says what is wrong with it.
func TestUnusableCache(t *testing.T) {
	good := func() cacheFile { return cacheFile{cacheVersion, "a", "id-a", accepted(t)} }
	for name, tt := range map[string]struct {
		change func(f *cacheFile)
		want   string // "": it can be used
	}{
		"as it was":         {func(*cacheFile) {}, ""},
		"being taken down":  {func(f *cacheFile) { f.Memory.VPCs["vpc1"] = &vpc{VNI: 10000, Leaving: true} }, ""},
		"another node's":    {func(f *cacheFile) { f.Node = "b" }, `it is of version 1, node "b"`},
		"another version's": {func(f *cacheFile) { f.Version = 2 }, "it is of version 2"},
		"no VPC":            {func(f *cacheFile) { f.Memory.VPCs["vpc1"] = nil }, `VPC "vpc1": invalid: null`},
		"VPC name":          {func(f *cacheFile) { f.Memory.VPCs["../x"] = &vpc{} }, `VPC "../x"`},
		"VNI":               {func(f *cacheFile) { f.Memory.VPCs["vpc1"].VNI = 1 << 24 }, "invalid VNI 16777216"},
		"no VNI":            {func(f *cacheFile) { f.Memory.VPCs["vpc1"].VNI = 0 }, "invalid VNI 0"},
		"MTU below zero":    {func(f *cacheFile) { f.Memory.VPCs["vpc1"].MTU = -5 }, "invalid MTU -5: want 1280 to 65465"},
		"MTU above":         {func(f *cacheFile) { f.Memory.VPCs["vpc1"].MTU = 70000 }, "invalid MTU 70000"},
		"no MTU":            {func(f *cacheFile) { f.Memory.VPCs["vpc1"].MTU = 0 }, "invalid MTU 0"},
		"prefix length":     {func(f *cacheFile) { f.Memory.VPCs["vpc1"].Length = 99 }, "invalid prefix length 99 of 10.100.0."},
		"length below zero": {func(f *cacheFile) { f.Memory.VPCs["vpc1"].Length = -1 }, "invalid prefix length -1"},
		"no member":         {func(f *cacheFile) { f.Memory.VPCs["vpc1"].Members["b"] = nil }, "invalid member b: null"},
		"member's name":     {func(f *cacheFile) { f.Memory.VPCs["vpc1"].Members["B\x1b"] = member("i", "10.100.0.3", "192.0.2.1") }, "invalid"},
		"member's address": {func(f *cacheFile) {
			f.Memory.VPCs["vpc1"].Members["b"] = &cluster.Member{NodeID: "id-b", Transport: cluster.Multipoint}
		}, "member b: "},
		"removal": {func(f *cacheFile) { f.Memory.Remove = []cluster.VNI{0} }, "to be removed: invalid VNI 0"},
		"underlay": {func(f *cacheFile) {
			f.Memory.Underlay.IPv4 = &cluster.UnderlayAddress{Bind: underlayOf(1), Advertise: underlayOf(1), Device: "u0", MTU: 1500}
		}, "invalid IPv4 underlay"},
		"underlay's MTU": {func(f *cacheFile) {
			f.Memory.Underlay.IPv6 = &cluster.UnderlayAddress{Bind: underlayOf(1), Advertise: underlayOf(1), Device: "u0", MTU: -1}
		}, "invalid IPv6 underlay"},
	} {
		t.Run(name, func(t *testing.T) {
			f := good()
			tt.change(&f)
			b, err := json.Marshal(f)
			if err != nil {
				t.Fatal(err)
			}
			m, err := decodeCache("cache.json", b, "a", "id-a")
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("error %v; want none", err)
			case tt.want == "" && len(m.VPCs) != 1:
				t.Errorf("memory %+v; want the VPC", m)
			case tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), "read cache cache.json: ") || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v; want one with %q", err, tt.want)
			case tt.want != "" && len(m.VPCs) != 0:
				t.Errorf("memory %+v; want none", m)
			}
		})
	}
}

// problems are those that the node status tells of.
func (w *world) problems(name string) string {
	w.t.Helper()
	it, err := store.Get[*cluster.NodeStatus](w.t.Context(), store.New(w.kv, cluster.Identity{Role: cluster.Operator}), cluster.KeyNodeStatus(name))
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.Join(it.Value.Problems, "\n")
}

// TestCorruptCacheIsReportedUntilThereIsAGoodOne.
func TestCorruptCacheIsReportedUntilThereIsAGoodOne(t *testing.T) {
	for name, full := range map[string]bool{"room": false, "full disk": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.close()
				path := filepath.Join(w.caches, w.node(1))
				if err := os.WriteFile(path, []byte(`{"version":`), 0o600); err != nil {
					t.Fatal(err)
				}
				w.vpc(1)
				if full {
					w.save = func(string, []byte) error { return syscall.ENOSPC }
				}
				w.start("n1")
				w.settle(time.Minute)
				got := w.problems("n1")
				if said := strings.Contains(got, "read cache "+path); said != full {
					t.Errorf("problems = %q; the cache among them is %t, want %t", got, said, full)
				}
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if m, err := decodeCache(path, b, "n1", "id-n1"); (err == nil) == full || len(m.VPCs) == 1 == full {
					t.Errorf("the file afterwards: %v, %v", m, err)
				}
			})
		})
	}
}

// TestCorruptCacheWithoutStore: what was on the host's disk is lost, and while
// no records were read a file that is whole again is no comfort.
func TestCorruptCacheWithoutStore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.vpc(1)
		driver, err := w.hosts[w.node(1)].Open()
		if err != nil {
			t.Fatal(err)
		}
		defer driver.Close()
		s := store.New(w.kv, cluster.Identity{Role: cluster.Agent, Name: "n1"})
		a, err := New(Config{Node: "n1", NodeID: "id-n1", Driver: driver, Cache: "cache.json", Cached: []byte("garbage"), Store: s, Underlay: []UnderlaySpec{{Device: "u0"}}})
		if err != nil {
			t.Fatal(err)
		}
		view := store.NewMirror(store.MirrorConfig{Store: s}).Pull()
		in := Input{Now: time.Now(), View: view, Full: true, Saved: true}
		if e := a.Step(t.Context(), in); e.Cache == nil {
			t.Fatal("the underlay was not cached: nothing is tested")
		}
		a.Step(t.Context(), in)
		if a.loadErr == nil {
			t.Error("the lost cache is not told any more, and no record has been read")
		}
		in.SaveErr = errors.New("no space left on device")
		a.Step(t.Context(), in)
		if got := strings.Join(a.problems(view), "\n"); !strings.Contains(got, "no space left on device") {
			t.Errorf("problems = %q", got)
		}
	})
}

// TestPeersAreCachedInTheirTime: the file says at once that there is a VPC, and
// of its peers once in a while, or at the end.
func TestPeersAreCachedInTheirTime(t *testing.T) {
	for name, stopped := range map[string]bool{"running": false, "stopped": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.close()
				path := filepath.Join(w.caches, w.node(1))
				writes := 0
				w.save = func(path string, b []byte) error { writes++; return saveCache(path, b) }
				peers := func() int {
					b, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					m, err := decodeCache(path, b, "n1", "id-n1")
					if err != nil {
						t.Fatal(err)
					}
					return len(m.VPCs["vpc1"].Members)
				}
				w.vpc(1)
				w.start("n1")
				w.settle(cacheCoalesce / 2)
				if n := peers(); n != 1 {
					t.Fatalf("the file has %d members at first; want 1", n)
				}
				before := writes
				for i := 2; i <= 4; i++ {
					w.member(i)
					w.settle(cacheCoalesce / 5)
				}
				if n := peers(); n != 1 {
					t.Errorf("the file has %d members while they come; want 1", n)
				}
				if stopped {
					w.stop["n1"]()
				} else {
					w.settle(2 * cacheCoalesce)
				}
				if n := peers(); n != 4 || writes != before+1 {
					t.Errorf("the file has %d members after %d writes; want 4 after one", n, writes-before)
				}
			})
		})
	}
}
