package cluster

import "strings"

// Allowed is nil if the caller may do what it asks for, else a *Refusal. It is
// all there is of authorization, and pure: who serves the store asks it before
// everything that is done there, and again about what goes on when the roster
// has changed.
//
// A server may do everything while its record names its key. A node reads what is everybody's, its own, and the
// VPCs that it is assigned to, and writes what it reports. One that was removed
// is left with its own records, to take down what it has and say so; a
// certificate of another key than the record's opens less. People do what their
// role is for, those of a node while it is not removed. Nobody else may do anything, and only servers may look outside of
// Root.
func Allowed(c Caller, in Roster, a Access) error {
	var v verdict
	switch {
	case !knownOperation(a.Op):
		v = no("nobody may")
	case c.Subject.Kind == SubjectServer:
		v = serverMay(c, in)
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

func serverMay(c Caller, in Roster) verdict {
	s, ok := in.Server(c.Subject.Name)
	switch {
	case !ok:
		return notYet("no record says that it is a server")
	case s.Key != c.Key:
		return notYet(whyKey)
	}
	return verdict{}
}

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
		if a.within(byNode(me)...) {
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
	vpc := vpcOf(a.Key)
	switch {
	case a.within(toNode(me)...), a.within(byNode(me)...):
		return verdict{}
	case left:
		return no("it was removed")
	case a.within(toNodes()...):
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
	case u.By == nodeSubject(c).String() && !staysIn(in, c.Subject.Name):
		return notYet("its node was removed")
	case a.Op == OpConnect, a.Op == OpMembers, a.Op == OpStatus, a.Op == OpRead && a.within(one(healthKey)):
		return verdict{}
	case a.changes() && a.touches(below(PrefixEvents)):
		return no("servers alone write the history")
	case u.Role == UserAdmin:
		if !a.onKeys() || a.within(below(Root)) {
			return verdict{}
		}
		return no("it is no record")
	case u.Role != UserOperator && u.Role != UserViewer:
		return no("its role has no meaning here")
	case a.reads():
		if a.within(toPeople()...) {
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

// nodeSubject is the node of a caller's name: by it are its own people's viewers.
func nodeSubject(c Caller) Subject { return Subject{SubjectNode, c.Subject.Name} }

func staysIn(in Roster, node string) bool {
	n, ok := in.Node(node)
	return ok && n.State != NodeLeft
}

// operates reports whether a changes one record of those that operators look
// after.
func operates(a Access) bool {
	k, err := ParseKey(a.Key)
	if err != nil || a.End != "" || WriterOf(k.Kind) != Operator {
		return false
	}
	switch k.Kind {
	case KindConfig, KindServer, KindToken, KindUser, KindTrust:
		return false
	}
	return true
}
