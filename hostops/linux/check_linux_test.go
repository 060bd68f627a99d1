package linux

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestMissingFeatures is what a host is told that lacks a part of the kernel,
// or a privilege.
func TestMissingFeatures(t *testing.T) {
	fails := func(err unix.Errno) func() error {
		return func() error { return fmt.Errorf("try: %w", err) }
	}
	only := func(v6 bool, err unix.Errno) func(bool) error {
		return func(six bool) error {
			if six == v6 {
				return fmt.Errorf("open ICMP socket: %w", err)
			}
			return nil
		}
	}
	const modprobe, notSupported = "load the module: modprobe ", "try: operation not supported"
	for name, tt := range map[string]struct {
		without func(*trials)
		want    []string
	}{
		"whole":  {func(*trials) {}, nil},
		"bridge": {func(t *trials) { t.bridge = fails(unix.EOPNOTSUPP) }, []string{"bridge cannot be used (" + notSupported + "): " + modprobe + "bridge"}},
		"vxlan":  {func(t *trials) { t.vxlan = fails(unix.EOPNOTSUPP) }, []string{"vxlan cannot be used (" + notSupported + "): " + modprobe + "vxlan"}},
		"veth":   {func(t *trials) { t.veth = fails(unix.EOPNOTSUPP) }, []string{"veth cannot be used (" + notSupported + "): " + modprobe + "veth"}},
		"no nf_tables": {func(t *trials) { t.filter, t.seal, t.shield = fails(unix.EPROTONOSUPPORT), nil, nil },
			[]string{"nf_tables cannot be used (try: protocol not supported): " + modprobe + "nf_tables, and use a kernel with CONFIG_NF_TABLES_INET"}},
		"no netdev family": {func(t *trials) { t.seal = fails(unix.EOPNOTSUPP) },
			[]string{"nf_tables for devices cannot be used (" + notSupported + "): without it tenants reach the host, so there is no VPC; use a kernel with CONFIG_NF_TABLES_NETDEV"}},
		"no bridge family": {func(t *trials) { t.shield = fails(unix.EOPNOTSUPP) },
			[]string{"nf_tables for bridges cannot be used (" + notSupported + "): without it a tenant can pass for a VTEP within its own VPC, and reach the host by frames to 01:80:c2:00:00:02; use a kernel with CONFIG_NF_TABLES_BRIDGE"}},
		"no privilege for devices": {func(t *trials) { t.bridge = fails(unix.EPERM) },
			[]string{"bridge cannot be used (try: operation not permitted, CAP_NET_ADMIN is missing): " + modprobe + "bridge"}},
		"no privilege for probes": {func(t *trials) { t.probe = only(false, unix.EPERM) },
			[]string{"ICMP cannot be used (open ICMP socket: operation not permitted, CAP_NET_RAW is missing): without it no link is known to be up; give the agent CAP_NET_RAW"}},
		"no ICMP over IPv6": {func(t *trials) { t.probe = only(true, unix.EPROTONOSUPPORT) },
			[]string{"ICMP cannot be used (open ICMP socket: protocol not supported): without it no link is known to be up; give the agent CAP_NET_RAW"}},
		"no IPv6": {func(t *trials) { t.probe = only(true, unix.EAFNOSUPPORT) }, nil},
		"no IPv4": {func(t *trials) { t.probe = only(false, unix.EAFNOSUPPORT) },
			[]string{"ICMP cannot be used (open ICMP socket: address family not supported by protocol): without it no link is known to be up; give the agent CAP_NET_RAW"}},
		"two things": {func(t *trials) { t.vxlan, t.veth = fails(unix.EOPNOTSUPP), fails(unix.EOPNOTSUPP) },
			[]string{"vxlan cannot be used (" + notSupported + "): " + modprobe + "vxlan", "veth cannot be used (" + notSupported + "): " + modprobe + "veth"}},
	} {
		t.Run(name, func(t *testing.T) {
			fine := func() error { return nil }
			tries := trials{fine, fine, fine, fine, fine, fine, func(bool) error { return nil }}
			tt.without(&tries)
			var got []string
			for _, p := range tries.problems() {
				got = append(got, p.Reason)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("problems (-want, +got):\n%s", d)
			}
		})
	}
}
