package membership

import (
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/meshvpc/meshvpc/cluster"
)

// TestBucket: a burst at once, then what comes back with time, and debts first.
func TestBucket(t *testing.T) {
	now := time.Unix(1000, 0)
	r := Rate{PerSecond: 2, Burst: 5}
	var b bucket
	got := func(n float64) bool { return b.take(r, n, now) }
	if !got(3) || !got(2) || got(1) {
		t.Error("want 5 at once and no more")
	}
	now = now.Add(time.Second)
	if !got(2) || got(1) {
		t.Error("want 2 after a second")
	}
	b.missing += 10 // a long answer
	now = now.Add(5 * time.Second)
	if got(1) {
		t.Error("the debt is not paid yet")
	}
	now = now.Add(time.Hour)
	if !got(5) || got(1) {
		t.Error("want no more than the burst after an hour")
	}
	now = now.Add(-time.Minute) // a clock that is put back gives nothing
	if got(1) {
		t.Error("got one for a clock that went back")
	}
	if !(&bucket{}).take(Rate{}, 1e9, now) {
		t.Error("no rate bounds nothing")
	}
}

func puts(value int, keys ...string) demand {
	var d demand
	for _, k := range keys {
		d.put(cluster.Subject{Kind: cluster.SubjectNode, Name: "n1"}, &pb.PutRequest{Key: []byte(k), Value: make([]byte, value)})
	}
	return d
}

// TestWriteQuota: size, rate, and keys about VPCs that the node has no part in.
func TestWriteQuota(t *testing.T) {
	now := time.Unix(1000, 0)
	assigned := func(vpc string) bool { return vpc == "blue" }
	status := func(vpc string) string { return cluster.KeyVPCStatus("n1", vpc) }
	q := NodeQuota()
	for name, tt := range map[string]struct {
		set  func(*Quota)
		asks []demand // all but the last are within it
	}{
		"a large value":     {func(q *Quota) { q.Value = 100 }, []demand{puts(100, status("blue")), puts(101, status("blue"))}},
		"many writes":       {func(q *Quota) { q.Writes = Rate{1, 3} }, []demand{puts(1, status("blue"), status("blue")), puts(1, status("blue")), puts(1, status("blue"))}},
		"many bytes":        {func(q *Quota) { q.Bytes = Rate{1, 3000} }, []demand{puts(1000, status("blue")), puts(1000, status("blue")), puts(1000, status("blue"))}},
		"odd VPCs":          {func(q *Quota) { q.Unassigned = 2 }, []demand{puts(1, status("a"), status("blue")), puts(1, status("b"), status("a")), puts(1, status("c"))}},
		"odd VPCs, at once": {func(q *Quota) { q.Unassigned = 2 }, []demand{puts(1, status("a"), status("b"), status("c"))}},
	} {
		t.Run(name, func(t *testing.T) {
			q := q
			tt.set(&q)
			var u used
			for i, d := range tt.asks {
				if err := u.write(q, d, assigned, now); (err == nil) != (i < len(tt.asks)-1) {
					t.Errorf("%d: %v", i, err)
				}
			}
		})
	}
}

// TestNodeQuotaIsEnough: an agent with 200 VPCs that comes back reads each and
// what it last knew of it, watches it, and reports.
func TestNodeQuotaIsEnough(t *testing.T) {
	now, q := time.Unix(1000, 0), NodeQuota()
	assigned := func(string) bool { return true }
	for round := range 3 { // the connection is lost a few times
		var u used
		for i := range 200 {
			for range 3 {
				if err := u.request(q, now); err != nil {
					t.Fatal(round, i, err)
				}
			}
			u.answered(q, answerCost(&pb.RangeResponse{Count: 200}))
			if err := u.openStream(q, now); err != nil {
				t.Fatal(round, i, err)
			}
			if err := u.watch(q, now); err != nil {
				t.Fatal(round, i, err)
			}
			key := cluster.KeyVPCStatus("n1", fmt.Sprintf("v%d", i))
			if err := u.write(q, puts(10000, key), assigned, now); err != nil {
				t.Fatal(round, i, err)
			}
		}
	}
}

// TestLeaseQuota: leases that may be alive count, whoever made them.
func TestLeaseQuota(t *testing.T) {
	now := time.Unix(1000, 0)
	q := Quota{Leases: 2, LeaseTTL: time.Minute}
	var u used
	if u.grant(q, &pb.LeaseGrantRequest{ID: 1, TTL: 61}, now) == nil {
		t.Error("a lease of more than a minute was granted")
	}
	if u.grant(q, &pb.LeaseGrantRequest{ID: 1, TTL: 60}, now) != nil || u.lease(q, 2, now) != nil || u.lease(q, 1, now) != nil {
		t.Error("two leases are within the quota")
	}
	if u.lease(q, 3, now) == nil {
		t.Error("three are not")
	}
	now = now.Add(30 * time.Second)
	if u.lease(q, 1, now) != nil {
		t.Error("a lease cannot be renewed")
	}
	now = now.Add(30 * time.Second)
	if u.lease(q, 3, now) != nil {
		t.Error("the second is over, and still counts")
	}
}

// TestLeaseNumbers: they say whose they are, and are positive.
func TestLeaseNumbers(t *testing.T) {
	n1, n2 := cluster.Subject{Kind: cluster.SubjectNode, Name: "n1"}, cluster.Subject{Kind: cluster.SubjectNode, Name: "n2"}
	for range 1000 {
		id := newLease(n1)
		if id <= 0 || !ownsLease(n1, id) || ownsLease(n2, id) || ownsLease(n1, -id) {
			t.Fatalf("lease %d", id)
		}
	}
}
