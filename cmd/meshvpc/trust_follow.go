package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// errTrustChanged ends a server whose store is to trust other CAs: etcd reads them
// when it starts. It begins anew at once.
var errTrustChanged = errors.New("the cluster's CAs have changed")

// How long what could not be done, or waits for others, is left; and over what time
// hosts spread their requests for new certificates.
const (
	trustRetry  = 500 * time.Millisecond
	trustWithin = 3 * time.Second
)

// followTrust calls step when the config has, or gets, CAs of its own, and again
// until it is done, until ctx ends or step returns errTrustChanged.
func followTrust(ctx context.Context, s *store.Store, log *zap.Logger, step func(context.Context, *cluster.Trust) (done bool, err error)) error {
	said := ""
	return store.Look(ctx, store.MirrorConfig{Store: s, Log: log.Named("mirror")}, func(ctx context.Context, m *store.Mirror) (time.Duration, error) {
		it, ok := store.At[*cluster.Config](m.Pull(), cluster.KeyConfig)
		if !ok || it.Value.Trust == nil {
			return 0, nil
		}
		done, err := step(ctx, it.Value.Trust)
		switch {
		case errors.Is(err, errTrustChanged):
			return 0, err
		case err != nil && ctx.Err() == nil && err.Error() != said:
			said = err.Error()
			log.Warn("cannot follow the cluster's CAs, will retry", zap.Error(err))
		}
		if done {
			return 0, nil
		}
		return trustRetry, nil
	}, cluster.KeyConfig)
}

// adopt has a file hold the CAs that the cluster has now. None of those that are in
// it: then another cluster speaks.
func adopt(path string, t *cluster.Trust) error {
	have, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read CA: %w", err)
	}
	switch {
	case bytes.Equal(have, t.Bundle()):
		return nil
	case !membership.SharesCA(have, t.Bundle()):
		return fmt.Errorf("%w: the records name other CAs than %s: this host keeps its own", membership.ErrUntrusted, path)
	}
	return writeFile(path, t.Bundle())
}

// agentTrust has this host trust what it is to, take a certificate of the CA that
// signs, and say so. The host's client file goes with it.
func agentTrust(ctx context.Context, cfg agentConfig, t *cluster.Trust, log *zap.Logger) (done bool, err error) {
	if err := adopt(cfg.TLS.CA, t); err != nil {
		return false, err
	}
	c, err := cfg.TLS.load()
	if err != nil {
		return false, err
	}
	old, err := c.Old(nil, time.Now())
	if err != nil {
		return false, err
	}
	if old {
		if !store.Sleep(ctx, rand.N(trustWithin)) { // not all at once
			return false, nil
		}
		if err := renewAgent(ctx, cfg, log); err != nil {
			return false, err
		}
		if c, err = cfg.TLS.load(); err != nil {
			return false, err
		}
	}
	joins := cfg.joins(withKnown(cfg.Endpoints))
	if err := trustOfClient(ctx, hostDirs().client(), joins, t); err != nil {
		log.Warn("the host's client file stays as it is", zap.String("file", hostDirs().client()), zap.Error(err))
	}
	if t.Phase == cluster.TrustDone {
		return true, nil // nobody waits
	}
	_, err = askServers(ctx, joins, defaultCall, func(ctx context.Context, address string) (struct{}, error) {
		return struct{}{}, membership.Trusts(ctx, address, c)
	})
	return err == nil, err
}

// trustOfClient does the same for a client file, if it is there.
func trustOfClient(ctx context.Context, path string, joins []string, t *cluster.Trust) error {
	var file clientConfig
	if err := readConfig(path, &file); errors.Is(err, fs.ErrNotExist) || err == nil && file.CA == "" {
		return nil
	} else if err != nil {
		return err
	}
	fresh, changed, err := credentialFor(ctx, file.credential(), joins, t)
	if err != nil || !changed {
		return err
	}
	return writeConfig(path, file.with(fresh))
}

// credentialFor is a credential as t calls for it.
func credentialFor(ctx context.Context, c membership.Credential, joins []string, t *cluster.Trust) (membership.Credential, bool, error) {
	changed := !bytes.Equal(c.CA, t.Bundle())
	if changed && !membership.SharesCA(c.CA, t.Bundle()) {
		return c, false, fmt.Errorf("%w: the records name other CAs", membership.ErrUntrusted)
	}
	c.CA = t.Bundle()
	fresh, due, err := renewDue(ctx, joins, c, time.Now(), defaultCall)
	if err != nil || !due {
		return c, changed, err
	}
	return fresh, true, nil
}

// serverTrust has this server have the keys and certificates of the cluster's CAs,
// a certificate of the one that signs, and say so. Its store has loaded others: it
// begins anew when it is its turn.
func serverTrust(ctx context.Context, cfg serverConfig, loaded []byte, mine turn, t *cluster.Trust, log *zap.Logger) (done bool, err error) {
	s := mine.store
	servers, _, err := store.List[*cluster.Server](ctx, s, cluster.PrefixSrvs)
	if err != nil {
		return false, err
	}
	if !cfg.Witness {
		if err := adoptKeys(ctx, cfg, servers, t); err != nil {
			return false, err
		}
	}
	if err := adopt(cfg.TLS.CA, t); err != nil {
		return false, err
	}
	if err := renewServer(ctx, cfg, time.Now(), log); err != nil {
		return false, err
	}
	same, err := sameCAs(loaded, t.Bundle())
	if err != nil {
		return false, err
	}
	if !same {
		trusting, err := trustingOf(ctx, s)
		if err != nil {
			return false, err
		}
		var names []string
		for _, it := range servers {
			names = append(names, last(it.Key))
		}
		if turn, err := membership.Turn(t, cfg.Name, names, trusting); err != nil || !turn && t.Phase != cluster.TrustDone {
			return false, err
		}
		if wait, err := mine.take(ctx, nil, t.LeftBehind); err != nil || wait != "" {
			return false, err
		}
		log.Info("the store begins anew, to trust the cluster's CAs of now", zap.String("phase", string(t.Phase)))
		return false, errTrustChanged
	}
	c, err := cfg.TLS.load()
	if err != nil || t.Phase == cluster.TrustDone {
		return err == nil, err
	}
	if err := membership.WriteTrusts(ctx, s, c, cluster.At(time.Now())); err != nil {
		return false, err
	}
	old, err := c.Old(nil, time.Now()) // a witness's may be
	return !old, err
}

// adoptKeys gets the keys of the cluster's CAs, of the other servers if need be.
func adoptKeys(ctx context.Context, cfg serverConfig, servers []store.Item[*cluster.Server], t *cluster.Trust) error {
	ca, err := os.ReadFile(cfg.TLS.CA)
	if err != nil {
		return fmt.Errorf("read CA: %w", err)
	}
	have, err := os.ReadFile(cfg.TLS.CAKey)
	if err != nil {
		return fmt.Errorf("read CA keys: %w", err)
	}
	if !membership.SharesCA(ca, t.Bundle()) {
		return nil // adopt says it
	}
	keys, err := membership.MergeKeys(t.Bundle(), have, nil)
	for _, it := range servers {
		if err == nil {
			break
		}
		if it.Value.Witness || last(it.Key) == cfg.Name {
			continue
		}
		var given []byte
		if given, err = askAuthority(ctx, cfg, it.Value.Address); err == nil {
			keys, err = membership.MergeKeys(t.Bundle(), have, given)
		}
	}
	if err != nil || bytes.Equal(keys, have) {
		return err
	}
	return writeFile(cfg.TLS.CAKey, keys)
}

func askAuthority(ctx context.Context, cfg serverConfig, endpoint string) ([]byte, error) {
	address, c, err := asking(cfg, endpoint)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, defaultCall)
	defer cancel()
	return membership.Authority(ctx, address, c)
}

// sameCAs reports whether two bundles hold the same CAs, in whatever order.
func sameCAs(a, b []byte) (bool, error) {
	of, err := membership.PinsOf(a)
	if err != nil {
		return false, err
	}
	other, err := membership.PinsOf(b)
	if err != nil {
		return false, err
	}
	in := map[membership.Pin]bool{}
	for _, p := range of {
		in[p] = true
	}
	for _, p := range other {
		if !in[p] {
			return false, nil
		}
	}
	return len(of) == len(other), nil
}

// trustingOf is who has said whom it trusts, by key.
func trustingOf(ctx context.Context, s *store.Store) (map[string]*cluster.Trusting, error) {
	list, _, err := store.List[*cluster.Trusting](ctx, s, cluster.PrefixTrust)
	if err != nil {
		return nil, err
	}
	byKey := map[string]*cluster.Trusting{}
	for _, it := range list {
		byKey[it.Key] = it.Value
	}
	return byKey, nil
}
