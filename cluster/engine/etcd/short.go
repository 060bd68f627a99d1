package etcd

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// ShortOfDisk begins what a member that is short of disk space adds to the errors of
// its status, where etcdctl endpoint status shows it.
const ShortOfDisk = "little disk space"

// shortage is what a member's status says of its disk, nil for nothing.
func shortage(now level, s space) *string {
	if now == roomy {
		return nil
	}
	text := fmt.Sprintf("%s: %d MiB are free, want %d MiB", ShortOfDisk, s.free>>20, uint64(lowSpace)>>20)
	return &text
}

// tellShortage adds to the status that the disk is short of space.
func (e *Engine) tellShortage(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	answer, err := handler(ctx, request)
	if s, ok := answer.(*pb.StatusResponse); ok && err == nil {
		if text := e.short.Load(); text != nil {
			s.Errors = append(s.Errors, *text)
		}
	}
	return answer, err
}
