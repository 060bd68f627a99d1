package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// listenEvery is how often a server sees whether it still has the addresses
// that it listens on.
const listenEvery = 5 * time.Second

// moveServer is what to do when the host of a server got another address. It
// does not follow by itself: all others know it by the old one.
const moveServer = "put the new address into listen, advertise and listen_peers of %s and into endpoints of agent.yaml and client.yaml on every host, " +
	"then restart server and agents; traffic goes on meanwhile"

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

// checkListen refuses to start a server that nobody could reach.
func checkListen(cfg serverConfig, path string) error {
	own, err := ownAddresses()
	if err != nil {
		return err
	}
	if lost := lostListen(cfg, own); lost != "" {
		return failed(fmt.Sprintf(moveServer, path), "start server: %s", lost)
	}
	return nil
}

// watchListen says when the addresses of a server that runs are lost, and when
// they are back, until ctx ends.
func watchListen(ctx context.Context, cfg serverConfig, path string, log *zap.Logger) {
	tick := time.NewTicker(listenEvery)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		own, err := ownAddresses()
		if err != nil {
			log.Warn("cannot see whether the listen addresses are there", zap.Error(err))
			continue
		}
		lost := lostListen(cfg, own)
		switch {
		case lost == said:
		case lost != "":
			log.Error("nobody reaches this server", zap.String("reason", lost), zap.String("do", fmt.Sprintf(moveServer, path)))
		default:
			log.Info("this server can be reached again")
		}
		said = lost
	}
}
