package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"

	"github.com/meshvpc/meshvpc/cluster"
)

// ErrNoAgent is returned when no agent listens on the host's socket.
var ErrNoAgent = errors.New("no agent runs on this host")

// Client asks the agent behind a socket. It is safe for concurrent use.
type Client struct {
	socket string
	http   http.Client
}

// New returns a client; it connects when it is asked to.
func New(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &Client{socket, http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}}
}

// Attach attaches a workload. Errors are a *Refusal, or wrap ErrNoAgent.
func (c *Client) Attach(ctx context.Context, r AttachRequest) (a Attached, err error) {
	return a, c.do(ctx, http.MethodPost, PathAttach, r, &a)
}

// Detach takes a workload's port away. Errors are as those of Attach.
func (c *Client) Detach(ctx context.Context, r DetachRequest) error {
	return c.do(ctx, http.MethodPost, PathDetach, r, nil)
}

// Ports lists the workloads that are to be attached. Errors are as those of Attach.
func (c *Client) Ports(ctx context.Context) ([]Attached, error) {
	var p Ports
	err := c.Get(ctx, PathPorts, &p)
	return p.Ports, err
}

// Get reads what the agent has at a path. Errors are as those of Attach.
func (c *Client) Get(ctx context.Context, path string, answer any) error {
	return c.do(ctx, http.MethodGet, path, nil, answer)
}

// maxRefusal is how much of an answer that is none is read, bytes.
const maxRefusal = 4096

// do puts one question; answer nil: it is not wanted.
func (c *Client) do(ctx context.Context, method, path string, question, answer any) error {
	var body io.Reader
	if question != nil {
		b, err := json.Marshal(question)
		if err != nil {
			return fmt.Errorf("ask agent: %w", err)
		}
		body = bytes.NewReader(b)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return fmt.Errorf("ask agent: %w", err)
	}
	response, err := c.http.Do(request)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("ask agent at %s: %w", c.socket, ErrNoAgent)
	}
	if err != nil {
		return fmt.Errorf("ask agent: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return refusalOf(response.Body)
	}
	if answer == nil {
		return nil
	}
	if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
		return fmt.Errorf("ask agent: read answer: %w", err)
	}
	return nil
}

// refusalOf reads why there is no answer: a Refusal, or text.
func refusalOf(body io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(body, maxRefusal))
	r := new(Refusal)
	if json.Unmarshal(text, r) == nil && r.Code != "" {
		r.Text, r.Hint = cluster.CleanText(r.Text), cluster.CleanText(r.Hint)
		return r
	}
	return fmt.Errorf("ask agent: %w", errors.Join(errors.New(cluster.CleanText(string(text))), err))
}
