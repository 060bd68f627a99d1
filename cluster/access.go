package cluster

import (
	"fmt"
	"strings"
)

// Operation is what a caller wants of the store. One that is none of these
// nobody may do, such as all that has to do with the store's own users.
type Operation string

// The operations. Those on keys have a range of them, see Access.
const (
	OpConnect  Operation = "connect" // hold a stream open, with nothing in it yet
	OpRead     Operation = "read"
	OpCompare  Operation = "compare" // as a guard of a transaction
	OpWatch    Operation = "watch"
	OpWrite    Operation = "write" // one key
	OpDelete   Operation = "delete"
	OpGrant    Operation = "make a lease"
	OpLease    Operation = "use a lease of its own" // renew, see or end it, put a key on it
	OpForeign  Operation = "use another's lease"
	OpLeases   Operation = "list leases"
	OpMembers  Operation = "list servers"
	OpStatus   Operation = "see how a server is" // alarms and hashes, too
	OpMaintain Operation = "maintain the store"  // compact, defragment, change its members …
	OpSnapshot Operation = "take a snapshot"
)

// Access is one operation on the keys in [Key, End). As in etcd, an empty End
// means the one key, "\x00" all keys from Key on.
type Access struct {
	Op       Operation
	Key, End string
}

func (a Access) onKeys() bool {
	switch a.Op {
	case OpRead, OpCompare, OpWatch, OpWrite, OpDelete:
		return true
	}
	return false
}

// reads reports whether a tells what is in the store, and changes nothing.
func (a Access) reads() bool { return a.onKeys() && a.Op != OpWrite && a.Op != OpDelete }

// String is "watch nodes/", with the first key only and without Root.
func (a Access) String() string {
	if !a.onKeys() {
		return string(a.Op)
	}
	more := ""
	if a.End != "" {
		more = " and on"
	}
	return string(a.Op) + " " + CleanText(strings.TrimPrefix(a.Key, Root)) + more
}

// span is the keys in [from, to).
type span struct{ from, to string }

// one is the span of one key.
func one(key string) span { return span{key, key + "\x00"} }

// below is the span of a prefix that ends with a slash.
func below(prefix string) span { return span{prefix, prefix[:len(prefix)-1] + "0"} } // "0" follows "/"

// within reports whether all keys of a lie in one of spans.
func (a Access) within(spans ...span) bool {
	end := a.End
	switch end {
	case "":
		end = a.Key + "\x00"
	case "\x00":
		return false
	}
	for _, s := range spans {
		if a.Key >= s.from && a.Key < s.to && end <= s.to {
			return true
		}
	}
	return false
}

// Caller is who asks: whom its certificate speaks for, and the SHA-256 of that
// certificate's public key (SubjectPublicKeyInfo), 64 hexadecimal digits.
type Caller struct {
	Subject Subject
	Key     string
}

// Roster is what is known of those who may call.
type Roster interface {
	Node(name string) (*Node, bool)
	User(name string) (*User, bool)
	// Assigned reports whether the node has a record of its part in the VPC.
	Assigned(node, vpc string) bool
}

// Refusal is why a caller may not do what it asks for.
type Refusal struct {
	Caller Subject
	Access Access
	Why    string
	// Unknown says that something is missing in the roster: it may be on its way.
	Unknown bool
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("%s may not %s: %s", r.Caller, r.Access, r.Why)
}

// Allowed is nil if the caller may do what it asks for, else a *Refusal. It is
// all there is of authorization, and pure: who serves the store asks it before
// everything that is done there, and again about what goes on when the roster
// has changed.
//
// A server may do everything. A node reads what is everybody's, its own, and the
// VPCs that it is assigned to, and writes what it reports. One that was removed
// is left with its own records, to take down what it has and say so; a
// certificate of another key than the record's opens less. People do what their
// role is for. Nobody else may do anything, and only servers may look outside of
// Root.
func Allowed(c Caller, in Roster, a Access) error {
	var v verdict
	switch {
	case !knownOperation(a.Op):
		v = no("nobody may")
	case c.Subject.Kind == SubjectServer:
	case c.Subject.Kind == SubjectNode:
		v = nodeMay(c, in, a)
	case c.Subject.Kind == SubjectUser:
		v = userMay(c, in, a)
	default:
		v = no("it is nobody")
	}
	if v.why == "" {
		return nil
	}
	return &Refusal{c.Subject, a, v.why, v.unknown}
}

func knownOperation(op Operation) bool {
	switch op {
	case OpConnect, OpRead, OpCompare, OpWatch, OpWrite, OpDelete, OpGrant, OpLease, OpForeign,
		OpLeases, OpMembers, OpStatus, OpMaintain, OpSnapshot:
		return true
	}
	return false
}

// verdict is yes if it says no why.
type verdict struct {
	why     string
	unknown bool
}

func no(why string) verdict { return verdict{why: why} }

// notYet is no, but the roster may be about to say otherwise.
func notYet(why string) verdict { return verdict{why, true} }

// whyKey is said of a certificate that was replaced, or whose name another
// machine or person has got.
const whyKey = "the certificate is not of the key in its record"

func nodeMay(c Caller, in Roster, a Access) verdict {
	me := c.Subject.Name
	n, ok := in.Node(me)
	switch {
	case !ok:
		return notYet("no record says that it is a node")
	case n.Key != c.Key: // to see that its name is taken
		if a.Op == OpConnect || a.reads() && a.within(one(KeyConfig), one(KeyNode(me))) {
			return verdict{}
		}
		return notYet(whyKey)
	}
	left := n.State == NodeLeft
	switch a.Op {
	case OpConnect, OpGrant, OpLease:
		return verdict{}
	case OpMembers:
		if !left {
			return verdict{}
		}
	case OpRead, OpCompare, OpWatch:
		return nodeReads(me, left, in, a)
	case OpDelete:
		if a.within(one(KeyLive(me)), below(PrefixStatus(me)), below(PrefixRequests(me))) {
			return verdict{}
		}
		return no("a node deletes what it wrote")
	case OpWrite:
		if k, err := ParseKey(a.Key); err == nil && a.End == "" && k.Node == me && WriterOf(k.Kind) == Agent {
			return verdict{}
		}
		return no("a node writes what it reports itself, under names that have a meaning")
	}
	if left {
		return no("it was removed")
	}
	return no("no node may")
}

// nodeReads is about what a host reads and watches.
func nodeReads(me string, left bool, in Roster, a Access) verdict {
	own := []span{one(KeyConfig), one(KeyNode(me)), below(PrefixHost(me)), one(KeyLive(me)), below(PrefixStatus(me)), below(PrefixRequests(me))}
	vpc := vpcOf(a.Key)
	switch {
	case a.within(own...):
		return verdict{}
	case left:
		return no("it was removed")
	case a.within(below(PrefixNodes), below(PrefixFence), below(PrefixSrvs)):
		return verdict{}
	case vpc == "" || !a.within(below(PrefixVPC(vpc))):
		return no("it is no node's to see")
	case !in.Assigned(me, vpc):
		return notYet("it has no part in that VPC")
	}
	return verdict{}
}

// vpcOf is the VPC that a key lies below, "" for none.
func vpcOf(key string) string {
	rest, ok := strings.CutPrefix(key, PrefixVPCs)
	name, _, below := strings.Cut(rest, "/")
	if !ok || !below || CheckVPCName(name) != nil {
		return ""
	}
	return name
}

// healthKey is what etcdctl reads to see whether a server answers.
const healthKey = "health"

func userMay(c Caller, in Roster, a Access) verdict {
	u, ok := in.User(c.Subject.Name)
	switch {
	case !ok:
		return notYet("no record says that it is a user")
	case u.Key != c.Key:
		return notYet(whyKey)
	case a.Op == OpConnect, a.Op == OpMembers, a.Op == OpStatus, a.Op == OpRead && a.within(one(healthKey)):
		return verdict{}
	case u.Role == UserAdmin:
		if !a.onKeys() || a.within(below(Root)) {
			return verdict{}
		}
		return no("it is no record")
	case u.Role != UserOperator && u.Role != UserViewer:
		return no("its role has no meaning here")
	case a.reads():
		if a.within(span{Root, PrefixToks}, span{below(PrefixToks).to, below(Root).to}) {
			return verdict{}
		}
		return no("only an admin sees tokens, and nobody what is no record")
	case u.Role == UserViewer:
		return no("a viewer reads")
	case a.onKeys() && operates(a):
		return verdict{}
	}
	return no("that takes an admin")
}

// operates reports whether a changes one record of those that operators look
// after.
func operates(a Access) bool {
	k, err := ParseKey(a.Key)
	if err != nil || a.End != "" || WriterOf(k.Kind) != Operator {
		return false
	}
	switch k.Kind {
	case KindConfig, KindServer, KindToken, KindUser:
		return false
	}
	return true
}
