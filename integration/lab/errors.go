package lab

import "errors"

var (
	// ErrNotFound is returned when a lab, host, service or workload of that
	// name does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists is returned when the name is taken.
	ErrExists = errors.New("exists already")
	// ErrPoweredOff is returned when the host is powered off.
	ErrPoweredOff = errors.New("powered off")
	// ErrRefused is returned when this machine's kernel refuses or lacks what
	// a lab is made of; the text says what and what to do.
	ErrRefused = errors.New("refused by this machine")
)

// codes carry sentinels across a socket.
var codes = map[string]error{
	"not_found":   ErrNotFound,
	"exists":      ErrExists,
	"powered_off": ErrPoweredOff,
	"refused":     ErrRefused,
}

func codeOf(err error) string {
	for code, sentinel := range codes {
		if errors.Is(err, sentinel) {
			return code
		}
	}
	return ""
}

// remoteError is an error that crossed a socket: its text, and its sentinel if
// it had one.
type remoteError struct {
	text     string
	sentinel error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.sentinel }
