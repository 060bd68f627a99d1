//go:build linux

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/integration/lab"
)

// side is one of the two that are compared. Its service is defined on every
// member.
type side interface {
	name() string
	shop() *shop
	// entry is what others have for a member at an address.
	entry(to netip.Addr) entry
	// up starts all agents but the joiner's and returns when the mesh is whole.
	up(ctx context.Context) error
	// down kills all agents.
	down(ctx context.Context) error
	// prepare makes the joiner ready to start, leave undoes its join.
	prepare(ctx context.Context) error
	leave(ctx context.Context) error
	// target is the namespace to ping from, and the first member's address.
	target() (namespace string, to netip.Addr)
	// ghost is the record of a member that does not exist.
	ghost(i int, at netip.Addr) (key, value string)
	// stage names what a key that changes in a join tells; "" is nothing.
	stage(key string) string
}

// idealSide is the yardstick.
type idealSide struct{ *field }

const idealService = "ideal"

func (s *idealSide) name() string                 { return "ideal" }
func (s *idealSide) shop() *shop                  { return s.ideal }
func (s *idealSide) entry(a netip.Addr) entry     { return entry{to: a} }
func (s *idealSide) overlay(i int) netip.Addr     { return netip.AddrFrom4([4]byte{10, 96, byte(i), 0}) }
func (s *idealSide) target() (string, netip.Addr) { return "", s.overlay(0) }
func (s *idealSide) stage(key string) string {
	if strings.HasPrefix(key, idealPrefix) {
		return "member"
	}
	return ""
}

func (s *idealSide) service(i int) (lab.Service, error) {
	self, err := os.Executable()
	p := s.members[i]
	return lab.Service{Name: idealService, Argv: []string{self, idealWord, s.ideal.url, p.address().String(), lab.UnderlayDevice, s.overlay(i).String(), s.ideal.dir}}, err
}

func (s *idealSide) up(ctx context.Context) error {
	var waits []*await
	for _, i := range s.others() {
		for _, j := range s.others() {
			if i != j {
				waits = append(waits, s.kernels.expect(s.entry(s.members[j].address()), false, i))
			}
		}
	}
	for _, i := range s.others() {
		if err := s.lab.StartServices(ctx, s.members[i].Name, idealService); err != nil {
			return err
		}
	}
	for _, w := range waits {
		if err := s.kernels.wait(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

func (s *idealSide) down(ctx context.Context) error {
	for i, p := range s.members {
		if err := errors.Join(s.lab.Kill(ctx, p.Name, idealService), s.unmake(i)); err != nil {
			return err
		}
	}
	_, err := s.ideal.cli.Delete(ctx, idealPrefix, clientv3.WithPrefix())
	return err
}

// unmake removes a member's device.
func (s *idealSide) unmake(i int) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(s.members[i].net), nl.FAMILY_ALL)
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.LinkByName(idealDevice)
	if _, none := err.(netlink.LinkNotFoundError); none {
		return nil
	}
	if err != nil {
		return err
	}
	return h.LinkDel(l)
}

func (s *idealSide) prepare(context.Context) error { return nil }

func (s *idealSide) leave(ctx context.Context) error {
	gone := s.kernels.expect(s.entry(s.joiner().address()), true, s.others()...)
	last := len(s.members) - 1
	if err := errors.Join(s.lab.Kill(ctx, s.joiner().Name, idealService), s.unmake(last)); err != nil {
		return err
	}
	if _, err := s.ideal.cli.Delete(ctx, idealPrefix+s.overlay(last).String()); err != nil {
		return err
	}
	return s.kernels.wait(ctx, gone)
}

func (s *idealSide) ghost(i int, at netip.Addr) (key, value string) {
	return idealPrefix + netip.AddrFrom4([4]byte{10, 97, byte(i), 0}).String(), newIdealMember(at).json()
}

// ourSide is meshvpc.
type ourSide struct {
	*field
	first netip.Addr // VTEP address of the first member
}

const ourService = "agent"

var agentService = lab.Service{Name: ourService, Argv: []string{"meshvpc", "agent"}}

func (s *ourSide) name() string                 { return "ours" }
func (s *ourSide) shop() *shop                  { return s.ours }
func (s *ourSide) entry(a netip.Addr) entry     { return entry{to: a, flood: true} }
func (s *ourSide) target() (string, netip.Addr) { return "vpc-" + vpcName, s.first }

func (s *ourSide) stage(key string) string {
	me := s.joiner().Name
	switch key {
	case cluster.KeyNodeStatus(me):
		return "reported"
	case cluster.KeyMember(vpcName, me):
		return "member"
	case cluster.KeyVPCStatus(me, vpcName):
		return "status"
	case cluster.KeyLive(me):
		return "live"
	}
	return ""
}

// found makes the VPC and joins all but the joiner.
func (s *ourSide) found(ctx context.Context) error {
	if _, err := s.meshvpc(ctx, s.ours.place, "vpc", "create", vpcName, "--peer-network", "10.100.0.0/16",
		"--members", "dc="+meshPlace, "--mtu", "1450", "--no-wait"); err != nil {
		return err
	}
	for _, i := range s.others() {
		if err := s.join(ctx, s.members[i]); err != nil {
			return err
		}
	}
	return nil
}

func (s *ourSide) join(ctx context.Context, p *place) error {
	out, err := s.meshvpc(ctx, s.ours.place, "cluster", "token", "create", "-o", "json")
	if err != nil {
		return err
	}
	var token struct{ Token string }
	if err := json.Unmarshal([]byte(out), &token); err != nil {
		return err
	}
	_, err = s.meshvpc(ctx, p, "cluster", "join", s.ours.address().String(), "--token", token.Token, "--name", p.Name,
		"--datacenter", meshPlace, "--underlay", lab.UnderlayDevice)
	return err
}

func (s *ourSide) up(ctx context.Context) error {
	r, err := s.ours.cli.Get(ctx, "none")
	if err != nil {
		return err
	}
	for _, i := range s.others() {
		if err := s.lab.StartServices(ctx, s.members[i].Name, ourService); err != nil {
			return err
		}
	}
	if err := until(ctx, func() error { return s.ready(ctx, r.Header.Revision) }); err != nil {
		return err
	}
	r, err = s.ours.cli.Get(ctx, cluster.KeyMember(vpcName, s.members[0].Name))
	if err != nil || len(r.Kvs) == 0 {
		return fmt.Errorf("read the first member: %d records, %w", len(r.Kvs), err)
	}
	var m cluster.Member
	s.first = m.VTEP
	if err := json.Unmarshal(r.Kvs[0].Value, &m); err != nil {
		return err
	}
	s.first = m.VTEP
	return nil
}

// ready reports whether all but the joiner have said, since a revision, that
// they are.
func (s *ourSide) ready(ctx context.Context, since int64) error {
	for _, i := range s.others() {
		name := s.members[i].Name
		r, err := s.ours.cli.Get(ctx, cluster.KeyVPCStatus(name, vpcName))
		if err != nil {
			return err
		}
		if len(r.Kvs) == 0 || r.Kvs[0].ModRevision <= since {
			return fmt.Errorf("%s has not reported", name)
		}
		var st cluster.VPCStatus
		if err := json.Unmarshal(r.Kvs[0].Value, &st); err != nil {
			return err
		}
		if !st.Ready {
			return fmt.Errorf("%s is not ready: %s", name, st.Reason)
		}
	}
	return nil
}

func (s *ourSide) down(ctx context.Context) error {
	for _, p := range s.members {
		if err := s.lab.Kill(ctx, p.Name, ourService); err != nil {
			return err
		}
	}
	return nil
}

func (s *ourSide) prepare(ctx context.Context) error { return s.join(ctx, s.joiner()) }

// leave takes the joiner out by the operator's way, so that nothing of it is
// left on its host or in the store but the address in quarantine.
func (s *ourSide) leave(ctx context.Context) error {
	me := s.joiner()
	gone := s.kernels.expect(s.entry(me.address()), true, s.others()...)
	if _, err := s.meshvpc(ctx, s.ours.place, "node", "remove", me.Name, "--yes"); err != nil {
		return err
	}
	if err := s.kernels.wait(ctx, gone); err != nil {
		return err
	}
	err := until(ctx, func() error {
		r, err := s.ours.cli.Get(ctx, cluster.PrefixHost(me.Name), clientv3.WithPrefix())
		if err == nil && r.Count > 0 {
			err = fmt.Errorf("%s is still leaving", me.Name)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := s.lab.Kill(ctx, me.Name, ourService); err != nil {
		return err
	}
	_, err = s.meshvpc(ctx, me, "node", "purge", "--yes")
	return err
}

func (s *ourSide) ghost(i int, at netip.Addr) (key, value string) {
	b, err := cluster.Encode(&cluster.Member{NodeID: fmt.Sprintf("ghost%d", i), Datacenter: meshPlace,
		VTEP: netip.AddrFrom4([4]byte{10, 100, 200, byte(i)}), UnderlayIPv4: at, Transport: cluster.Multipoint}, nil)
	if err != nil {
		panic(err) // of a record made here
	}
	return cluster.KeyMember(vpcName, fmt.Sprintf("ghost%d", i)), string(b)
}
