package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
)

func TestExplainDisk(t *testing.T) {
	for name, tt := range map[string]struct {
		err    error
		others string
		want   []string
	}{
		"full, with others": {etcd.ErrFull, "192.0.2.2:2379\n", []string{"du -xh / | sort -h | tail", "start again: meshvpc server", "the other servers go on meanwhile"}},
		"full, alone":       {etcd.ErrFull, "", []string{"du -xh / | sort -h | tail", "traffic goes on"}},
		"read-only":         {etcd.ErrReadOnly, "", []string{fmt.Sprintf(remount, "/")}},
		"failing":           {etcd.ErrFailing, "192.0.2.2:2379\n", []string{"dmesg", "meshvpc node remove a", "meshvpc cluster join"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("MESHVPC_STATE_DIR", dir)
			if err := writeFile(hostDirs().endpointsFile(), []byte(tt.others)); err != nil {
				t.Fatal(err)
			}
			cfg := serverConfig{Name: "a", DataDir: "/no/such/store", Advertise: []string{"192.0.2.1:2379"}}
			err := explainEnd(t.Context(), cfg, nil, fmt.Errorf("serve etcd: %w", tt.err), nil)
			code, do := remedy(t.Context(), err)
			if code != exitFailed || !errors.Is(err, tt.err) || !strings.Contains(err.Error(), "disk of /no/such/store: serve etcd: ") {
				t.Errorf("%d, %v", code, err)
			}
			for _, want := range tt.want {
				if !strings.Contains(do, want) {
					t.Errorf("%q is not in %q", want, do)
				}
			}
		})
	}
	if got := mountOf("/dev/nothing"); got != "/dev" {
		t.Errorf("what is not there is on %s", got)
	}
}
