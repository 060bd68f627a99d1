//go:build linux

package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/integration/lab"
)

// Names on the field.
const (
	vpcName    = "bench"
	meshPlace  = "mesh" // the members' datacenter
	ourStore   = "store"
	idealStore = "ideal-store"
)

// field is the lab with both stores; no agent runs yet.
type field struct {
	lab     *lab.Lab
	members []*place // the last one joins
	ours    *shop
	ideal   *shop
	kernels *kernels
}

// shop is a host with a server, and a client of it in this process.
type shop struct {
	*place
	cli *clientv3.Client
	url string
	tls *tls.Config
	dir string // its configuration
}

func newField(ctx context.Context, tb testing.TB, hosts int) *field {
	tb.Helper()
	if hosts < 3 {
		tb.Fatalf("%d hosts: want 3 at least", hosts)
	}
	var list []lab.HostConfig
	for i := range hosts {
		list = append(list, lab.HostConfig{Name: fmt.Sprintf("m%03d", i+1), Datacenter: meshPlace})
	}
	for _, name := range []string{ourStore, idealStore} {
		list = append(list, lab.HostConfig{Name: name, Datacenter: "control"})
	}
	l, err := lab.Start(ctx, lab.Config{Name: fmt.Sprintf("bench-%d", os.Getpid()), Hosts: list, Underlay: lab.IPv4, Binary: program})
	if errors.Is(err, lab.ErrRefused) && os.Getenv("MESHVPC_REQUIRE_NETNS") == "" {
		tb.Skipf("hosts cannot be made here: %v", err)
	}
	check(tb, err)
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
	})
	f := &field{lab: l}
	status, err := l.Status(ctx)
	check(tb, err)
	shops := map[string]*shop{}
	for _, h := range status.Hosts {
		p, err := reach(ctx, l, h)
		check(tb, err)
		tb.Cleanup(func() {
			if err := p.close(); err != nil {
				tb.Error(err)
			}
		})
		if h.Datacenter == meshPlace {
			f.members = append(f.members, p)
			continue
		}
		s, err := f.open(ctx, p)
		check(tb, err)
		tb.Cleanup(func() { s.cli.Close() })
		shops[h.Name] = s
	}
	f.ours, f.ideal = shops[ourStore], shops[idealStore]
	if f.kernels, err = listen(f.members); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := f.kernels.close(); err != nil {
			tb.Error(err)
		}
	})
	return f
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// open starts a server and dials it from its own host.
func (f *field) open(ctx context.Context, p *place) (*shop, error) {
	if _, err := f.meshvpc(ctx, p, "cluster", "init", "--name", p.Name, "--datacenter", p.Datacenter, "--underlay", lab.UnderlayDevice); err != nil {
		return nil, err
	}
	if err := f.lab.SetServices(ctx, p.Name, lab.Service{Name: "server", Argv: []string{"meshvpc", "server"}}); err != nil {
		return nil, err
	}
	if err := f.lab.StartServices(ctx, p.Name, ""); err != nil {
		return nil, err
	}
	etc := f.lab.Disk(p.Name).Etc
	s := &shop{place: p, url: "https://" + netip.AddrPortFrom(p.address(), 2379).String(), dir: etc, tls: shownBy(etc)}
	b, err := os.ReadFile(filepath.Join(etc, "client.yaml"))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(etc, "admin.yaml"), b, 0o600); err != nil { // what the commands here use
		return nil, err
	}
	s.cli, err = clientv3.New(clientv3.Config{Endpoints: []string{s.url}, TLS: s.tls, DialOptions: []grpc.DialOption{grpc.WithContextDialer(s.dial)}})
	if err != nil {
		return nil, err
	}
	return s, until(ctx, func() error {
		c, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		r, err := s.cli.Get(c, "/meshvpc/v1/leader/controller")
		if err == nil && r.Count == 0 {
			err = errors.New("the store has no leader record yet")
		}
		return err
	})
}

// shownBy is the TLS side of the server whose files are in a directory: its
// records are not only ours.
func shownBy(dir string) *tls.Config {
	file := func(name string) string { return filepath.Join(dir, "tls", name) }
	return membership.Dialer(membership.Files{CA: file("ca.crt"), Cert: file("server.crt"), Key: file("server.key")}.Load)
}

// dial is for grpc and HTTP.
func (s *shop) dial(ctx context.Context, address string) (c net.Conn, err error) {
	err = inside(s.net, func() error {
		c, err = (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(address, "https://"))
		return err
	})
	return c, err
}

// address is the host's on the underlay.
func (p *place) address() netip.Addr { return p.Underlay[0].Addr() }

// joiner is the member that joins.
func (f *field) joiner() *place { return f.members[len(f.members)-1] }

// others are the indexes of the members that are there already.
func (f *field) others() []int {
	list := make([]int, len(f.members)-1)
	for i := range list {
		list[i] = i
	}
	return list
}

func (f *field) meshvpc(ctx context.Context, p *place, args ...string) (string, error) {
	var out, words bytes.Buffer
	code, err := f.lab.Exec(ctx, lab.Command{Host: p.Name, Argv: append([]string{"meshvpc"}, args...), Stdout: &out, Stderr: &words})
	if err == nil && code != 0 {
		err = fmt.Errorf("exit %d: %s", code, strings.TrimSpace(words.String()))
	}
	if err != nil {
		return "", fmt.Errorf("meshvpc %s on %s: %w", strings.Join(args, " "), p.Name, err)
	}
	return out.String(), nil
}

// until tries f until it succeeds or ctx ends.
func until(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w (gave up: %w)", err, ctx.Err())
		}
		pause(20 * time.Millisecond)
	}
}

// log is the end of what a member's service wrote.
func (f *field) log(p *place, service string) string {
	b, err := os.ReadFile(f.lab.Disk(p.Name).Log + "/" + service + ".log")
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}
