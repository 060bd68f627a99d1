package membership

import (
	"path"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/meshvpc/meshvpc/cluster"
)

// demand is what a request of etcd's API asks for, all branches of a
// transaction included.
type demand struct {
	accesses []cluster.Access
	puts     []*pb.PutRequest
}

// demandOf translates a request of subject s. What is not known is an operation
// that nobody may do, named after the method.
func demandOf(s cluster.Subject, method string, request any) demand {
	var d demand
	switch r := request.(type) {
	case *pb.RangeRequest:
		d.keys(cluster.OpRead, r.Key, r.RangeEnd)
	case *pb.PutRequest:
		d.put(s, r)
	case *pb.DeleteRangeRequest:
		d.keys(cluster.OpDelete, r.Key, r.RangeEnd)
	case *pb.TxnRequest:
		d.txn(s, method, r)
	case *pb.WatchCreateRequest:
		d.keys(cluster.OpWatch, r.Key, r.RangeEnd)
	case *pb.LeaseGrantRequest:
		d.does(cluster.OpGrant)
		d.lease(s, r.ID)
	case *pb.LeaseRevokeRequest:
		d.does(leaseOp(s, r.ID))
	case *pb.LeaseKeepAliveRequest:
		d.does(leaseOp(s, r.ID))
	case *pb.LeaseTimeToLiveRequest:
		d.does(leaseOp(s, r.ID))
	case *pb.LeaseLeasesRequest:
		d.does(cluster.OpLeases)
	case *pb.MemberListRequest:
		d.does(cluster.OpMembers)
	case *pb.StatusRequest:
		d.does(cluster.OpStatus)
	case *pb.AlarmRequest:
		if r.Action == pb.AlarmRequest_GET {
			d.does(cluster.OpStatus)
		} else {
			d.does(cluster.OpMaintain)
		}
	case *pb.CompactionRequest, *pb.HashRequest, *pb.HashKVRequest, *pb.DefragmentRequest, *pb.MoveLeaderRequest, *pb.DowngradeRequest,
		*pb.MemberAddRequest, *pb.MemberRemoveRequest, *pb.MemberUpdateRequest, *pb.MemberPromoteRequest:
		d.does(cluster.OpMaintain)
	case *pb.SnapshotRequest:
		d.does(cluster.OpSnapshot)
	default:
		d.does(cluster.Operation("call " + path.Base(method)))
	}
	return d
}

func (d *demand) does(op cluster.Operation) {
	d.accesses = append(d.accesses, cluster.Access{Op: op})
}

func (d *demand) keys(op cluster.Operation, key, end []byte) {
	d.accesses = append(d.accesses, cluster.Access{Op: op, Key: string(key), End: string(end)})
}

// lease is about a lease that goes with something else, 0 for none.
func (d *demand) lease(s cluster.Subject, id int64) {
	if id != 0 {
		d.does(leaseOp(s, id))
	}
}

// leaseOp is what to do something with a lease is.
func leaseOp(s cluster.Subject, id int64) cluster.Operation {
	if ownsLease(s, id) {
		return cluster.OpLease
	}
	return cluster.OpForeign
}

func (d *demand) put(s cluster.Subject, r *pb.PutRequest) {
	d.keys(cluster.OpWrite, r.Key, nil)
	d.lease(s, r.Lease)
	d.puts = append(d.puts, r)
}

func (d *demand) txn(s cluster.Subject, method string, r *pb.TxnRequest) {
	for _, c := range r.Compare {
		d.keys(cluster.OpCompare, c.GetKey(), c.GetRangeEnd())
	}
	for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			switch {
			case op.GetRequestRange() != nil:
				d.add(demandOf(s, method, op.GetRequestRange()))
			case op.GetRequestPut() != nil:
				d.add(demandOf(s, method, op.GetRequestPut()))
			case op.GetRequestDeleteRange() != nil:
				d.add(demandOf(s, method, op.GetRequestDeleteRange()))
			case op.GetRequestTxn() != nil:
				d.txn(s, method, op.GetRequestTxn())
			default:
				d.add(demandOf(s, method, nil))
			}
		}
	}
	if len(d.accesses) == 0 { // it still tells how far the store is
		d.does(cluster.OpConnect)
	}
}

func (d *demand) add(o demand) {
	d.accesses = append(d.accesses, o.accesses...)
	d.puts = append(d.puts, o.puts...)
}

// writes counts the changes that d may make.
func (d *demand) writes() (n int) {
	for _, a := range d.accesses {
		if a.Op == cluster.OpWrite || a.Op == cluster.OpDelete {
			n++
		}
	}
	return n
}

// answerCost is how many plain requests an answer was worth: one that tells many
// keys, or counts them, is more work than one that tells a few.
func answerCost(answer any) float64 {
	switch r := answer.(type) {
	case *pb.RangeResponse:
		return float64(len(r.GetKvs()))/100 + float64(r.GetCount())/1000
	case *pb.RangeStreamResponse:
		return answerCost(r.GetRangeResponse())
	case *pb.TxnResponse:
		cost := 0.0
		for _, op := range r.GetResponses() {
			cost += answerCost(op.GetResponseRange()) + answerCost(op.GetResponseTxn())
		}
		return cost
	}
	return 0
}
