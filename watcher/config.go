package watcher

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/watcher/observe"
)

// Config is what New needs.
type Config struct {
	Node   string         // required: this node's name
	NodeID string         // required: as given at join
	Store  *store.Store   // required: writes as the agent of Node
	Driver hostops.Driver // required; the caller closes it
	// Underlay says which addresses tunnels end at. Empty: those of the device
	// that holds Hint, the address this host reaches the store from.
	Underlay []UnderlaySpec
	Hint     func() netip.Addr // asked at every look at the host then; nil: unknown
	// Check says whether this host can carry VPCs. It runs while the records are
	// read for the first time, and before anything is done to the host; Run ends
	// with its error. nil: nothing is to be checked.
	Check func(ctx context.Context) error
	// Moved is called at the first look at the host and when the underlay changed,
	// before that is reported, with what it is now, and must not block: to end
	// connections from an address that the host has lost, and to answer at the new
	// one. nil: nobody is told.
	Moved func(now cluster.Underlay)
	// Alive is called by the loop after each pass, the first time when the host
	// is as the cache says or, if the store answered by then, the records; and at
	// least every AliveEvery, 0: after passes only. A loop that is stuck does not
	// call it. nil: nobody is told.
	Alive      func()
	AliveEvery time.Duration
	Cache      string // required: file of the last known good state
	Cached     []byte // its content in place of reading it, if not nil; empty: there is none
	Socket     string // path of the local socket; "" is none
	BootID     string // of the host's kernel
	OS         string // for people: "linux 6.18"
	Version    string // of this build
	// Capabilities are the transports that Driver can do; default all.
	Capabilities []string
	Log          *zap.Logger // nil: none
	// Prober opens what other nodes are observed by. nil: none is.
	Prober func(log *zap.Logger) (observe.Prober, error)
	// Hooks runs what endpoints have this host start. nil: none can.
	Hooks    Hooks
	LeaseTTL time.Duration    // of live/<node>; default 15 s
	Resync   time.Duration    // between full observations; default 60 s
	Now      func() time.Time // nil: time.Now
	Rand     *rand.Rand       // jitter; nil: a random one
}

func (c *Config) complete() error {
	switch {
	case cluster.CheckNodeName(c.Node) != nil:
		return cluster.CheckNodeName(c.Node)
	case c.NodeID == "":
		return errors.New("node id is empty")
	case c.Store == nil || c.Driver == nil:
		return errors.New("store and driver are required")
	case c.Store.As() != cluster.Identity{Role: cluster.Agent, Name: c.Node}:
		return fmt.Errorf("store writes as the %s, not as the agent of %s", c.Store.As(), c.Node)
	case c.Cache == "":
		return errors.New("no cache file named")
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	c.Log = c.Log.Named("watcher")
	if c.LeaseTTL == 0 {
		c.LeaseTTL = 15 * time.Second
	}
	if c.Resync == 0 {
		c.Resync = time.Minute
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Capabilities == nil {
		c.Capabilities = []string{cluster.CanMultipoint, cluster.CanP2P, cluster.CanMulticast}
	}
	if c.Rand == nil {
		c.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if c.Alive == nil {
		c.Alive = func() {}
	}
	if c.Hint == nil {
		c.Hint = func() netip.Addr { return netip.Addr{} }
	}
	return nil
}
