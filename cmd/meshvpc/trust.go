package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

// pemFiles is where a credential is kept: the tls section of a configuration.
// CAKey is a server's.
type pemFiles struct {
	CA    string `json:"ca"`
	Cert  string `json:"cert"`
	Key   string `json:"key"`
	CAKey string `json:"ca_key,omitempty"`
	// StoreCA certifies the servers of an external etcd.
	StoreCA string `json:"store_ca,omitempty"`
}

func (f pemFiles) load() (membership.Credential, error) {
	return membership.Files{CA: f.CA, Cert: f.Cert, Key: f.Key, StoreCA: f.StoreCA}.Load()
}

// loadCA reads the cluster's CA, which only a server has.
func (f pemFiles) loadCA() (*membership.CA, error) {
	cert, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	key, err := os.ReadFile(f.CAKey)
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	return membership.ReadCA(cert, key)
}

// pem is where the credential of a kind of subject is kept on this host.
func (d dirs) pem(kind cluster.SubjectKind) pemFiles {
	dir := filepath.Join(d.config, "tls")
	f := pemFiles{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, string(kind)+".crt"), Key: filepath.Join(dir, string(kind)+".key")}
	if kind == cluster.SubjectServer {
		f.CAKey = filepath.Join(dir, "ca.key")
	}
	return f
}

// renewCheck is how often a process sees whether its certificate is to be
// renewed.
const renewCheck = time.Hour

// renewServer has the server's own certificate name all of its addresses, and
// hold long enough.
func renewServer(ctx context.Context, cfg serverConfig, now time.Time, log *zap.Logger) error {
	c, err := cfg.TLS.load()
	if errors.Is(err, fs.ErrNotExist) && cfg.Joined != nil {
		return failed("run \"meshvpc cluster join\" again, with the same token or another", "start server: its join has not ended: %w", err)
	}
	if err != nil {
		return err
	}
	addresses, err := serverAddresses(cfg)
	if err != nil {
		return err
	}
	old, err := c.Old(addresses, now)
	if err != nil || !old {
		return err
	}
	if cfg.Witness {
		return renewWitness(ctx, cfg, c, addresses, log)
	}
	ca, err := cfg.TLS.loadCA()
	if err != nil {
		return err
	}
	cert, err := ca.Reissue(c, addresses, now)
	if err != nil {
		return err
	}
	log.Info("renewed the server's certificate", zap.Stringers("addresses", addresses))
	return writeFile(cfg.TLS.Cert, cert)
}

// serverAddresses are those that clients may know a server by.
func serverAddresses(cfg serverConfig) ([]netip.Addr, error) {
	own, err := ownAddresses()
	if err != nil {
		return nil, err
	}
	all := []netip.Addr{netip.IPv6Loopback(), netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	for _, v := range slices.Concat(cfg.Listen, cfg.Advertise, cfg.ListenPeers, cfg.AdvertisePeers) {
		if a, err := netip.ParseAddrPort(v); err == nil && !a.Addr().IsUnspecified() {
			all = append(all, a.Addr().Unmap())
		} else if err == nil {
			all = append(all, own...)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all), nil
}

// keepRenewed calls renew from time to time until ctx ends.
func keepRenewed(ctx context.Context, log *zap.Logger, renew func(context.Context) error) {
	tick := time.NewTicker(renewCheck)
	defer tick.Stop()
	for {
		if err := renew(ctx); err != nil && ctx.Err() == nil {
			log.Warn("cannot renew the certificate, will retry", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// renewAgent asks the servers for a younger certificate when it is time.
func renewAgent(ctx context.Context, cfg agentConfig, log *zap.Logger) error {
	c, err := cfg.TLS.load()
	if err != nil {
		return err
	}
	fresh, due, err := renewDue(ctx, cfg.joins(cfg.Endpoints), c, time.Now(), defaultCall)
	if err != nil || !due {
		return err
	}
	log.Info("renewed the node's certificate")
	return writeFile(cfg.TLS.Cert, fresh.Cert)
}

// renewDue asks the servers for a younger certificate if it is time for one. Call
// bounds each try.
func renewDue(ctx context.Context, servers []string, c membership.Credential, now time.Time, call time.Duration) (fresh membership.Credential, due bool, err error) {
	if due, err = c.Old(nil, now); err != nil || !due {
		return fresh, due, err
	}
	fresh, err = askServers(ctx, servers, call, func(ctx context.Context, address string) (membership.Credential, error) {
		return membership.Renew(ctx, address, c)
	})
	return fresh, true, err
}

// joins are the addresses of the join services: those that are named, else those
// beside the store's endpoints.
func (e elsewhere) joins(endpoints []string) []string {
	if len(e.Servers) > 0 {
		return e.Servers
	}
	var list []string
	for _, e := range endpoints {
		if address, err := joinService(e); err == nil { // else the store is not found either, and that is told
			list = append(list, address)
		}
	}
	return list
}

// askServers asks the join services at these addresses, in turn, until one
// answers. Call bounds each.
func askServers[T any](ctx context.Context, addresses []string, call time.Duration, ask func(ctx context.Context, address string) (T, error)) (answer T, err error) {
	var errs []error
	for _, address := range addresses {
		ctx, cancel := context.WithTimeout(ctx, call)
		answer, err = ask(ctx, address)
		cancel()
		if err == nil {
			return answer, nil
		}
		if r, refused := errors.AsType[*membership.Refusal](err); refused && r.Code != membership.CodeWitness && r.Code != membership.CodeUnavailable {
			return answer, err // so would all others
		}
		errs = append(errs, err)
	}
	return answer, errors.Join(errs...)
}

// newKeyFile is the key in a file, which it makes if there is none.
func newKeyFile(path string) (key membership.Key, made bool, err error) {
	text, err := os.ReadFile(path)
	if err == nil {
		key, err = membership.ReadKey(text)
		return key, false, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return key, false, fmt.Errorf("read key: %w", err)
	}
	if key, err = membership.NewKey(); err != nil {
		return key, false, err
	}
	return key, true, writeFile(path, key.PEM)
}
