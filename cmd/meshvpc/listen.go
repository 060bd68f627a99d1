package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/watcher"
)

// listenEvery is how often a server sees whether it still has the addresses
// that it listens on.
const listenEvery = 5 * time.Second

// moveServer is what to do when the host of a server got another address that it
// does not follow: it was told which to use.
const moveServer = "put the new address into listen, advertise and listen_peers of %s and into endpoints of agent.yaml and client.yaml on every host, " +
	"then restart server and agents; traffic goes on meanwhile"

// errMoved ends a server that is to go on at another address of its host.
var errMoved = errors.New("this host has another address")

// anyDevice follows whatever address the host has.
const anyDevice = "auto"

// followed is what a server follows whose --underlay words these were.
func followed(words []string) string {
	if len(words) == 0 {
		return anyDevice
	}
	spec, err := watcher.ParseUnderlay(words[0])
	if err != nil || len(words) > 1 {
		return ""
	}
	return spec.Device
}

// moved has the addresses that the host has now in the place of those that the
// server lost. It is false if the server follows none, or none of the family is there.
func moved(cfg serverConfig, have []hostAddress) (serverConfig, bool) {
	if cfg.Follow == "" {
		return cfg, false
	}
	lists := []*[]string{&cfg.Listen, &cfg.ListenPeers, &cfg.ListenJoin, &cfg.Advertise, &cfg.AdvertisePeers}
	named, heir := map[netip.Addr]bool{}, map[netip.Addr]netip.Addr{}
	for _, list := range lists {
		for _, v := range *list {
			if a, err := netip.ParseAddrPort(v); err == nil {
				named[a.Addr().Unmap()] = true
			}
		}
	}
	for lost := range named {
		if lost.IsUnspecified() || slices.ContainsFunc(have, func(a hostAddress) bool { return a.addr == lost }) {
			continue
		}
		i := slices.IndexFunc(have, func(a hostAddress) bool {
			return (cfg.Follow == anyDevice || a.device == cfg.Follow) && a.addr.Is4() == lost.Is4() && !named[a.addr]
		})
		if i < 0 {
			return cfg, false
		}
		heir[lost] = have[i].addr
	}
	for _, list := range lists {
		moved := slices.Clone(*list)
		for i, v := range moved {
			if a, err := netip.ParseAddrPort(v); err == nil && heir[a.Addr().Unmap()].IsValid() {
				moved[i] = joinHost(heir[a.Addr().Unmap()], a.Port())
			}
		}
		*list = moved
	}
	return cfg, len(heir) > 0
}

// lostListen names the addresses that a server should listen on and that are
// not this host's, "" if there are none.
func lostListen(cfg serverConfig, own []netip.Addr) string {
	var lost []string
	for _, v := range slices.Concat(cfg.Listen, cfg.ListenPeers, cfg.ListenJoin) {
		a, err := netip.ParseAddrPort(v)
		if err == nil && !a.Addr().IsUnspecified() && !slices.Contains(own, a.Addr().Unmap()) && !slices.Contains(lost, a.Addr().String()) {
			lost = append(lost, a.Addr().String())
		}
	}
	if lost == nil {
		return ""
	}
	return fmt.Sprintf("it listens on %s, which this host does not have", strings.Join(lost, " and "))
}

// checkListen has a server listen where its host is, in its file too, and refuses
// one that nobody could reach.
func checkListen(cfg serverConfig, path string, log *zap.Logger) (serverConfig, error) {
	own, err := ownAddresses()
	if err != nil {
		return cfg, err
	}
	lost := lostListen(cfg, own)
	if lost == "" {
		return cfg, nil
	}
	have, err := hostAddresses()
	if err != nil {
		return cfg, err
	}
	now, follows := moved(cfg, have)
	if !follows {
		return cfg, failed(fmt.Sprintf(moveServer, path), "start server: %s", lost)
	}
	log.Warn("this server follows its host to another address; agents that know no other server have to be told: put it into endpoints of their agent.yaml",
		zap.String("reason", lost), zap.Strings("listen", now.Listen), zap.Strings("advertise", now.Advertise))
	return now, writeConfig(path, now)
}

// watchListen says when the addresses of a server that runs are lost, and when
// they are back, until ctx ends. When there are others to follow it is errMoved, if
// the host has had them for two looks.
func watchListen(ctx context.Context, cfg serverConfig, path string, log *zap.Logger) error {
	tick := time.NewTicker(listenEvery)
	defer tick.Stop()
	said, next := "", []string(nil)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		own, err := ownAddresses()
		have, err2 := hostAddresses()
		if err = errors.Join(err, err2); err != nil {
			log.Warn("cannot see whether the listen addresses are there", zap.Error(err))
			continue
		}
		lost := lostListen(cfg, own)
		now, follows := moved(cfg, have)
		switch {
		case lost != "" && follows && slices.Equal(next, now.Listen):
			return errMoved
		case lost == said:
		case lost != "" && follows:
			log.Warn("this server is about to follow its host to another address", zap.String("reason", lost), zap.Strings("listen", now.Listen))
		case lost != "":
			log.Error("nobody reaches this server", zap.String("reason", lost), zap.String("do", fmt.Sprintf(moveServer, path)))
		default:
			log.Info("this server can be reached again")
		}
		if said, next = lost, nil; lost != "" && follows {
			next = now.Listen
		}
	}
}

// announce has the store's members, and the record of this server, say where it is,
// by a client of servers that have a vote, until that has happened or ctx ends.
func announce(ctx context.Context, cfg serverConfig, id uint64, cli *clientv3.Client, log *zap.Logger) error {
	for {
		call, cancel := context.WithTimeout(ctx, defaultCall)
		err := announceOnce(call, cfg, id, cli, log)
		cancel()
		if err == nil || ctx.Err() != nil {
			return nil
		}
		log.Warn("cannot tell the others where this server is, will retry", zap.Error(err))
		store.Sleep(ctx, listenEvery)
	}
}

func announceOnce(ctx context.Context, cfg serverConfig, id uint64, cli *clientv3.Client, log *zap.Logger) error {
	peers, err := storeURLs(peerAddresses(cfg), true)
	if err != nil || len(peers) == 0 {
		return err
	}
	list, err := cli.MemberList(ctx)
	if err != nil {
		return fmt.Errorf("list members: %w", err)
	}
	slices.Sort(peers)
	for _, m := range list.Members {
		if slices.Sort(m.PeerURLs); m.ID == id && !slices.Equal(m.PeerURLs, peers) {
			if _, err := cli.MemberUpdate(ctx, id, peers); err != nil {
				return fmt.Errorf("update member: %w", err)
			}
			log.Info("other servers reach this one at another address", zap.Strings("peers", peers))
		}
	}
	s := store.New(client.New(cli), cluster.Identity{Role: cluster.Operator})
	it, err := store.Get[*cluster.Server](ctx, s, cluster.KeyServer(cfg.Name))
	switch {
	case errors.Is(err, store.ErrNotFound), cluster.Unreadable(err):
		return nil // taken out, or not ours to mend
	case err != nil:
		return err
	}
	return relocate(ctx, s, it, cfg.Advertise[0], peerAddresses(cfg)[0], it.Value.Key)
}

// relocate has the record of a server say where it is, and which key is its own.
func relocate(ctx context.Context, s *store.Store, it store.Item[*cluster.Server], address, peer, key string) error {
	r := it.Value
	if r.Address == address && r.Peer == peer && r.Key == key {
		return nil
	}
	r.Address, r.Peer, r.Key = address, peer, key
	var c store.Change
	store.Put(&c, it, r)
	_, err := s.Commit(ctx, c)
	return err
}
