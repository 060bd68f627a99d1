package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// pods is a container runtime on one host of a lab, by the reference library: its
// containers are namespaces, and its plugins are run there.
type pods struct {
	version.PluginDecoder
	*mesh
	host string
	dir  string // of plugins that are not ours
	cni  *libcni.CNIConfig
	list *libcni.NetworkConfigList
}

// podsOn is a runtime with a network of one plugin.
func (m *mesh) podsOn(host, network, plugin string) *pods {
	m.t.Helper()
	list, err := libcni.NetworkConfFromBytes(fmt.Appendf(nil, `{"cniVersion": "1.1.0", "name": %q, "plugins": [%s]}`, network, plugin))
	m.must(err)
	p := &pods{mesh: m, host: host, list: list}
	p.cni = libcni.NewCNIConfigWithCacheDir([]string{"/opt/cni/bin"}, m.t.TempDir(), p)
	return p
}

func (p *pods) FindInPath(plugin string, _ []string) (string, error) {
	if plugin == "meshvpc" {
		return plugin, nil // the lab knows where
	}
	return filepath.Join(p.dir, plugin), nil
}

// ExecPlugin runs a plugin on the host; it is killed when ctx ends.
func (p *pods) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	var out, words bytes.Buffer
	code, err := p.Lab.Exec(ctx, lab.Command{Host: p.host, Argv: []string{path}, Env: env, Stdin: bytes.NewReader(stdin), Stdout: &out, Stderr: &words})
	if err != nil || code == 0 {
		return out.Bytes(), err
	}
	e := new(types.Error)
	if json.Unmarshal(out.Bytes(), e) == nil && e.Code != 0 {
		return nil, e
	}
	return nil, fmt.Errorf("plugin exits with %d: %s%s", code, out.Bytes(), words.Bytes())
}

// start makes the namespaces of containers.
func (p *pods) start(ctx context.Context, ids ...string) {
	p.t.Helper()
	p.must(p.Lab.Tamper(ctx, p.host, "", append([]string{"netns-add"}, ids...)...))
}

// end takes the namespaces away.
func (p *pods) end(ctx context.Context, ids ...string) {
	p.t.Helper()
	p.must(p.Lab.Tamper(ctx, p.host, "", append([]string{"netns-del"}, ids...)...))
}

func pod(id string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: id, NetNS: "/run/netns/" + id, IfName: "eth0"}
}

func (p *pods) add(ctx context.Context, id string) ([]netip.Addr, error) {
	r, err := p.cni.AddNetworkList(ctx, p.list, pod(id))
	if err != nil {
		return nil, err
	}
	full, err := types100.NewResultFromResult(r)
	if err != nil {
		return nil, err
	}
	var ips []netip.Addr
	for _, ip := range full.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		ips = append(ips, a.Unmap())
	}
	return ips, nil
}

func (p *pods) del(ctx context.Context, id string) error {
	return p.cni.DelNetworkList(ctx, p.list, pod(id))
}

func (p *pods) check(ctx context.Context, id string) error {
	return p.cni.CheckNetworkList(ctx, p.list, pod(id))
}

func (p *pods) gc(ctx context.Context, ids ...string) error {
	args := &libcni.GCArgs{}
	for _, id := range ids {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: id, IfName: "eth0"})
	}
	return p.cni.GCNetworkList(ctx, p.list, args)
}

// newPodNetwork is three nodes with a VPC that gives addresses.
func newPodNetwork(t *testing.T) *mesh {
	t.Helper()
	m := newNodes(t, lab.IPv6)
	m.create(within(t), "vpc1", "--network", "10.10.0.0/20,fd00:11::/64")
	return m
}

// nothingOfPods waits until records and hosts have nothing of containers but what is
// in quarantine.
func (m *mesh) nothingOfPods(ctx context.Context) {
	m.t.Helper()
	m.must(m.Until(ctx, func() error {
		for _, prefix := range []string{"requests/", "vpcs/vpc1/endpoints/", "alloc/ip/vpc1/", "alloc/mac/vpc1/", "status/"} {
			var records []struct {
				Key   string          `json:"key"`
				Value json.RawMessage `json:"value"`
			}
			if err := m.JSON(ctx, &records, m.Server, "get", "--prefix", prefix); err != nil {
				return err
			}
			for _, r := range records {
				if strings.HasPrefix(prefix, "status/") && !strings.Contains(r.Key, "/endpoints/") || strings.HasPrefix(prefix, "alloc/") && bytes.Contains(r.Value, []byte(`"released": true`)) {
					continue
				}
				return fmt.Errorf("there is still %s: %s", r.Key, r.Value)
			}
		}
		if _, err := m.Meshvpc(ctx, m.Server, "ipam", "check"); err != nil {
			return err
		}
		for _, host := range m.hosts {
			out, err := m.Meshvpc(ctx, host, "endpoint", "list", "-o", "json")
			if err != nil {
				return err
			}
			if strings.Contains(out, "cni-") {
				return fmt.Errorf("%s has still endpoints: %s", host, out)
			}
			if err := m.noPorts(ctx, host); err != nil {
				return err
			}
		}
		return nil
	}))
}

// noPorts is an error if a host has a device that is a workload's port.
func (m *mesh) noPorts(ctx context.Context, host string) error {
	devices, err := m.Lab.Devices(ctx, host)
	if err != nil {
		return err
	}
	for _, d := range devices {
		if strings.HasPrefix(d, "me-") {
			return fmt.Errorf("%s has still the port %s", host, d)
		}
	}
	return nil
}

// TestCNI: two containers on two hosts reach each other, by both families, and leave
// nothing; what a runtime asks is answered.
func TestCNI(t *testing.T) {
	ctx := within(t)
	m := newPodNetwork(t)
	const plugin = `{"type": "meshvpc", "vpc": "vpc1"}`
	a, b := m.podsOn(m.hosts[0], "net1", plugin), m.podsOn(m.hosts[1], "net1", plugin)
	a.start(ctx, "c1", "c2")
	b.start(ctx, "c1") // of the same name, as people give them
	if _, err := a.add(ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	ips, err := b.add(ctx, "c1")
	if err != nil {
		t.Fatal(err)
	}
	if len(ips) != 2 || !ips[0].Is4() || !ips[1].Is6() {
		t.Errorf("the container has the addresses %v; want one of each family", ips)
	}
	for _, ip := range ips {
		if r, err := m.Lab.Ping(ctx, lab.Ping{Host: a.host, Workload: "c1", To: ip}); err != nil || r.Lost > 0 {
			t.Errorf("ping %s: %d of %d lost, %v", ip, r.Lost, r.Sent, err)
		}
	}
	if err := errors.Join(a.check(ctx, "c1"), b.check(ctx, "c1"), a.cni.GetStatusNetworkList(ctx, a.list)); err != nil {
		t.Error(err)
	}
	m.must(a.del(ctx, "c1"))
	if err := a.check(ctx, "c1"); err == nil {
		t.Error("CHECK after DEL finds nothing wrong")
	}
	if _, err := a.add(ctx, "c2"); err != nil {
		t.Error(err)
	}
	m.must(a.gc(ctx))
	m.must(b.del(ctx, "c1"))
	m.must(b.del(ctx, "c1"))
	m.nothingOfPods(ctx)
}

// TestCNIFixedEndpoint: a container that is made anew on another host has the same
// address.
func TestCNIFixedEndpoint(t *testing.T) {
	ctx := within(t)
	m := newPodNetwork(t)
	const plugin = `{"type": "meshvpc", "vpc": "vpc1", "endpoint": "web1"}`
	if _, err := m.Meshvpc(ctx, m.Server, "endpoint", "create", "web1", "--vpc", "vpc1"); err != nil {
		t.Fatal(err)
	}
	a, b := m.podsOn(m.hosts[0], "net1", plugin), m.podsOn(m.hosts[1], "net1", plugin)
	a.start(ctx, "c1")
	b.start(ctx, "c2")
	first, err := a.add(ctx, "c1")
	m.must(err)
	_, err = b.add(ctx, "c2")
	if e, ok := errors.AsType[*types.Error](err); !ok || e.Code != 100 {
		t.Errorf("ADD of an endpoint that another node has: %v; want code 100", err)
	}
	m.must(b.del(ctx, "c2"))
	m.must(a.check(ctx, "c1"))
	m.must(a.del(ctx, "c1"))
	second, err := b.add(ctx, "c2")
	m.must(err)
	if fmt.Sprint(first) != fmt.Sprint(second) {
		t.Errorf("the endpoint had %v and has %v", first, second)
	}
	m.must(b.del(ctx, "c2"))
	if out, err := m.Meshvpc(ctx, m.Server, "endpoint", "list"); err != nil || !strings.Contains(out, "web1") {
		t.Errorf("the endpoint has gone with its container: %s, %v", out, err)
	}
}

// TestCNITool: the lines that README has for no runtime.
func TestCNITool(t *testing.T) {
	ctx := within(t)
	m := newPodNetwork(t)
	tool, err := exec.CommandContext(ctx, "go", "tool", "-n", "cnitool").Output()
	m.must(err)
	bin, dir := t.TempDir(), t.TempDir()
	m.must(os.Symlink(binary, filepath.Join(bin, "meshvpc")))
	network, err := os.ReadFile("../deployments/cni/10-meshvpc.conflist")
	m.must(err)
	m.must(os.WriteFile(filepath.Join(dir, "10-meshvpc.conflist"), network, 0o600))
	host := m.hosts[1]
	m.must(m.Lab.Tamper(ctx, host, "", "netns-add", "web1"))
	var out bytes.Buffer
	line := "mount -t tmpfs none /var/lib; for verb in status add check del gc; do " + strings.TrimSpace(string(tool)) + " $verb meshvpc /run/netns/web1; done"
	code, err := m.Lab.Exec(ctx, lab.Command{Host: host, Stdout: &out, Stderr: &out, Env: append(os.Environ(), "CNI_PATH="+bin, "NETCONFPATH="+dir),
		Argv: []string{"sh", "-exc", line}}) // its cache, in /var/lib, is the host's alone
	if err != nil || code != 0 || !strings.Contains(out.String(), `"name": "eth0"`) {
		t.Errorf("cnitool: exit %d, %v: %s", code, err, out.String())
	}
	m.nothingOfPods(ctx)
}
