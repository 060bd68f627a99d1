package cluster

import (
	"fmt"
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

// changes reports whether a changes what is in the store.
func (a Access) changes() bool { return a.onKeys() && !a.reads() }

// String is "watch nodes/", with the first key only and without Root.
func (a Access) String() string {
	if !a.onKeys() {
		return string(a.Op)
	}
	more := ""
	if a.End != "" {
		more = " and on"
	}
	return string(a.Op) + " " + CleanText(Short(a.Key)) + more
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

// touches reports whether some keys of a lie in s.
func (a Access) touches(s span) bool {
	switch a.End {
	case "":
		return a.Key >= s.from && a.Key < s.to
	case "\x00":
		return a.Key < s.to
	}
	return a.Key < s.to && a.End > s.from
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
	Server(name string) (*Server, bool)
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
