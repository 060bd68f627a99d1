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
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// joining is the engine of a server that has joined and whose store is empty: it
// has the other servers make it a member, then begins with what they have.
type joining struct {
	server serverConfig
	cfg    etcd.Config
	own    []string
	ready  chan struct{}
	engine atomic.Pointer[etcd.Engine] // once it is a member
	log    *zap.Logger
}

func newJoining(server serverConfig, cfg etcd.Config, log *zap.Logger) *joining {
	j := &joining{server: server, cfg: cfg, ready: make(chan struct{}), log: log.Named("join")}
	for _, a := range cfg.AdvertiseClient {
		j.own = append(j.own, "https://"+a.String())
	}
	return j
}

// Ready implements storeEngine.
func (j *joining) Ready() <-chan struct{} { return j.ready }

// Endpoints implements storeEngine.
func (j *joining) Endpoints() []string { return j.own }

// MemberID implements storeEngine.
func (j *joining) MemberID() uint64 {
	if e := j.engine.Load(); e != nil {
		return e.MemberID()
	}
	return 0
}

// Hold implements storeEngine.
func (j *joining) Hold(ctx context.Context) error {
	if e := j.engine.Load(); e != nil {
		return e.Hold(ctx)
	}
	return errors.New("this server has no store yet")
}

// Waits between two attempts to become a member.
const (
	joinFirst = 200 * time.Millisecond
	joinMost  = 3 * time.Second
)

// Run implements storeEngine. Whatever ends it, the next start goes on: the others
// answer the same until the store has begun.
func (j *joining) Run(ctx context.Context) error {
	wait := joinFirst
	for {
		err := j.try(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if r, refused := errors.AsType[*membership.Refusal](err); refused && r.Code != membership.CodeUnavailable && r.Code != membership.CodeWitness {
			return explainServe(j.server, r)
		}
		if err == nil || !etcd.IsNew(j.cfg.DataDir) || etcd.IsDisk(err) {
			return err
		}
		j.log.Warn("cannot become a member of the store, will retry", zap.Duration("in", wait), zap.Error(err))
		if !store.Sleep(ctx, wait) {
			return nil
		}
		wait = min(2*wait, joinMost)
	}
}

// try asks once, and runs the store if there is an answer. Others may become
// members in between: then etcd finds other members than it was told, and ends.
func (j *joining) try(ctx context.Context) error {
	c, err := j.server.TLS.load()
	if err != nil {
		return err
	}
	answer, err := askServers(ctx, otherJoins(j.server), defaultCall, func(ctx context.Context, address string) (membership.ServeAnswer, error) {
		return membership.Serve(ctx, address, c)
	})
	if err != nil {
		return err
	}
	cfg := j.cfg
	cfg.Join = answer.Members
	engine, err := etcd.New(cfg)
	if err != nil {
		return err
	}
	j.engine.Store(engine)
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }() // waited for below
	select {
	case err := <-ended:
		return err
	case <-engine.Ready():
		close(j.ready)
		return <-ended
	}
}

func explainServe(cfg serverConfig, r *membership.Refusal) error {
	if r.Code == membership.CodeRemoved {
		return removedServer(cfg)
	}
	return failed("take it out where an admin is (meshvpc node remove "+cfg.Name+"), and on this host: meshvpc node purge; then join again", "start server: %w", r)
}

// markRemoved is a file that says that this server was taken out of its cluster.
func markRemoved(cfg serverConfig) string {
	return filepath.Join(filepath.Dir(cfg.TLS.Cert), "removed")
}

// removedServer is what a server says that was taken out of its cluster. Node purge
// takes its word.
func removedServer(cfg serverConfig) error {
	if err := writeFile(markRemoved(cfg), []byte(cfg.Name+"\n")); err != nil {
		return fmt.Errorf("server %s was removed from the cluster: %w", cfg.Name, err)
	}
	return failed("run \"meshvpc node purge\" on this host; it may join again after that", "server %s was removed from the cluster", cfg.Name)
}

// votersEvery is how often a server asks which servers have a vote: only those
// serve reads and writes.
const votersEvery = 10 * time.Second

// dialVoters is a client of the servers that have a vote, as soon as it has asked
// which do. At first it is one of this server; of one that has joined, and may
// have no vote yet, also of the others that it knows, and of them alone while it
// learns. A restored store must not be taken for the one before.
func dialVoters(ctx context.Context, cfg serverConfig, engine storeEngine, log *zap.Logger) (*clientv3.Client, error) {
	own, err := dialOwn(cfg, engine, log)
	if err != nil {
		return nil, err
	}
	defer own.Close()
	var others []string
	if cfg.Joined != nil {
		others = otherEndpoints(cfg)
	}
	urls, err := storeURLs(others, true)
	if err != nil {
		return nil, err
	}
	if !learns(ctx, engine, own) || len(urls) == 0 {
		urls = append(urls, engine.Endpoints()...)
	}
	return client.Dial(client.Config{Endpoints: urls, SyncInterval: votersEvery, TLS: membership.Dialer(cfg.TLS.load), Logger: log})
}

// dialOwn is a client of this server alone.
func dialOwn(cfg serverConfig, engine storeEngine, log *zap.Logger) (*clientv3.Client, error) {
	return client.Dial(client.Config{Endpoints: engine.Endpoints(), TLS: membership.Dialer(cfg.TLS.load), Logger: log})
}

// learns reports whether the store of this server, by a client of it, has no vote,
// and so does not serve what is to be current.
func learns(ctx context.Context, engine storeEngine, own *clientv3.Client) bool {
	if _, begins := engine.(*joining); begins {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, defaultCall)
	defer cancel()
	st, err := own.Status(ctx, engine.Endpoints()[0])
	return err == nil && st.IsLearner
}

// otherEndpoints are the store addresses of the servers that a server knows of.
func otherEndpoints(cfg serverConfig) []string {
	list := knownEndpoints()
	if cfg.Joined != nil {
		list = append(list, cfg.Joined.Others...)
	}
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(e string) bool { return slices.Contains(cfg.Advertise, e) })
}

// otherJoins are their join services.
func otherJoins(cfg serverConfig) []string { return elsewhere{}.joins(otherEndpoints(cfg)) }

// revokedFile is the list of the servers' certificates that open nothing.
func revokedFile(cfg serverConfig) string {
	return filepath.Join(filepath.Dir(cfg.TLS.Cert), "revoked.crl")
}

// newGuard is the authorizer of a server, which keeps the list of revoked
// certificates, too.
func newGuard(cfg serverConfig, log *zap.Logger) (*membership.Authorizer, error) {
	own, err := cfg.TLS.load()
	if err != nil {
		return nil, err
	}
	key, err := own.KeyHash()
	if err != nil {
		return nil, err
	}
	revoke := func(keys []string) error {
		text, err := membership.RevocationList(keys, time.Now())
		if err != nil {
			return err
		}
		return writeFile(revokedFile(cfg), text)
	}
	if _, err := os.Stat(revokedFile(cfg)); errors.Is(err, fs.ErrNotExist) {
		if err := revoke(nil); err != nil {
			return nil, err
		}
	}
	return membership.NewAuthorizer(membership.AuthorizerConfig{Log: log,
		Self: cluster.Caller{Subject: serverSubject(cfg), Key: key},
		Revoked: func(keys []string) {
			if err := revoke(keys); err != nil {
				log.Error("cannot shut out the servers that were removed", zap.String("file", revokedFile(cfg)), zap.Error(err))
			}
		}}), nil
}

// renewWitness has another server renew the certificate of one that has no CA key.
// Without an answer it goes on with the old one.
func renewWitness(ctx context.Context, cfg serverConfig, c membership.Credential, addresses []netip.Addr, log *zap.Logger) error {
	fresh, err := askServers(ctx, otherJoins(cfg), defaultCall, func(ctx context.Context, address string) (membership.Credential, error) {
		return membership.RenewServer(ctx, address, c, addresses)
	})
	if err != nil {
		log.Warn("cannot renew the witness's certificate, will retry", zap.Error(err))
		return nil
	}
	if err := writeFile(cfg.TLS.Cert, fresh.Cert); err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	log.Info("renewed the witness's certificate", zap.Stringers("addresses", addresses))
	return nil
}
