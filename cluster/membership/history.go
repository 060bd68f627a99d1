package membership

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/meshvpc/meshvpc/cluster"
)

// carryOut lets etcd do what is allowed. What changes records of what people
// want is done with an event beside it (see cluster.Event), in one transaction
// however it was asked for: both are there, or neither is. The answer is that of
// the request.
func (a *Authorizer) carryOut(ctx context.Context, c cluster.Caller, d demand, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	kv, ok := info.Server.(pb.KVServer)
	if !ok || path.Dir(info.FullMethod) != "/"+pb.KV_ServiceDesc.ServiceName {
		return handler(ctx, request)
	}
	r := &recorder{a: a, by: c.Subject, kv: kv, added: map[*pb.RequestOp]*cluster.Event{}}
	t := transactionOf(request)
	switch {
	case t == nil:
	case tooManyOps(t, maxTxnOps):
		return nil, rpctypes.ErrGRPCTooManyOps
	case c.Subject.Kind != cluster.SubjectNode: // what nodes may write is what they report
		if err := r.extend(ctx, t); err != nil {
			return nil, err
		}
	}
	if len(r.added) == 0 {
		answer, err := handler(ctx, request)
		if err == nil {
			a.noteChange(c, d, answer)
		}
		return answer, err
	}
	answer, err := kv.Txn(ctx, t)
	if errors.Is(err, rpctypes.ErrGRPCNoSpace) { // it may be what makes room
		r.a.log.Warn("no space for an event", zap.Stringer("subject", r.by), zap.Error(err))
		r.remove(t)
		return handler(ctx, request)
	}
	if err != nil {
		return nil, err
	}
	r.strip(t, answer)
	return answerTo(request, answer), nil
}

// transactionOf is a request as a transaction, nil if it writes nothing. That of
// a transaction is the request itself.
func transactionOf(request any) *pb.TxnRequest {
	switch q := request.(type) {
	case *pb.TxnRequest:
		return q
	case *pb.PutRequest:
		return &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: q}}}}
	case *pb.DeleteRangeRequest:
		return &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: q}}}}
	}
	return nil
}

// answerTo is the answer that the request would have had by itself.
func answerTo(request any, answer *pb.TxnResponse) any {
	switch request.(type) {
	case *pb.PutRequest:
		return &pb.PutResponse{Header: answer.Header, PrevKv: answer.Responses[0].GetResponsePut().GetPrevKv()}
	case *pb.DeleteRangeRequest:
		deleted := answer.Responses[0].GetResponseDeleteRange()
		return &pb.DeleteRangeResponse{Header: answer.Header, Deleted: deleted.GetDeleted(), PrevKvs: deleted.GetPrevKvs()}
	}
	return answer
}

// recorder adds events to one request.
type recorder struct {
	a     *Authorizer
	by    cluster.Subject
	kv    pb.KVServer
	prior map[string]known
	added map[*pb.RequestOp]*cluster.Event
}

// known is what a key held shortly before; mod 0: it did not exist.
type known struct {
	value []byte
	mod   int64
}

// extend adds the events, and reads first what the keys held.
func (r *recorder) extend(ctx context.Context, q *pb.TxnRequest) error {
	keys := map[string]bool{}
	intents(q, keys)
	if len(keys) == 0 {
		return nil
	}
	if err := r.read(ctx, keys); err != nil {
		return err
	}
	r.record(q, nil)
	return nil
}

// intents gathers the single keys that q may write of what people want, and the
// first keys of ranges that it deletes of that.
func intents(q *pb.TxnRequest, keys map[string]bool) {
	for _, branch := range [][]*pb.RequestOp{q.GetSuccess(), q.GetFailure()} {
		if writesHistory(branch) {
			continue
		}
		for _, op := range branch {
			if put := op.GetRequestPut(); put != nil && intent(put.Key, nil) {
				keys[string(put.Key)] = true
			}
			if del := op.GetRequestDeleteRange(); del != nil && intent(del.Key, del.RangeEnd) {
				keys[string(del.Key)] = true
			}
			intents(op.GetRequestTxn(), keys)
		}
	}
}

// intent reports whether [key, end) holds records of what people want.
func intent(key, end []byte) bool {
	if len(end) == 0 {
		return cluster.IntentKey(string(key))
	}
	return slices.ContainsFunc(cluster.Intents(), func(family string) bool { return overlap(string(key), string(end), family) })
}

// overlap reports whether a key that begins with family lies in [key, end).
func overlap(key, end, family string) bool {
	after := family[:len(family)-1] + string(family[len(family)-1]+1)
	return key < after && (end == "\x00" || end > family)
}

// writesHistory reports whether a branch says itself what it does, as our servers
// do, or deletes of the history, in which nothing can be written beside that.
func writesHistory(branch []*pb.RequestOp) bool {
	return slices.ContainsFunc(branch, func(op *pb.RequestOp) bool {
		if del := op.GetRequestDeleteRange(); del != nil {
			return len(del.RangeEnd) > 0 && overlap(string(del.Key), string(del.RangeEnd), cluster.PrefixEvents)
		}
		inner := op.GetRequestTxn()
		return strings.HasPrefix(string(op.GetRequestPut().GetKey()), cluster.PrefixEvents) ||
			inner != nil && (writesHistory(inner.Success) || writesHistory(inner.Failure))
	})
}

// read asks this very server what keys hold, as far as it knows: that costs no
// round trip. Where a guard of the transaction names a revision, record sees
// whether it is that one.
func (r *recorder) read(ctx context.Context, keys map[string]bool) error {
	r.prior = make(map[string]known, len(keys))
	var list []string
	for key := range keys {
		list = append(list, key)
	}
	slices.Sort(list)
	for chunk := range slices.Chunk(list, maxTxnOps) {
		q := &pb.TxnRequest{}
		for _, key := range chunk {
			q.Success = append(q.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{
				RequestRange: &pb.RangeRequest{Key: []byte(key), Serializable: true}}})
		}
		answer, err := r.kv.Txn(ctx, q)
		if err != nil {
			return err
		}
		for i, key := range chunk {
			var was known
			if kvs := answer.Responses[i].GetResponseRange().GetKvs(); len(kvs) > 0 {
				was = known{kvs[0].Value, kvs[0].ModRevision}
			}
			r.prior[key] = was
		}
	}
	return nil
}

// record adds an event to each branch of q that needs one. guards are those of
// the transactions around q.
func (r *recorder) record(q *pb.TxnRequest, guards []*pb.Compare) {
	if q == nil {
		return
	}
	within := slices.Concat(guards, q.Compare)
	q.Success = r.recordBranch(q.Success, within)
	q.Failure = r.recordBranch(q.Failure, guards)
}

func (r *recorder) recordBranch(branch []*pb.RequestOp, guards []*pb.Compare) []*pb.RequestOp {
	if writesHistory(branch) {
		return branch
	}
	e := &cluster.Event{Time: cluster.At(r.a.now()), By: r.by.String()}
	certain, may := false, []*pb.DeleteRangeRequest{}
	for _, op := range branch {
		r.record(op.GetRequestTxn(), guards)
		c, sure, ok := r.describe(op, guards)
		if !ok {
			continue
		}
		e.Changes, certain = append(e.Changes, c), certain || sure
		if !sure {
			may = append(may, op.GetRequestDeleteRange())
		}
	}
	if len(e.Changes) == 0 {
		return branch
	}
	value, err := cluster.Encode(e, nil)
	if err != nil { // cannot be: Encode cleans what it is given
		r.a.log.Error("cannot write an event", zap.Stringer("subject", r.by), zap.Error(err))
		return branch
	}
	op := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{
		Key: []byte(cluster.KeyEvent(e.Time.Time, rand.Uint64())), Value: value}}}
	if !certain && len(may) <= mostDoubts {
		op = ifAny(may, op)
	}
	r.added[op] = e
	return append(slices.Clip(branch), op)
}

// mostDoubts is how many deletions of what may not be there are looked into: of
// more, an event is written in any case. An engine's spare operations are for it.
const mostDoubts = 8

// ifAny carries out op if one of the deletions finds something. etcd decides that
// before it carries out anything.
func ifAny(deletions []*pb.DeleteRangeRequest, op *pb.RequestOp) *pb.RequestOp {
	var or []*pb.RequestOp
	for _, d := range slices.Backward(deletions) {
		there := &pb.Compare{Key: d.Key, RangeEnd: d.RangeEnd, Target: pb.Compare_CREATE, Result: pb.Compare_GREATER,
			TargetUnion: &pb.Compare_CreateRevision{CreateRevision: 0}}
		or = []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{
			Compare: []*pb.Compare{there}, Success: []*pb.RequestOp{op}, Failure: or}}}}
	}
	return or[0]
}

// happened reports whether what ifAny made did something; anything else did.
func happened(answer *pb.ResponseOp) bool {
	t := answer.GetResponseTxn()
	return t == nil || t.Succeeded || len(t.Responses) > 0 && happened(t.Responses[0])
}

// describe says what one operation changes, and whether it certainly does: a
// deletion may find nothing.
func (r *recorder) describe(op *pb.RequestOp, guards []*pb.Compare) (c cluster.Change, sure, ok bool) {
	put, del := op.GetRequestPut(), op.GetRequestDeleteRange()
	switch {
	case put != nil && intent(put.Key, nil):
		w, _ := r.written(string(put.Key), guards)
		if w.New = put.Value; put.IgnoreValue || w.New == nil {
			w.New = append([]byte{}, w.Old...)
		}
		c, ok := cluster.Describe(w)
		if !ok { // it says what the record said already; who did so is told nevertheless
			c = cluster.Change{Verb: cluster.VerbChanged, Key: cluster.Short(w.Key)}
		}
		return c, true, true
	case del != nil && len(del.RangeEnd) == 0 && intent(del.Key, nil):
		w, named := r.written(string(del.Key), guards)
		w.Blind = true // it may have come to be a moment ago
		c, ok := cluster.Describe(w)
		return c, named, ok
	case del != nil && len(del.RangeEnd) > 0 && intent(del.Key, del.RangeEnd):
		return cluster.Change{Verb: cluster.VerbDeleted, Key: cluster.CleanText(cluster.Short(string(del.Key))),
			Detail: fmt.Sprintf("and all keys below %s", cluster.Short(string(del.RangeEnd)))}, false, true
	}
	return cluster.Change{}, false, false
}

// written is a write of key with what was there, unless a guard says that this
// server has not heard of that yet. named: a guard says that there is something.
func (r *recorder) written(key string, guards []*pb.Compare) (w cluster.Written, named bool) {
	was := r.prior[key]
	w.Key = key
	if was.mod != 0 {
		w.Old = append([]byte{}, was.value...) // not nil
	}
	for _, g := range guards {
		if string(g.Key) != key || len(g.RangeEnd) > 0 || g.Result != pb.Compare_EQUAL {
			continue
		}
		if m, ok := g.GetTargetUnion().(*pb.Compare_ModRevision); ok && g.Target == pb.Compare_MOD {
			named = named || m.ModRevision != 0
			if m.ModRevision != was.mod {
				w.Old, w.Blind = nil, m.ModRevision != 0
			}
		}
	}
	return w, named
}

// strip takes the answers to what was added out of an answer, and logs what was
// changed.
func (r *recorder) strip(q *pb.TxnRequest, answer *pb.TxnResponse) {
	ran := q.GetFailure()
	if answer.GetSucceeded() {
		ran = q.GetSuccess()
	}
	for i, op := range ran {
		if e := r.added[op]; e != nil {
			if happened(answer.Responses[i]) {
				r.a.logEvent(e)
			}
			answer.Responses = answer.Responses[:i] // it is the last
			return
		}
		if inner := op.GetRequestTxn(); inner != nil {
			r.strip(inner, answer.Responses[i].GetResponseTxn())
		}
	}
}

// remove takes what was added out of a request again.
func (r *recorder) remove(q *pb.TxnRequest) {
	for _, branch := range []*[]*pb.RequestOp{&q.Success, &q.Failure} {
		*branch = slices.DeleteFunc(*branch, func(op *pb.RequestOp) bool { return r.added[op] != nil })
		for _, op := range *branch {
			if inner := op.GetRequestTxn(); inner != nil {
				r.remove(inner)
			}
		}
	}
}

// logEvent is the one line of a change that was made.
func (a *Authorizer) logEvent(e *cluster.Event) {
	var what, keys []string
	for i := range e.Changes {
		what, keys = append(what, e.Changes[i].String()), append(keys, e.Changes[i].Key)
	}
	a.log.Info("records changed", zap.String("subject", e.By), zap.Strings("what", what), zap.Strings("key", keys))
}

// maxTxnOps bounds each list of a client's transaction, as etcd does by default.
// An engine of ours takes some more, for events.
const maxTxnOps = 128

// tooManyOps is etcd's own rule: what is nested has the room that is left.
func tooManyOps(q *pb.TxnRequest, room int) bool {
	most := max(len(q.GetCompare()), len(q.GetSuccess()), len(q.GetFailure()))
	if most > room {
		return true
	}
	for _, op := range slices.Concat(q.GetSuccess(), q.GetFailure()) {
		if inner := op.GetRequestTxn(); inner != nil && tooManyOps(inner, room-most) {
			return true
		}
	}
	return false
}
