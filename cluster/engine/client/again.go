package client

import (
	"context"
	"time"
)

// firstPatience is how long a call that can be repeated waits for the first
// server that it went to; each further one gets twice as long.
const firstPatience = time.Second

// again makes a call that does the same if it is made twice, until there is an
// answer or ctx ends. A server that is frozen takes calls, and never answers: its
// connection is found dead only after pingInterval + pingTimeout. The next call
// goes to the next server.
func again[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	for patience := firstPatience; ; patience *= 2 {
		one, cancel := context.WithTimeout(ctx, patience)
		answer, err := call(one)
		late := one.Err() != nil
		cancel()
		if err == nil || !late || ctx.Err() != nil {
			return answer, err
		}
	}
}
