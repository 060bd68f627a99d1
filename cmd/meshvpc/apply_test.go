package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/document"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// What a file can say of a VPC and what flags of vpc create can are the same.
func TestDocumentsSayWhatFlagsSay(t *testing.T) {
	properties := document.Schema()["$defs"].(map[string]any)[document.KindVPC].(map[string]any)["properties"].(map[string]any)
	var fields, flags []string
	for name := range properties {
		if name != "kind" && name != "name" {
			fields = append(fields, strings.ReplaceAll(name, "_", "-"))
		}
	}
	notOfTheVPC := []string{"timeout", "config", "output", "no-wait"}
	for _, f := range findCommand(findCommand(testApp().Commands, "vpc").Subcommands, "create").Flags {
		if name := f.Names()[0]; !slices.Contains(notOfTheVPC, name) {
			flags = append(flags, name)
		}
	}
	slices.Sort(fields)
	slices.Sort(flags)
	if !slices.Equal(fields, flags) {
		t.Errorf("files say %v, flags %v", fields, flags)
	}
}

// readerFunc answers a confirmation.
type readerFunc func(b []byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// Somebody who changes a VPC, makes one or takes one away between the plan and
// the write is told of, and nothing is written over: not even the other VPCs.
func TestApplyLosesRaces(t *testing.T) {
	s := startStore(t)
	operator := store.New(s.kv, cluster.Identity{Role: cluster.Operator})
	dir := t.TempDir()
	t.Setenv("MESHVPC_CONFIG", filepath.Join(dir, "client.yaml"))
	if err := writeConfig(filepath.Join(dir, "client.yaml"), newClientConfig([]string{s.endpoint}, s.admin)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "vpcs.yaml")
	if err := os.WriteFile(file, []byte("- {kind: VPC, name: new}\n- {kind: VPC, name: known, protect: true}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	put := func(name string, change func(*cluster.VPCSpec)) {
		spec := &cluster.VPCSpec{State: cluster.VPCActive, Members: cluster.SelectAll, PeerNetwork: cluster.DefaultPeerNetwork, Created: cluster.At(time.Unix(1800000000, 0))}
		change(spec)
		var c store.Change
		store.Set(&c, cluster.KeyVPCSpec(name), spec, nil, 0)
		if _, err := operator.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(name string) {
		var c store.Change
		c.Remove(cluster.KeyVPCSpec(name), 0)
		if _, err := operator.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		meanwhile func()
		lost      string
	}{
		"changed":             {func() { put("known", func(s *cluster.VPCSpec) { s.MTU = 1400 }) }, "known"},
		"written again":       {func() { put("known", func(*cluster.VPCSpec) {}) }, "known"},
		"made":                {func() { put("new", func(*cluster.VPCSpec) {}) }, "new"},
		"taken away":          {func() { remove("known") }, "known"},
		"one to be deleted":   {func() { put("old", func(s *cluster.VPCSpec) { s.Protect = true }) }, "old"},
		"two of them":         {func() { put("old", func(*cluster.VPCSpec) {}); remove("known") }, "known, VPC old"},
		"of no concern to it": {func() { put("other", func(*cluster.VPCSpec) {}) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, n := range []string{"new", "other"} {
				remove(n)
			}
			put("known", func(*cluster.VPCSpec) {})
			put("old", func(*cluster.VPCSpec) {})
			var before int64
			answer := strings.NewReader("old\n")
			in := readerFunc(func(b []byte) (int, error) {
				if answer.Len() == 4 {
					tt.meanwhile()
					_, header, err := operator.Read(t.Context(), cluster.PrefixVPCs)
					if err != nil {
						t.Error(err)
					}
					before = header.Revision
				}
				return answer.Read(b)
			})
			var errs bytes.Buffer
			code := newProgram(in, io.Discard, &errs).run(context.Background(), []string{"meshvpc", "apply", "-f", file, "--prune", "--no-wait"})
			_, header, err := operator.Read(t.Context(), cluster.PrefixVPCs)
			if err != nil {
				t.Fatal(err)
			}
			if tt.lost == "" {
				if code != exitDone || header.Revision != before+1 {
					t.Errorf("exit %d and %d commits; want 0 and 1: %s", code, header.Revision-before, errs.String())
				}
				return
			}
			want := "somebody else changed VPC " + tt.lost + " since the plan was made; 0 of 3 objects were written\nhint: run it again"
			if code != exitFailed || header.Revision != before || !strings.Contains(errs.String(), want) {
				t.Errorf("exit %d, %d commits and:\n%swant 1, 0 and %q", code, header.Revision-before, errs.String(), want)
			}
		})
	}
}

// Batches hold what a transaction can: in number, and in bytes.
func TestApplyBatches(t *testing.T) {
	for name, tt := range map[string]struct {
		steps, excluded int
		want            []int
	}{
		"none":       {},
		"few":        {steps: 3, want: []int{3}},
		"as many":    {steps: 128, want: []int{128}},
		"one more":   {steps: 129, want: []int{128, 1}},
		"large ones": {steps: 20, excluded: 9000, want: []int{7, 7, 6}}, // of some 135 kB
	} {
		t.Run(name, func(t *testing.T) {
			a := application{program: newProgram(nil, nil, nil), view: &store.View{}}
			a.steps = append(a.steps, document.Step{Name: "same", Action: document.Unchanged})
			for i := range tt.steps {
				spec := cluster.VPCSpec{State: cluster.VPCActive, Members: cluster.SelectAll, PeerNetwork: cluster.DefaultPeerNetwork}
				for address := spec.PeerNetwork.Addr(); len(spec.Exclude) < tt.excluded; address = address.Next() {
					spec.Exclude = append(spec.Exclude, address)
				}
				a.steps = append(a.steps, document.Step{Name: "v" + string(rune('a'+i%26)) + string(rune('a'+i/26)), Action: document.Create, Spec: &spec})
			}
			var got []int
			for _, b := range a.batches() {
				got = append(got, len(b.steps))
				if b.change.Ops() != len(b.steps) {
					t.Errorf("%d writes for %d steps", b.change.Ops(), len(b.steps))
				}
				if n := len(b.change.String()); n > largestBatch || n != b.size {
					t.Errorf("%d bytes, counted as %d; want at most %d", n, b.size, largestBatch)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
