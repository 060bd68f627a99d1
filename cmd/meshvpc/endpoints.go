package main

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

// syncWithin bounds the question which servers there are.
const syncWithin = 2 * time.Second

// endpointsFile holds the store addresses of the servers that had a vote when one
// of them was last asked, one a line: the files that name the first servers may
// name none that still exists.
func (d dirs) endpointsFile() string { return filepath.Join(d.state, "endpoints") }

// knownEndpoints is what is in that file, nothing if it cannot be read.
func knownEndpoints() []string {
	b, _ := os.ReadFile(hostDirs().endpointsFile()) // without it the configuration has to do
	return slices.DeleteFunc(strings.Fields(string(b)), func(e string) bool { _, err := hostPort(e, clientPort); return err != nil })
}

// withKnown is endpoints, of this host's cluster, and those of the file.
func withKnown(endpoints []string) []string {
	list := slices.Clone(endpoints)
	for _, e := range knownEndpoints() {
		if !slices.Contains(list, e) {
			list = append(list, e)
		}
	}
	return list
}

// isOurs reports whether a CA is that of this host's cluster. Who may not read
// that, is told no.
func isOurs(ca string) bool {
	b, err := os.ReadFile(hostDirs().pem(cluster.SubjectNode).CA)
	return err == nil && membership.SharesCA(b, []byte(ca))
}

// keepEndpoints has the client know which servers have a vote, and keeps the file
// current, until ctx ends: it asks when the servers' records change, and from time
// to time. When none answers, the client tries all that it has known.
func keepEndpoints(ctx context.Context, cli *clientv3.Client, log *zap.Logger, own ...string) {
	kept, all := knownEndpoints(), slices.Concat(cli.Endpoints(), own)
	open := func() clientv3.WatchChan { return cli.Watch(ctx, cluster.PrefixSrvs, clientv3.WithPrefix()) }
	changes := open()
	wait := time.Second
	for {
		if err := syncEndpoints(ctx, cli); err != nil {
			wait = min(2*wait, endpointsEvery)
			tryAll(cli, withFile(all))
		} else {
			wait = endpointsEvery
			now := addressesOf(cli.Endpoints())
			if len(now) > 0 && !slices.Equal(now, kept) {
				if err := writeFile(hostDirs().endpointsFile(), []byte(strings.Join(now, "\n")+"\n")); err != nil {
					log.Warn("cannot remember which servers there are, will retry", zap.Error(err))
				} else {
					kept = now
				}
			}
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case r, ok := <-changes:
			if t.Stop(); !ok || r.Err() != nil {
				changes = nil // until the next time: it may not be allowed
			}
		case <-t.C:
			if changes == nil {
				changes = open()
			}
		}
	}
}

// withFile is urls and what the file holds now: a server of this host may have moved.
func withFile(urls []string) []string {
	file, err := storeURLs(knownEndpoints(), true)
	if err != nil || !slices.ContainsFunc(urls, func(u string) bool { return strings.HasPrefix(u, "https://") }) {
		return urls
	}
	return slices.Concat(urls, file)
}

// tryAll adds addresses to those that a client tries.
func tryAll(cli *clientv3.Client, all []string) {
	list := slices.Concat(cli.Endpoints(), all)
	slices.Sort(list)
	if list = slices.Compact(list); len(list) > len(cli.Endpoints()) {
		cli.SetEndpoints(list...)
	}
}

func syncEndpoints(ctx context.Context, cli *clientv3.Client) error {
	ctx, cancel := context.WithTimeout(ctx, syncWithin)
	defer cancel()
	return cli.Sync(ctx)
}

// addressesOf are the addresses in the URLs of a client, sorted.
func addressesOf(urls []string) (list []string) {
	for _, text := range urls {
		if u, err := url.Parse(text); err == nil && u.Host != "" {
			list = append(list, u.Host)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
