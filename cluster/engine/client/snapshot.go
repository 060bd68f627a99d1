package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Snapshot writes the whole store of the server that c reaches to w, as etcd's
// tools read it, while the server goes on. Which server, the client chooses: give
// it one endpoint.
func Snapshot(ctx context.Context, c *clientv3.Client, w io.Writer) error {
	from, err := c.Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("read snapshot: %w", translate(ctx, err))
	}
	to := &writer{w: w}
	_, err = io.Copy(to, from)
	if err != nil && to.err == nil {
		err = translate(ctx, err)
	}
	if err = errors.Join(err, from.Close()); err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	return nil
}

// writer tells errors of writing from those of reading.
type writer struct {
	w   io.Writer
	err error
}

func (w *writer) Write(b []byte) (n int, err error) {
	n, w.err = w.w.Write(b)
	return n, w.err
}
