package linux

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

// setDrops counts what is dropped, by the port that it came in by and the reason.
const setDrops = "drops"

// What setDrops holds: of a port that is not dropped from any more, for so long; and
// so many counts. A frame that finds no room is dropped all the same.
const (
	dropsKept = 24 * time.Hour
	dropsMost = 1 << 16
)

func dropSet() *nftables.Set {
	return &nftables.Set{
		Table: bridgeTable(), Name: setDrops, Concatenation: true,
		KeyType:    nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeInteger),
		HasTimeout: true, Timeout: dropsKept, Dynamic: true, Size: dropsMost,
	}
}

// reasonKey is a reason in a key: its first four bytes differ from all others'.
func reasonKey(reason string) []byte {
	key := make([]byte, 4)
	copy(key, reason)
	return key
}

// dropFor ends a rule: the frame is counted and dropped for one of
// hostops.DropReasons.
func dropFor(reason string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chainDrop(reason)}}
}

func chainDrop(reason string) string { return "drop-" + reason }

// dropChains count by rules of their own: one that cannot count matches no more, and
// must not keep the frame from being dropped.
func dropChains() (chains []guardChain) {
	for _, reason := range hostops.DropReasons() {
		if reason == hostops.DropWard {
			continue // a ward counts by itself
		}
		chains = append(chains, guardChain{chainDrop(reason), nil, []rule{
			{"count", []expr.Any{
				&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: regPort},
				&expr.Immediate{Register: regRest, Data: reasonKey(reason)},
				&expr.Dynset{SrcRegKey: regPort, SetName: setDrops, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{&expr.Counter{}}},
			}},
			{reason, drop()},
		}})
	}
	return chains
}

// Drops implements hostops.Dropper.
func (d *Driver) Drops(ctx context.Context) (map[string]uint64, error) {
	out := map[string]uint64{}
	for _, reason := range hostops.DropReasons() {
		out[reason] = 0
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("count drops: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var chains []string
	if d.filter.guards {
		for _, c := range dropChains() {
			chains = append(chains, c.name)
		}
	}
	for device := range d.filter.wards {
		chains = append(chains, ward+device)
	}
	for _, name := range chains {
		if err := d.countDrops(name, out); err != nil {
			return nil, fmt.Errorf("count drops: %w", err)
		}
	}
	return out, nil
}

// countDrops adds what the rules of a chain have counted, by reason: those of a ward
// have one.
func (d *Driver) countDrops(chain string, out map[string]uint64) error {
	d.requests.Add(1)
	rs, err := d.filter.cc.GetRules(bridgeTable(), &nftables.Chain{Table: bridgeTable(), Name: chain})
	if err != nil {
		return err
	}
	for _, r := range rs {
		reason, guards := strings.CutPrefix(commentOf(r), guardText)
		if !guards {
			reason = hostops.DropWard
		}
		for _, e := range r.Exprs {
			if n, ok := e.(*expr.Counter); ok {
				out[reason] += n.Packets
			}
		}
	}
	return nil
}

// PortDrops implements hostops.Dropper.
func (d *Driver) PortDrops(ctx context.Context) (map[string]map[string]uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("count drops of ports: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.filter.guards {
		return nil, nil
	}
	d.requests.Add(1)
	elems, err := d.filter.cc.GetSetElements(dropSet())
	if err != nil {
		return nil, fmt.Errorf("count drops of ports: %w", err)
	}
	out := map[string]map[string]uint64{}
	for _, e := range elems {
		if len(e.Key) != ifNameSize+4 || e.Counter == nil || e.Counter.Packets == 0 {
			continue
		}
		for _, reason := range hostops.DropReasons() {
			if string(reasonKey(reason)) != string(e.Key[ifNameSize:]) {
				continue
			}
			device := cstr(e.Key[:ifNameSize])
			if out[device] == nil {
				out[device] = map[string]uint64{}
			}
			out[device][reason] = e.Counter.Packets
		}
	}
	return out, nil
}
