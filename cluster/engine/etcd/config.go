package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/tlsutil"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/pkg/v3/featuregate"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// Config says how to run a member. Name, DataDir, ListenClient and ListenPeer
// are required.
type Config struct {
	// Name of the member, its node's name.
	Name string
	// DataDir is made with mode 0700. It needs 256 MiB of free space the first
	// time, since etcd lays out 123 MiB at once, and 64 MiB later; what a ballast of up
	// to 64 MiB takes is not counted.
	DataDir string
	// ListenClient and ListenPeer are where to serve, ports not zero.
	ListenClient, ListenPeer []netip.AddrPort
	// AdvertiseClient and AdvertisePeer are what others dial; default what is
	// listened on, which must then be proper addresses, not 0.0.0.0 or ::.
	AdvertiseClient, AdvertisePeer []netip.AddrPort
	// ClusterToken sets the IDs of a new cluster apart from those of any other;
	// default "meshvpc".
	ClusterToken string
	// Join are all members of the cluster that an empty data directory becomes
	// part of, this one too: peer URLs by name. Empty: it begins a new cluster.
	Join map[string][]string
	// Timings of heartbeats and elections; the zero value is for a LAN.
	Timings Timings
	// TLS is nil for plain HTTP.
	TLS *TLS
	// Interceptors see each call before etcd carries it out, and may refuse it. With
	// a Unary, etcd takes spareTxnOps more operations in a transaction, and spareBytes
	// more in a request, than it does by default: what Unary adds. It is Unary then
	// that holds clients to the default.
	Unary  grpc.UnaryServerInterceptor
	Stream grpc.StreamServerInterceptor
	// MayObserve says who may read /metrics, which is served on the same port by HTTP
	// 1.1, with TLS. nil: each certificate of the CA.
	MayObserve func(tls.ConnectionState) bool
	// HoldOthers has the members with these client URLs Hold still, since this one is
	// about to hand over the lead. It returns when they do, or ctx ends. nil: nobody
	// is asked, and proposals that come by way of others in that moment may get no
	// answer.
	HoldOthers func(ctx context.Context, urls []string)
	// NoSync leaves out fsync: faster, and a crash of the machine loses data.
	// For tests only.
	NoSync bool
	// Logger gets etcd's warnings and worse; nil means none.
	Logger *zap.Logger
}

// TLS names the PEM files that a member shows to clients and other members, all
// of which have to show a certificate of the CA. The member's own is also what
// it shows when it dials another, so it is for both ends. A new certificate
// serves from the next connection on. Of other members only those whose
// certificate has the host name Peer are let in, and dialled, and none that
// Revoked lists.
type TLS struct {
	CA, Cert, Key string
	Peer          string
	Revoked       string // DER of a CRL that has to exist, read for each connection; "": there is none
}

// Timings of raft, the same on all members. Rule: Tick about the longest round
// trip between members, Election ten times that.
type Timings struct {
	Tick     time.Duration // heartbeat; default 100 ms
	Election time.Duration // default 1 s; 5 ticks to 50 s. Leases last 1.5 times this at least
}

const (
	quota             = 2 << 30 // bytes
	compactionHistory = "1h"
	spareTxnOps       = 16
	spareBytes        = 64 << 10
	// minClientPing is how often clients may ping an idle connection, less than
	// what cluster/engine/client does, also while they have no watch.
	minClientPing = 5 * time.Second
	// maxLearners may wait at a time until they are made voters: one more makes
	// the number of voters even, two do not.
	maxLearners = 8
)

func (c *Config) setDefaults() {
	if len(c.AdvertiseClient) == 0 {
		c.AdvertiseClient = c.ListenClient
	}
	if len(c.AdvertisePeer) == 0 {
		c.AdvertisePeer = c.ListenPeer
	}
	if c.ClusterToken == "" {
		c.ClusterToken = "meshvpc"
	}
	if c.Timings.Tick == 0 {
		c.Timings.Tick = 100 * time.Millisecond
	}
	if c.Timings.Election == 0 {
		c.Timings.Election = 10 * c.Timings.Tick
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
}

// validate wants defaults set.
func (c *Config) validate() error {
	switch {
	case c.Name == "":
		return errors.New("name is missing")
	case c.DataDir == "":
		return errors.New("data directory is missing")
	case c.Timings.Tick < time.Millisecond:
		return fmt.Errorf("tick %v: want 1ms or more", c.Timings.Tick)
	case c.Timings.Election < 5*c.Timings.Tick || c.Timings.Election > 50*time.Second:
		return fmt.Errorf("election timeout %v: want from 5 ticks (%v) to 50s", c.Timings.Election, 5*c.Timings.Tick)
	}
	for _, l := range []struct {
		what      string
		addresses []netip.AddrPort
		advertise bool
	}{
		{"client listen address", c.ListenClient, false},
		{"peer listen address", c.ListenPeer, false},
		{"advertised client address", c.AdvertiseClient, true},
		{"advertised peer address", c.AdvertisePeer, true},
	} {
		if len(l.addresses) == 0 {
			return fmt.Errorf("%s is missing", l.what)
		}
		for _, a := range l.addresses {
			if !a.IsValid() || a.Port() == 0 {
				return fmt.Errorf("%s %v: want an address and a port", l.what, a)
			}
			if l.advertise && a.Addr().IsUnspecified() {
				return fmt.Errorf("%s %v: others cannot dial it; advertise an address of this host", l.what, a)
			}
		}
	}
	return nil
}

// embedded are the settings for etcd, which logs to log. It serves no clients: a front does.
func (c *Config) embedded(log *zap.Logger) (*embed.Config, error) {
	e := embed.NewConfig()
	e.Name, e.Dir = c.Name, c.DataDir
	e.ListenClientUrls, e.AdvertiseClientUrls = nil, c.urls(c.AdvertiseClient)
	e.ListenPeerUrls, e.AdvertisePeerUrls = c.urls(c.ListenPeer), c.urls(c.AdvertisePeer)
	if t := c.TLS; t != nil {
		e.TlsMinVersion = string(tlsutil.TLSVersion13)
		info := transport.TLSInfo{CertFile: t.Cert, KeyFile: t.Key, TrustedCAFile: t.CA, ClientCertAuth: true}
		e.ClientTLSInfo, e.PeerTLSInfo = info, info
		e.PeerTLSInfo.AllowedHostnames, e.PeerTLSInfo.CRLFile = []string{t.Peer}, t.Revoked
		e.PeerTLSInfo.SkipClientSANVerify = true // a server may dial from any address: its identity is what counts
	}
	e.InitialCluster, e.ClusterState = e.InitialClusterFromName(c.Name), embed.ClusterStateFlagNew
	if len(c.Join) > 0 {
		e.InitialCluster, e.ClusterState = initialCluster(c.Join), embed.ClusterStateFlagExisting
	}
	e.MaxLearners = maxLearners
	e.InitialClusterToken = c.ClusterToken
	e.TickMs = uint(c.Timings.Tick.Milliseconds())
	e.ElectionMs = uint(c.Timings.Election.Milliseconds())
	e.PreVote = true
	// etcd's own check refuses a learner while one of three voters is dead, which is
	// when another server is needed. Who changes members sees to the quorum itself
	// (cluster/membership/voters); learnersOnly refuses what could cost it at once.
	e.StrictReconfigCheck = false
	e.AutoCompactionMode, e.AutoCompactionRetention = embed.CompactorModePeriodic, compactionHistory
	e.QuotaBackendBytes = quota
	e.UnsafeNoFsync = c.NoSync
	e.EnableGRPCGateway = false
	e.AuthToken = "" // no passwords: who a client is, its certificate says
	e.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	if c.Unary != nil {
		e.MaxTxnOps += spareTxnOps
		e.MaxRequestBytes += spareBytes
	}
	gates, ok := e.ServerFeatureGate.(featuregate.MutableFeatureGate)
	if !ok {
		return nil, fmt.Errorf("set feature gates: %T cannot be changed", e.ServerFeatureGate)
	}
	// Not InitialCorruptCheck: members that start at the same time wait for each
	// other, 7 s for each; what it finds, the check at the next compaction finds.
	if err := gates.Set("CompactHashCheck=true"); err != nil {
		return nil, fmt.Errorf("set feature gates: %w", err)
	}
	return e, nil
}

// initialCluster is "name=URL,name=URL", sorted.
func initialCluster(members map[string][]string) string {
	var list []string
	for name, urls := range members {
		for _, u := range urls {
			list = append(list, name+"="+u)
		}
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}

// IsNew reports whether a data directory holds no member's log yet, so that
// Config.Join, and ClusterToken, matter.
func IsNew(dir string) bool {
	names, err := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
	return err == nil && len(names) == 0
}

func (c *Config) urls(addresses []netip.AddrPort) []url.URL {
	scheme := "http"
	if c.TLS != nil {
		scheme = "https"
	}
	us := make([]url.URL, 0, len(addresses))
	for _, a := range addresses {
		us = append(us, url.URL{Scheme: scheme, Host: a.String()})
	}
	return us
}
