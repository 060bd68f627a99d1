package fake

import (
	"context"
	"fmt"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// station is a MAC on a bridge.
type station struct {
	bridge string
	mac    cluster.MAC
}

// Find implements hostops.Finder.
func (d *Driver) Find(ctx context.Context, vpc string, mac cluster.MAC) (hostops.Sighting, error) {
	if err := ctx.Err(); err != nil {
		return hostops.Sighting{}, fmt.Errorf("find %s: %w", mac, err)
	}
	d.host.net.mu.Lock()
	defer d.host.net.mu.Unlock()
	if d.host.state.Devices[vpc].Kind != hostops.KindBridge {
		return hostops.Sighting{}, fmt.Errorf("find %s: there is no bridge %s", mac, vpc)
	}
	for name, dev := range d.host.state.Devices {
		if dev.Master != vpc {
			continue
		}
		if dev.Pinned == mac {
			return hostops.Sighting{Device: name}, nil
		}
		if at, ok := dev.FDB.Get(mac); ok && at.IsValid() {
			return hostops.Sighting{Device: name, Peer: at}, nil
		}
	}
	return d.host.sightings[station{vpc, mac}], nil
}
