package main

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"sigs.k8s.io/yaml"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

// Ports of a server: joiners, the store's clients, other servers.
const (
	joinPort   = 2378
	clientPort = 2379
	peerPort   = 2380
)

// clientConfig is client.yaml: how a command finds the store, and who it is. The
// three PEM texts stand in the file, so that one file is all that a person
// needs. Without them the store is spoken to in the clear.
type clientConfig struct {
	Endpoints []string `json:"endpoints"` // host:port
	CA        string   `json:"ca,omitempty"`
	Cert      string   `json:"cert,omitempty"`
	Key       string   `json:"key,omitempty"`
	elsewhere
	StoreCA string `json:"store_ca,omitempty"` // PEM: of an external etcd's servers
}

// elsewhere is where to find servers if the store is an external etcd.
type elsewhere struct {
	Servers []string `json:"servers,omitempty"` // host:port of join services; else they are beside the endpoints
}

func (c clientConfig) credential() membership.Credential {
	b := membership.Credential{CA: []byte(c.CA), Cert: []byte(c.Cert), Key: []byte(c.Key)}
	if c.StoreCA != "" {
		b.StoreCA = []byte(c.StoreCA)
	}
	return b
}

func newClientConfig(endpoints []string, c membership.Credential) clientConfig {
	return clientConfig{Endpoints: endpoints, CA: string(c.CA), Cert: string(c.Cert), Key: string(c.Key), StoreCA: string(c.StoreCA)}
}

// agentConfig is agent.yaml.
type agentConfig struct {
	Node      string   `json:"node"`
	ID        string   `json:"id"`
	Endpoints []string `json:"endpoints"`
	elsewhere
	// Underlay is where tunnels end: device names, or addresses
	// BIND[=ADVERTISE], at most one a family. Empty: found by itself.
	Underlay []string `json:"underlay,omitempty"`
	// TLS is the node's credential; nil: the store is spoken to in the clear.
	TLS      *pemFiles `json:"tls,omitempty"`
	LogLevel string    `json:"log_level,omitempty"` // debug, info, warn, error
}

// serverConfig is server.yaml.
type serverConfig struct {
	Name        string   `json:"name"`
	Datacenter  string   `json:"datacenter"`
	Engine      string   `json:"engine"` // etcd or external
	DataDir     string   `json:"data_dir"`
	Listen      []string `json:"listen"`       // host:port, for clients
	Advertise   []string `json:"advertise"`    // host:port, what clients dial
	ListenPeers []string `json:"listen_peers"` // host:port, for other servers
	ListenJoin  []string `json:"listen_join"`  // host:port, for joiners
	// AdvertisePeers are what other servers dial, if not ListenPeers.
	AdvertisePeers []string `json:"advertise_peers,omitempty"`
	TLS            pemFiles `json:"tls"`
	// Witness says that this server votes and does nothing else: it has no CA key.
	Witness  bool   `json:"witness,omitempty"`
	LogLevel string `json:"log_level,omitempty"`
	// ReplaceAfter is how long a server is silent before another takes its vote, like
	// "10m"; default 5m. The server that leads goes by its own.
	ReplaceAfter string `json:"replace_after,omitempty"`
	// Follow names the device whose address the server's addresses follow when the
	// host gets another, "auto" for any; "": they were chosen, and stay.
	Follow string `json:"follow,omitempty"`
	// External is the store of the engine external.
	External *externalConfig `json:"external,omitempty"`
	// Bootstrap is what the first start of the first server writes into the
	// empty store.
	Bootstrap *bootstrap `json:"bootstrap,omitempty"`
	// Joined is what a server that was not the first knows of the others.
	Joined *joinedServer `json:"joined,omitempty"`
	// Restored is what the first start after a restore changes in the store.
	Restored *restored `json:"restored,omitempty"`
}

// bootstrap is what `cluster init` decided.
type bootstrap struct {
	Cluster      string           `json:"cluster"`
	ClusterID    string           `json:"cluster_id"`
	NodeID       string           `json:"node_id"`
	NodeKey      string           `json:"node_key"` // hash of the node's key
	Admin        *cluster.User    `json:"admin"`    // of the first credential, user:admin
	Token        *cluster.Token   `json:"token"`    // the first
	TokenID      string           `json:"token_id"`
	UnderlayPort uint16           `json:"underlay_port"`
	VNIs         cluster.VNIRange `json:"vni_range"`
}

// dirs are the host's directories, each settable by an environment variable.
type dirs struct{ config, state, run string }

func hostDirs() dirs {
	return dirs{
		config: envOr("MESHVPC_CONFIG_DIR", defaultDirs.config),
		state:  envOr("MESHVPC_STATE_DIR", defaultDirs.state),
		run:    envOr("MESHVPC_RUN_DIR", defaultDirs.run),
	}
}

func (d dirs) agent() string     { return filepath.Join(d.config, "agent.yaml") }
func (d dirs) server() string    { return filepath.Join(d.config, "server.yaml") }
func (d dirs) client() string    { return filepath.Join(d.config, "client.yaml") }
func (d dirs) workloads() string { return filepath.Join(d.config, "workloads.d") }
func (d dirs) socket() string    { return filepath.Join(d.run, "agent.sock") }
func (d dirs) store() string     { return filepath.Join(d.state, "store") }
func (d dirs) snapshots() string { return filepath.Join(d.state, "snapshots") }
func (d dirs) cache() string     { return filepath.Join(d.state, "agent-cache.json") }

func envOr(name, otherwise string) string { return cmp.Or(os.Getenv(name), otherwise) }

// clientPath is the client file: the one named, else $MESHVPC_CONFIG, else the
// host's.
func clientPath(named string) string {
	if named != "" {
		return named
	}
	return envOr("MESHVPC_CONFIG", hostDirs().client())
}

// readConfig reads a YAML file into v; a field that v does not have is an
// error that names it.
func readConfig(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read config: %w", err)
	}
	if err := yaml.UnmarshalStrict(b, v); err != nil {
		return &refusal{exitFailed, fmt.Errorf("read config %s: %w", path, err), "mend that file"}
	}
	return nil
}

// writeConfig writes v as YAML, by writeFile.
func writeConfig(path string, v any) error {
	b, err := yaml.Marshal(v)
	if err != nil {
		return fmt.Errorf("write config %s: %w", path, err)
	}
	return writeFile(path, b)
}

// writeFile replaces a file, of mode 0600; it holds the old or the new text,
// whenever the power fails.
func writeFile(path string, b []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write config: %w", err)
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*") // of mode 0600
	if err != nil {
		return fmt.Errorf("write config: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write config: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return syncDir(dir)
}

// syncDir has what was renamed into a directory outlive a power failure: a join
// that the store knows of, and its host no more, would leave the name taken.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return fmt.Errorf("write config: %w", err)
	}
	return nil
}

// readAgent reads the host's agent.yaml, or the file named.
func readAgent(path string) (agentConfig, error) {
	var a agentConfig
	if path == "" {
		path = hostDirs().agent()
	}
	if err := readConfig(path, &a); err != nil {
		return a, notJoined(err)
	}
	if err := cluster.CheckNodeName(a.Node); err != nil || a.ID == "" || len(a.Endpoints) == 0 {
		return a, failed("mend that file, or join the host anew", "read config %s: node, id and endpoints are required", path)
	}
	return a, nil
}

// notJoined is a configuration file that is not there.
func notJoined(err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return &refusal{exitFailed, err,
		`make this host a node: "meshvpc cluster init --datacenter DC" for the first, "meshvpc cluster join ADDR --datacenter DC --token T" for the others`}
}

// hostPort reads "host", "host:port", "2001:db8::1" or "[2001:db8::1]:port".
func hostPort(s string, port int) (string, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return net.JoinHostPort(a.String(), strconv.Itoa(port)), nil
	}
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		host, p, err = net.SplitHostPort(net.JoinHostPort(s, strconv.Itoa(port)))
	}
	n, numeric := strconv.ParseUint(p, 10, 16)
	if err != nil || host == "" || numeric != nil || n == 0 {
		return "", usage("want an address or a name, with or without :port, like [2001:db8::1]:2379", "invalid store address %q", s)
	}
	return net.JoinHostPort(host, p), nil
}

// joinService is where the server with a store address lets joiners in.
func joinService(endpoint string) (string, error) {
	hp, err := hostPort(endpoint, clientPort)
	if err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(hp)
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(port)
	return net.JoinHostPort(host, strconv.Itoa(n-clientPort+joinPort)), err
}

// storeURLs are the endpoints of a configuration as an etcd client takes them.
func storeURLs(endpoints []string, secure bool) ([]string, error) {
	scheme := "http://"
	if secure {
		scheme = "https://"
	}
	urls := make([]string, len(endpoints))
	for i, e := range endpoints {
		hp, err := hostPort(e, clientPort)
		if err != nil {
			return nil, err
		}
		urls[i] = scheme + hp
	}
	return urls, nil
}

// randomID is an id that no other node or cluster has.
func randomID() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails, since Go 1.24
	return hex.EncodeToString(b)
}
