package membership

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/meshvpc/meshvpc/cluster"
)

var errNoCertificate = errors.New("the connection has no certificate of this cluster")

// callerOf is whom the certificate of a call's connection speaks for.
func callerOf(ctx context.Context) (cluster.Caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return cluster.Caller{}, errNoCertificate
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 || len(info.State.VerifiedChains[0]) == 0 {
		return cluster.Caller{}, errNoCertificate
	}
	leaf := info.State.VerifiedChains[0][0]
	s, err := cluster.ParseSubject(leaf.Subject.CommonName)
	if err != nil {
		return cluster.Caller{}, err
	}
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return cluster.Caller{Subject: s, Key: hex.EncodeToString(sum[:])}, nil
}

// A lease's ID says whose it is, so that every server knows, after a restart,
// too: the upper half is of the subject's name, the lower one is random.
const leaseBits = 31 // of each half; IDs are positive

func ownsLease(s cluster.Subject, id int64) bool { return id > 0 && id>>leaseBits == leaseOwner(s) }

func newLease(s cluster.Subject) int64 {
	return leaseOwner(s)<<leaseBits | int64(1+rand.Uint32N(1<<leaseBits-1))
}

func leaseOwner(s cluster.Subject) int64 {
	sum := sha256.Sum256([]byte(s.String()))
	return int64(binary.BigEndian.Uint32(sum[:]) >> 1)
}
