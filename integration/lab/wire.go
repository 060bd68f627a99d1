package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// maxMessage is the largest message in bytes. The kernel's default socket
// buffer (net.core.wmem_max, doubled) is what bounds it.
const maxMessage = 400 << 10

// message is what crosses the lab's sockets, one packet each: a request
// (Op, Host, Body), an answer (Body or Error), or a word within a call (Op).
type message struct {
	Op    string          `json:"op,omitempty"`
	Host  string          `json:"host,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`
	Error string          `json:"error,omitempty"`
	Code  string          `json:"code,omitempty"`
}

// request builds a message; body is any value that JSON can hold, or nil.
func request(op, host string, body any) (message, error) {
	m := message{Op: op, Host: host}
	if body == nil {
		return m, nil
	}
	b, err := json.Marshal(body)
	if err != nil {
		return m, fmt.Errorf("encode %s: %w", op, err)
	}
	m.Body = b
	return m, nil
}

// answer builds the message that ends a call.
func answer(body any, err error) message {
	if err != nil {
		return message{Error: err.Error(), Code: codeOf(err)}
	}
	m, err := request("", "", body)
	if err != nil {
		return message{Error: err.Error()}
	}
	return m
}

// err returns the error that the message carries.
func (m message) err() error {
	if m.Error == "" {
		return nil
	}
	return &remoteError{m.Error, codes[m.Code]}
}

// decode reads the body into v, which may be nil.
func (m message) decode(v any) error {
	if v == nil || len(m.Body) == 0 {
		return nil
	}
	if err := json.Unmarshal(m.Body, v); err != nil {
		return fmt.Errorf("decode %s: %w", m.Op, err)
	}
	return nil
}

// conn is a seqpacket connection: one packet, one message. One goroutine may
// send while another receives.
type conn struct {
	*net.UnixConn
	buf []byte
}

func newConn(c *net.UnixConn) *conn {
	_ = c.SetWriteBuffer(maxMessage) // less room only bounds the message size
	return &conn{UnixConn: c}
}

// connFrom wraps a descriptor and takes it over.
func connFrom(f *os.File) (*conn, error) {
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("use socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("use socket: %T is no unix socket", c)
	}
	return newConn(u), nil
}

// send sends a message and copies of the files.
func (c *conn) send(m message, files ...*os.File) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode %s: %w", m.Op, err)
	}
	if len(b) > maxMessage {
		return fmt.Errorf("send %s: %d bytes are more than a message holds, %d", m.Op, len(b), maxMessage)
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = syscall.UnixRights(fds...)
	}
	if _, _, err := c.WriteMsgUnix(b, oob, nil); err != nil {
		return fmt.Errorf("send %s: %w", m.Op, err)
	}
	return nil
}

// receive returns the next message and the files that came with it, which are
// the caller's to close. The end of the connection is io.EOF.
func (c *conn) receive() (message, []*os.File, error) {
	if c.buf == nil {
		c.buf = make([]byte, maxMessage)
	}
	var m message
	oob := make([]byte, 256)
	n, oobn, flags, err := readPacket(c, c.buf, oob)
	if err != nil {
		return m, nil, err
	}
	files, err := rights(oob[:oobn])
	if err != nil {
		return m, nil, err
	}
	if flags&(syscall.MSG_TRUNC|syscall.MSG_CTRUNC) != 0 {
		err = fmt.Errorf("receive message: cut off after %d bytes", n)
	} else if err = json.Unmarshal(c.buf[:n], &m); err != nil {
		err = fmt.Errorf("decode message: %w", err)
	}
	if err != nil {
		closeAll(files)
		return m, nil, err
	}
	return m, files, nil
}

// packetReader is the half of a net.UnixConn that readPacket needs.
type packetReader interface {
	ReadMsgUnix(b, oob []byte) (n, oobn, flags int, addr *net.UnixAddr, err error)
}

// readPacket reads one packet; io.EOF is the end. The kernel looks into the queue
// first and for the other side's end then (net/unix/af_unix.c, unix_dgram_recvmsg):
// if that side sent its last packet and closed in between, it says end though there
// is a packet. Nothing comes after an end, so reading again tells.
func readPacket(r packetReader, b, oob []byte) (n, oobn, flags int, err error) {
	n, oobn, flags, _, err = r.ReadMsgUnix(b, oob)
	if errors.Is(err, io.EOF) {
		n, oobn, flags, _, err = r.ReadMsgUnix(b, oob)
	}
	return n, oobn, flags, err
}

// rights turns ancillary data into files.
func rights(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	list, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parse passed descriptors: %w", err)
	}
	var files []*os.File
	for i := range list {
		fds, err := syscall.ParseUnixRights(&list[i])
		if err != nil {
			continue // credentials and the like
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
