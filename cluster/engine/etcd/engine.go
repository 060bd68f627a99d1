package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// Errors compared by errors.Is.
var (
	// ErrStopped is returned when etcd ended without being told to.
	ErrStopped = errors.New("etcd stopped by itself")
	// ErrRemoved is returned, with ErrStopped, when that was because this member
	// was taken out of its cluster.
	ErrRemoved = errors.New("this member was removed from the cluster")
)

// Engine is one etcd member.
type Engine struct {
	cfg      Config
	log      *zap.Logger
	ready    chan struct{}
	stopping atomic.Bool
	running  atomic.Pointer[embed.Etcd]
	gate     gate
	short    atomic.Pointer[string] // see shortage
}

// New checks the configuration and starts nothing.
func New(cfg Config) (*Engine, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configure etcd: %w", err)
	}
	return &Engine{cfg: cfg, log: cfg.Logger.Named("etcd"), ready: make(chan struct{})}, nil
}

// Ready is closed once the member serves clients.
func (e *Engine) Ready() <-chan struct{} { return e.ready }

// MemberID is the member's, from shortly after Run on; 0 before.
func (e *Engine) MemberID() uint64 {
	if m := e.running.Load(); m != nil {
		return uint64(m.Server.MemberID())
	}
	return 0
}

// Endpoints are the URLs that clients dial.
func (e *Engine) Endpoints() []string {
	var endpoints []string
	for _, u := range e.cfg.urls(e.cfg.AdvertiseClient) {
		endpoints = append(endpoints, u.String())
	}
	return endpoints
}

// Run serves until ctx ends, and returns when all has stopped: nil soon after
// ctx (another member leads then, calls under way are answered and watches cut), an
// error when etcd could not start (ErrDamaged, for one), lost its disk (IsDisk), failed
// or stopped by itself (ErrStopped). It can be called once.
func (e *Engine) Run(ctx context.Context) error {
	start := time.Now()
	unlock, err := preflight(e.cfg.DataDir)
	if err != nil {
		return fmt.Errorf("prepare data directory %s: %w", e.cfg.DataDir, err)
	}
	defer unlock()
	log := quieted(e.log, &e.stopping)
	cfg, err := e.cfg.embedded(log)
	if err != nil {
		return err
	}
	f, err := listen(&e.cfg)
	if err != nil {
		return err
	}
	defer f.abort()
	member, broke, err := startEtcd(cfg, log)
	if err != nil {
		return fmt.Errorf("start etcd: %w", e.makeRoom(err))
	}
	e.running.Store(member)
	err = e.wait(ctx, member, broke, f, start)
	if closing := closeMember(member, broke); err == nil && closing != nil {
		err = fmt.Errorf("stop etcd: %w", closing)
	}
	return e.makeRoom(err)
}

// makeRoom gives up the ballast when an error says that the disk is full, for the
// next start, or whoever cleans up.
func (e *Engine) makeRoom(err error) error {
	if errors.Is(err, ErrFull) {
		return errors.Join(err, giveUpBallast(e.cfg.DataDir))
	}
	return err
}

// options are what etcd's services are served with. Their streams end with ctx.
func (e *Engine) options(ctx context.Context) []grpc.ServerOption {
	options := []grpc.ServerOption{
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minClientPing, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(e.gate.unary),
		grpc.ChainStreamInterceptor(cutStreams(ctx)),
	}
	if e.cfg.Unary != nil {
		options = append(options, grpc.ChainUnaryInterceptor(e.cfg.Unary))
	}
	if e.cfg.Stream != nil {
		options = append(options, grpc.ChainStreamInterceptor(e.cfg.Stream))
	}
	return append(options, grpc.ChainUnaryInterceptor(e.whileItLives, e.tellShortage, learnersOnly, e.moveStill)) // after who may refuse it
}

// elsewhere is what etcd's clients take for a call that was not made: they make it
// again, at another member (isSafeRetry of client/v3).
var elsewhere = status.Error(codes.Unavailable, "there is no address available")

// whileItLives sends clients of a member that ends, or was removed, elsewhere: a second
// later such a one stops, and panics when it is asked in between how it is.
func (e *Engine) whileItLives(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
	m := e.running.Load()
	if m == nil || over(m) {
		return nil, elsewhere
	}
	if _, ok := request.(*pb.StatusRequest); ok {
		defer func() {
			if r := recover(); r != nil {
				if !over(m) { // meanwhile
					panic(r)
				}
				answer, err = nil, elsewhere
			}
		}()
	}
	return handler(ctx, request)
}

// over reports whether a member stops, or is about to.
func over(member *embed.Etcd) bool {
	select {
	case <-member.Server.StoppingNotify():
		return true
	default:
		return removed(member)
	}
}

// learnersOnly refuses a member that would vote before it has the log, or at all.
func learnersOnly(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if r, ok := request.(*pb.MemberAddRequest); ok && !r.IsLearner {
		return nil, status.Error(codes.FailedPrecondition, "a new member begins as a learner (etcdctl member add --learner), and is promoted when it has caught up")
	}
	return handler(ctx, request)
}

func removed(member *embed.Etcd) bool {
	return member.Server.IsIDRemoved(uint64(member.Server.MemberID()))
}

// closeMember ends a member. One that is not ready, as it finds no others, would wait
// for that first, for ever. One that is broken stays as it is.
func closeMember(member *embed.Etcd, broke *broken) error {
	select {
	case <-broke.happened:
		return broke.err
	default:
	}
	closed := make(chan struct{})
	go func() { // which never ends if it breaks
		defer close(closed)
		closeWhole(member)
	}()
	select {
	case <-closed:
		return nil
	case <-broke.happened:
		return broke.err
	}
}

func closeWhole(member *embed.Etcd) {
	patience := time.AfterFunc(handoverMost, member.Server.HardStop)
	defer patience.Stop()
	select {
	case <-member.Server.ReadyNotify():
	default:
		member.Server.HardStop()
	}
	member.Close()
}

func (e *Engine) wait(ctx context.Context, member *embed.Etcd, broke *broken, f *front, start time.Time) error {
	ready := member.Server.ReadyNotify()
	failed := make(chan error)
	streams, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	full, stop := e.watchDisk(ctx, member, broke)
	defer stop()
	leave := func() {
		e.stopping.Store(true)
		if ready == nil {
			e.handOver(member)
		}
		f.stop(cut)
	}
	for {
		select {
		case <-ready:
			ready = nil
			f.serve(member, failed, e.options(streams)...)
			close(e.ready)
			e.log.Info("etcd serves", zap.Strings("endpoints", e.Endpoints()), zap.Duration("duration", time.Since(start)))
		case <-ctx.Done():
			leave()
			return nil
		case <-broke.happened:
			return fmt.Errorf("serve etcd: %w", broke.err)
		case err := <-full:
			leave()
			return fmt.Errorf("serve etcd: %w", err)
		case err := <-failed:
			return err
		case err := <-member.Err():
			f.stop(cut)
			return fmt.Errorf("serve etcd: %w", err)
		case <-member.Server.StopNotify():
			f.stop(cut)
			if removed(member) {
				return fmt.Errorf("%w: %w", ErrStopped, ErrRemoved)
			}
			return ErrStopped
		}
	}
}
