package lab

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// call is a request that is being served: the connection is the caller's own,
// whichever process serves it.
type call struct {
	message
	conn  *conn
	files []*os.File
}

// handler serves one operation. What it returns is the answer.
type handler func(*call) (any, error)

// serve answers and closes the call.
func (c *call) serve(h handler) {
	defer c.conn.Close()
	body, err := h(c)
	closeAll(c.files)
	if err := c.conn.send(answer(body, err)); err != nil && !errors.Is(err, syscall.EPIPE) { // EPIPE: the caller is gone
		fmt.Fprintf(os.Stderr, "answer %s: %v\n", c.Op, err)
	}
}

// handle makes a handler of a function of the decoded body.
func handle[T any](f func(T) (any, error)) handler {
	return func(c *call) (any, error) {
		var body T
		if err := c.decode(&body); err != nil {
			return nil, err
		}
		return f(body)
	}
}

// stream makes a handler of a function that says when it is under way and goes
// on until the caller stops it, by a word or by going.
func stream[T any](f func(body T, started func() error, stop <-chan struct{}) (any, error)) handler {
	return func(c *call) (any, error) {
		var body T
		if err := c.decode(&body); err != nil {
			return nil, err
		}
		stop := make(chan struct{})
		started := func() error {
			if err := c.conn.send(message{}); err != nil {
				return err
			}
			go func() { // ends when serve closes the connection, at the latest
				_, files, _ := c.conn.receive() // a word or the end: both mean stop
				closeAll(files)
				close(stop)
			}()
			return nil
		}
		return f(body, started, stop)
	}
}
