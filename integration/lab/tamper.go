package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// Tamper does to a host's network what a careless person or another program
// would, in the host's namespace or, with netns, in one of its /run/netns. The
// words, as in ip, bridge and nft:
//
//	link-del DEV          link-mtu DEV N         link-down DEV    link-up DEV
//	link-nomaster DEV     link-unisolate DEV     link-add-bridge DEV
//	link-add-vxlan DEV VNI PORT                  link-add-tap DEV BRIDGE
//	fdb-del DEV MAC IP    fdb-add DEV MAC IP     addr-del DEV PREFIX
//	addr-add DEV PREFIX   netns-add NAME...      netns-del NAME...
//	nft-flush             forward-drop           store-drop, store-pass: TCP to 2379
//	sysctl NAME VALUE     with NAME below net, as in ipv4/conf/all/rp_filter
//
// And to a directory, for all of the host, until its power is off:
//
//	disk-small DIR MIB    a disk of its own, with what was there; nobody may write meanwhile
//	disk-fill DIR MIB     leave so much free       disk-unfill DIR
//	disk-readonly DIR     for what is opened later disk-writable DIR
func (l *Lab) Tamper(ctx context.Context, host, netns string, words ...string) error {
	_, err := l.tamper(ctx, host, netns, words)
	return err
}

// DeleteDevice deletes a device by hand.
func (l *Lab) DeleteDevice(ctx context.Context, host, device string) error {
	return l.Tamper(ctx, host, "", "link-del", device)
}

// Devices names the network devices in a host's namespace.
func (l *Lab) Devices(ctx context.Context, host string) ([]string, error) {
	out, err := l.tamper(ctx, host, "", []string{"links"})
	if err != nil {
		return nil, err
	}
	var names []string
	if err := json.Unmarshal(out, &names); err != nil {
		return nil, fmt.Errorf("list devices of %s: %w", host, err)
	}
	return names, nil
}

// Flood is the default (all-zero MAC) forwarding entries of a tunnel.
func (l *Lab) Flood(ctx context.Context, host, device string) ([]string, error) {
	out, err := l.tamper(ctx, host, "", []string{"flood", device})
	if err != nil {
		return nil, err
	}
	var peers []string
	if err := json.Unmarshal(out, &peers); err != nil {
		return nil, fmt.Errorf("list flood entries of %s on %s: %w", device, host, err)
	}
	return peers, nil
}

// Drops is how many frames each rule of a host's filters for bridges (nft's family
// bridge) has counted, by the rule's comment; rules of one comment are summed up.
func (l *Lab) Drops(ctx context.Context, host string) (map[string]uint64, error) {
	out, err := l.tamper(ctx, host, "", []string{"drops"})
	if err != nil {
		return nil, err
	}
	var counts map[string]uint64
	if err := json.Unmarshal(out, &counts); err != nil {
		return nil, fmt.Errorf("count drops on %s: %w", host, err)
	}
	return counts, nil
}

func (l *Lab) tamper(ctx context.Context, host, netns string, words []string) ([]byte, error) {
	var out, complaint bytes.Buffer
	code, err := l.Exec(ctx, Command{
		Host: host, Workload: netns, Stdout: &out, Stderr: &complaint,
		Argv: append([]string{"meshvpc", stageWord, "tamper"}, words...),
	})
	if err == nil && code != 0 {
		err = fmt.Errorf("tamper with %s: %s", host, strings.TrimSpace(complaint.String()))
	}
	return out.Bytes(), err
}
