package history

import "golang.org/x/sys/unix"

// Kind is what an operation does.
type Kind string

// Kinds of operations.
const (
	Get     Kind = "get"
	Put     Kind = "put"
	Guarded Kind = "guarded" // a put if the key's revision is Op.Guard, else a get
)

// Outcome is what a client knows after it.
type Outcome string

// Outcomes of operations.
const (
	Done    Outcome = "done"
	Refused Outcome = "refused" // the guard did not hold; Seen and Rev are what was there
	Unknown Outcome = "unknown" // no answer, or an error
)

// Op is one operation of one client.
type Op struct {
	Client  string  `json:"client"`
	Kind    Kind    `json:"kind"`
	Key     string  `json:"key"`
	Value   string  `json:"value,omitempty"` // that it writes, no other writes it
	Guard   int64   `json:"guard,omitempty"`
	Outcome Outcome `json:"outcome"`
	Seen    string  `json:"seen,omitempty"` // the value that was read
	Rev     int64   `json:"rev,omitempty"`  // of the value that was read or written
	Call    int64   `json:"call"`           // by Now
	Return  int64   `json:"return"`         // by Now
}

// writes reports whether the operation may change its key.
func (o Op) writes() bool { return o.Kind != Get }

// Event is a write as the store remembers it.
type Event struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	Rev   int64  `json:"rev"`
}

// Now is the machine's monotonic clock in nanoseconds, the same for all of its
// processes.
func Now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // the clock is there on every system that we build for
	}
	return t.Nano()
}
