package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
)

// TestRejoin cuts the way back of a server that was replaced short after each of
// its steps: what a start then finds leads to an empty store that joins.
func TestRejoin(t *testing.T) {
	for name, cut := range map[string]func(cfg serverConfig, path string) error{
		"before it began":  func(serverConfig, string) error { return nil },
		"the file says so": func(cfg serverConfig, path string) error { return writeConfig(path, joinedOnce(cfg)) },
		"an older copy is left aside": func(cfg serverConfig, _ string) error {
			return os.MkdirAll(filepath.Join(asideOf(cfg), "member"), 0o700)
		},
		"the mark is gone, no more":    func(cfg serverConfig, _ string) error { return os.Remove(markFounded(cfg)) },
		"the store is aside, not gone": func(cfg serverConfig, _ string) error { return os.Rename(cfg.DataDir, asideOf(cfg)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("MESHVPC_STATE_DIR", dir)
			path := filepath.Join(dir, "server.yaml")
			cfg := serverConfig{Name: "a", Engine: engineEtcd, DataDir: filepath.Join(dir, "store"), Bootstrap: &bootstrap{NodeID: "id-a"},
				Advertise: []string{"192.0.2.1:2379"}, TLS: pemFiles{Cert: filepath.Join(dir, "tls", "server.crt")}}
			for file, text := range map[string]string{filepath.Join(cfg.DataDir, "member", "wal", "0.wal"): "x", markFounded(cfg): "a\n",
				hostDirs().endpointsFile(): "192.0.2.1:2379\n192.0.2.2:2379\n", path: ""} {
				if err := writeFile(file, []byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			if err := cut(cfg, path); err != nil {
				t.Fatal(err)
			}
			if _, err := rejoin(cfg, path); err != nil {
				t.Fatal(err)
			}
			var now serverConfig
			if err := readConfig(path, &now); err != nil {
				t.Fatal(err)
			}
			if now.Joined == nil || now.Joined.NodeID != "id-a" || len(now.Joined.Others) != 1 || now.Joined.Others[0] != "192.0.2.2:2379" || now.Bootstrap != nil {
				t.Errorf("server.yaml: %+v, %+v", now.Joined, now.Bootstrap)
			}
			if err := checkStore(now); err != nil || !etcd.IsNew(now.DataDir) {
				t.Errorf("it does not start: %v", err)
			}
			if _, err := os.Stat(asideOf(now)); !os.IsNotExist(err) {
				t.Errorf("the old store is left: %v", err)
			}
		})
	}
}

func joinedOnce(cfg serverConfig) serverConfig {
	cfg.Joined, cfg.Bootstrap = &joinedServer{NodeID: cfg.Bootstrap.NodeID, Others: otherEndpoints(cfg)}, nil
	return cfg
}

func TestReplaceAfter(t *testing.T) {
	for text, want := range map[string]string{"": "0s", "90s": "1m30s", "1ms": "", "soon": "", "-5m": ""} {
		got, err := replaceAfter(serverConfig{ReplaceAfter: text})
		if (err == nil) != (want != "") || err == nil && got.String() != want {
			t.Errorf("%q: %v, %v; want %q", text, got, err, want)
		}
	}
}
