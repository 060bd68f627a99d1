package cluster

import "fmt"

// Learning is how hosts come to know where a VPC's workloads are.
type Learning string

// The ways of learning. Dynamic, or empty, is from frames. Static is from records
// alone: only attached endpoints are heard on other hosts. Publish is as static, and
// what a host's bridge learns at other ports becomes a record, too (PublishedMAC).
const (
	LearnDynamic Learning = "dynamic"
	LearnStatic  Learning = "static"
	LearnPublish Learning = "publish"
)

// ParseLearning reads what an operator asks for; dynamic is what a VPC has that
// names none. Errors wrap ErrInvalid.
func ParseLearning(s string) (Learning, error) {
	l := Learning(s)
	if l == LearnDynamic {
		l = ""
	}
	return l, checkLearning(l)
}

func checkLearning(l Learning) error {
	switch l {
	case "", LearnDynamic, LearnStatic, LearnPublish:
		return nil
	}
	return fmt.Errorf("%w learning %q: want dynamic, static or publish", ErrInvalid, CleanText(string(l)))
}

// FromRecords reports whether hosts believe records alone.
func (l Learning) FromRecords() bool { return l == LearnStatic || l == LearnPublish }

// Learn puts a way of learning in force. A host that does not know of it keeps what it
// has, and says so.
func (n *VPCNet) Learn(l Learning) {
	n.Learning = l
	n.raise()
}
