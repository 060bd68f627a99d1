package watcher

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/watcher/local"
)

// call is a question of a client that waits.
type call struct {
	q      Question
	answer chan Answer // room for the one that comes
}

// desk takes the questions of clients to the loop, and the answers back.
type desk struct {
	calls chan call
	gone  chan int64 // by ID, of clients that do not wait any more
	last  atomic.Int64

	waiting map[int64]chan Answer // for the loop
}

func newDesk() *desk {
	return &desk{calls: make(chan call), gone: make(chan int64), waiting: map[int64]chan Answer{}}
}

// take adds what waits at the desk to a step's input.
func (d *desk) take(in *Input) {
	for {
		select {
		case c := <-d.calls:
			d.admit(in, c)
		case id := <-d.gone:
			d.dismiss(in, id)
		default:
			return
		}
	}
}

func (d *desk) admit(in *Input, c call) {
	d.waiting[c.q.ID] = c.answer
	in.Questions = append(in.Questions, c.q)
}

func (d *desk) dismiss(in *Input, id int64) {
	delete(d.waiting, id)
	in.Gone = append(in.Gone, id)
}

// give hands answers to the clients that wait for them.
func (d *desk) give(answers []Answer) {
	for _, a := range answers {
		if c := d.waiting[a.ID]; c != nil {
			c <- a
			delete(d.waiting, a.ID)
		}
	}
}

// maxQuestion is how large a request's body may be, bytes.
const maxQuestion = 16 << 10

// question handles requests whose body is a T.
func question[T any](r *runner, put func(*Question, *T)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		body := new(T)
		if err := readQuestion(http.MaxBytesReader(w, req.Body, maxQuestion), body); err != nil {
			r.tell(w, Answer{Refusal: refuse(local.CodeInvalid, "", "read request: %v", err)})
			return
		}
		c := call{Question{ID: r.agent.desk.last.Add(1)}, make(chan Answer, 1)}
		put(&c.q, body)
		ctx := req.Context()
		select {
		case r.agent.desk.calls <- c:
		case <-ctx.Done():
			return
		}
		select {
		case a := <-c.answer:
			r.tell(w, a)
		case <-ctx.Done():
			select {
			case r.agent.desk.gone <- c.q.ID:
			case <-r.ended:
			}
		}
	}
}

// readQuestion reads one JSON object, and nothing else.
func readQuestion(from io.Reader, to any) error {
	d := json.NewDecoder(from)
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return fmt.Errorf("want a JSON object: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("want one JSON object, and there is more")
	}
	return nil
}

// statusOf is the HTTP status of a refusal, for clients that are not ours.
func statusOf(c local.Code) int {
	switch c {
	case local.CodeInvalid:
		return http.StatusBadRequest
	case local.CodeNotFound:
		return http.StatusNotFound
	case local.CodeUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusConflict
}

// tell writes an answer.
func (r *runner) tell(w http.ResponseWriter, a Answer) {
	var body any = struct{}{}
	w.Header().Set("Content-Type", "application/json")
	switch {
	case a.Refusal != nil:
		w.WriteHeader(statusOf(a.Refusal.Code))
		body = a.Refusal
	case a.Attached != nil:
		body = a.Attached
	}
	if err := json.NewEncoder(w).Encode(body); err != nil {
		r.log.Debug("client went away", zap.Error(err))
	}
}
