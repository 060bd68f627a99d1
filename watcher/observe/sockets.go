package observe

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster/membership/reach"
)

// Prober asks targets.
type Prober interface {
	// Round ends the round before, whose answers do not count any more, and asks all
	// targets, without waiting for anything. heard is called for whoever answers, by
	// any goroutine, and must not block.
	Round(targets []Target, heard func(node string, kernel bool))
	// Blind reports that no kernel can be asked.
	Blind() bool
	Close()
}

// sockets asks agents over UDP, and kernels by ICMP.
type sockets struct {
	log     *zap.Logger
	agents  *reach.Asker
	kernels *echoer // nil: none can be asked
}

// Open is a Prober by this host's sockets. One that may not send echo requests is
// blind, and says so in the log. log nil: none.
func Open(log *zap.Logger) (Prober, error) {
	if log == nil {
		log = zap.NewNop()
	}
	s := &sockets{log: log.Named("observe")}
	var err error
	if s.agents, err = reach.NewAsker(log); err != nil {
		return nil, fmt.Errorf("observe nodes: %w", err)
	}
	if s.kernels, err = newEchoer(log); err != nil {
		s.log.Warn("cannot send ICMP echo requests: what this node says of silent nodes leaves open whether their kernels answer; give it CAP_NET_RAW", zap.Error(err))
	}
	return s, nil
}

// Round implements Prober.
func (s *sockets) Round(targets []Target, heard func(node string, kernel bool)) {
	s.agents.Forget()
	if s.kernels != nil {
		s.kernels.forget()
	}
	targets = slices.Clone(targets)
	rand.Shuffle(len(targets), func(i, j int) { targets[i], targets[j] = targets[j], targets[i] })
	for _, t := range targets {
		err := s.agents.Ask(t.Key, t.Addresses, func() { heard(t.Node, false) })
		if s.kernels != nil {
			err = errors.Join(err, s.kernels.ask(t.Addresses, func() { heard(t.Node, true) }))
		}
		if err != nil { // it is a miss
			s.log.Debug("cannot ask", zap.String("node", t.Node), zap.Error(err))
		}
	}
}

// Blind implements Prober.
func (s *sockets) Blind() bool { return s.kernels == nil }

// Close implements Prober.
func (s *sockets) Close() {
	s.agents.Close()
	if s.kernels != nil {
		s.kernels.close()
	}
}
