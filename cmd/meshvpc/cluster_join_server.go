package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

// joinedServer is what a server that has joined knows before its store runs.
type joinedServer struct {
	NodeID string   `json:"node_id"`
	Others []string `json:"others,omitempty"` // store addresses of other servers; none before the join has ended
}

// joiningServer is the server that a host will be by a token's role, nil for none.
// One whose join was cut short goes on; another is refused.
func joiningServer(d dirs, role cluster.TokenRole, name, dc string, bind, advertise netip.Addr) (*serverConfig, error) {
	var had serverConfig
	err := readConfig(d.server(), &had)
	switch {
	case err == nil && had.Joined != nil && had.Joined.Others == nil && role != cluster.TokenNode:
		if had.Name != name || had.Witness != (role == cluster.TokenWitness) {
			return nil, failed("use the same name and a token of the same role as before, or remove that file",
				"join cluster: this host began to join as server %s: %s exists", had.Name, d.server())
		}
		return &had, nil
	case err == nil:
		return nil, failed("it is a node already: start \"meshvpc server\" and, unless it is a witness, \"meshvpc agent\"", "join cluster: this host is a server: %s exists", d.server())
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case role == cluster.TokenNode:
		return nil, nil
	}
	cfg := newServerConfig(d, name, dc, bind, advertise)
	cfg.Joined = &joinedServer{NodeID: randomID()}
	for _, old := range []string{markRemoved(cfg), markFounded(cfg), revokedFile(cfg)} { // of another time
		if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("join cluster: %w", err)
		}
	}
	if role == cluster.TokenWitness {
		if _, err := os.Stat(d.agent()); err == nil {
			return nil, failed("make a server of it, by a token of the role server", "join cluster: this host is a node, and a witness has no agent: %s exists", d.agent())
		}
		cfg.Witness, cfg.TLS.CAKey = true, ""
	}
	return &cfg, nil
}

func serverRequest(cfg serverConfig) (*membership.ServerRequest, error) {
	addresses, err := serverAddresses(cfg)
	if err != nil {
		return nil, err
	}
	return &membership.ServerRequest{Address: cfg.Advertise[0], Peer: peerAddresses(cfg)[0], Addresses: addresses}, nil
}

// peerAddresses are what other servers dial.
func peerAddresses(cfg serverConfig) []string {
	if len(cfg.AdvertisePeers) > 0 {
		return cfg.AdvertisePeers
	}
	return cfg.ListenPeers
}

// serverFiles are what a server keeps of its join, server.yaml the last: with
// it the join has ended. The CA's key comes now, for the certificate.
func serverFiles(ctx context.Context, d dirs, address string, cfg serverConfig, own membership.Credential, others []string) ([]file, error) {
	files := []file{{cfg.TLS.CA, own.CA}, {cfg.TLS.Cert, own.Cert}}
	if !cfg.Witness {
		key, err := membership.Authority(ctx, address, own)
		if err != nil {
			return nil, err
		}
		if _, err := membership.ReadCA(own.CA, key); err != nil {
			return nil, err
		}
		files = append(files, file{cfg.TLS.CAKey, key})
	}
	cfg.Joined.Others = others
	return append(files, file{d.server(), cfg}), nil
}

// byHand is what to start on a host that has joined.
func byHand(role cluster.TokenRole) string {
	switch role {
	case cluster.TokenServer:
		return "meshvpc server and meshvpc agent"
	case cluster.TokenWitness:
		return "meshvpc server"
	default:
		return "meshvpc agent"
	}
}
