package cni

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// engine is a container runtime: the reference library, and one network.
type engine struct {
	t    *testing.T
	cni  *libcni.CNIConfig
	list *libcni.NetworkConfigList
}

// newEngine starts the plugin, which is this program, for an agent's socket; keys
// are those of the network that the plugin reads, and what stands before it.
func newEngine(t *testing.T, socket, version, keys string, before ...string) *engine {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "meshvpc")); err != nil {
		t.Fatal(err)
	}
	t.Setenv(socketWord, socket)
	t.Setenv(nodeWord, "a")
	plugins := ""
	for _, b := range before {
		plugins += b + ", "
	}
	text := fmt.Sprintf(`{"cniVersion": %q, "name": "net1", "plugins": [%s{"type": "meshvpc", %s}]}`, version, plugins, keys)
	list, err := libcni.NetworkConfFromBytes([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return &engine{t, libcni.NewCNIConfigWithCacheDir([]string{dir}, filepath.Join(dir, "cache"), nil), list}
}

// of is what a runtime says of a container.
func of(id, netns string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: id, NetNS: netns, IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"vpc", "blue"}, {"endpoint", "stolen"}}}
}

func (e *engine) add(rt *libcni.RuntimeConf) (*types100.Result, error) {
	r, err := e.cni.AddNetworkList(e.t.Context(), e.list, rt)
	if err != nil {
		return nil, err
	}
	return types100.NewResultFromResult(r)
}

func (e *engine) mustAdd(rt *libcni.RuntimeConf) *types100.Result {
	e.t.Helper()
	r, err := e.add(rt)
	if err != nil {
		e.t.Fatal(err)
	}
	return r
}

func (e *engine) del(rt *libcni.RuntimeConf) error {
	return e.cni.DelNetworkList(e.t.Context(), e.list, rt)
}
func (e *engine) check(rt *libcni.RuntimeConf) error {
	return e.cni.CheckNetworkList(e.t.Context(), e.list, rt)
}
func (e *engine) status() error { return e.cni.GetStatusNetworkList(e.t.Context(), e.list) }

func (e *engine) gc(valid ...types.GCAttachment) error {
	return e.cni.GCNetworkList(e.t.Context(), e.list, &libcni.GCArgs{ValidAttachments: valid})
}

// wantCode fails unless the plugin answered with that code.
func wantCode(t *testing.T, err error, code uint) {
	t.Helper()
	e, ok := errors.AsType[*types.Error](err)
	if !ok || e.Code != code {
		t.Errorf("the plugin says %v; want code %d", err, code)
	}
}
