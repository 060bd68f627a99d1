package membership

import (
	"context"
	"crypto/tls"
	"fmt"

	"github.com/meshvpc/meshvpc/cluster"
)

// Hold asks as c, a server that is about to hand over the lead of the store, the
// server at address, also a witness, to let nothing through for a moment: until
// another leads, or it has lasted too long. It returns when nothing is under way
// there.
func Hold(ctx context.Context, address string, c Credential) error {
	return ask(ctx, address, pathHold, Dialer(c.Load), struct{}{}, &struct{}{}, nil)
}

func (s *Service) hold(ctx context.Context, conn *tls.ConnectionState, _ struct{}) (struct{}, error) {
	by, err := s.holder(conn)
	if err != nil {
		return struct{}{}, err
	}
	if by.Kind != cluster.SubjectServer {
		return struct{}{}, refusef(CodeForbidden, "that is for servers")
	}
	if s.cfg.Hold == nil {
		return struct{}{}, refusef(CodeForbidden, "the store is not run by servers of meshvpc")
	}
	if err := s.cfg.Hold(ctx, cluster.Caller{Subject: by.Subject, Key: by.hash}); err != nil {
		return struct{}{}, fmt.Errorf("hold still: %w", err)
	}
	return struct{}{}, nil
}

// MayMove is nil if a server may have the lead move. It reads nothing from the store,
// which may hold still already.
func (a *Authorizer) MayMove(c cluster.Caller) error {
	return a.permit(c, demand{accesses: []cluster.Access{{Op: cluster.OpMaintain}}})
}
