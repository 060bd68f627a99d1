package allocator

import (
	"crypto/sha256"
	"encoding/binary"
	"iter"

	"github.com/meshvpc/meshvpc/cluster"
)

// MACsOf are the MACs that an endpoint may have, the first if nobody else has it:
// it goes with the name, so an endpoint that is made again is known by the same.
// They are locally administered and unicast (IEEE 802, 0a:6d:…), apart from those
// of the hosts' own ports in a VPC.
func MACsOf(vpc, endpoint string) iter.Seq[cluster.MAC] {
	return func(yield func(cluster.MAC) bool) {
		for n := uint64(0); ; n++ {
			sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(vpc+"/"+endpoint+"/"), n))
			if !yield(cluster.MAC{0x0a, 0x6d, sum[0], sum[1], sum[2], sum[3]}) {
				return
			}
		}
	}
}
