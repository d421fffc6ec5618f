//go:build unix

package peeked

import (
	"io"
	"net"
	"syscall"

	"google.golang.org/grpc/mem"
)

// socketReader waits for a socket, which needs no buffer.
type socketReader struct {
	raw  syscall.RawConn
	read func(fd uintptr) bool // one closure for all reads
	ask  struct {
		size int
		pool mem.BufferPool
	}
	got struct {
		buf *[]byte
		n   int
		err error
	}
}

// newSocketReader returns nil where c is no bare socket. It names the types: what embeds a socket need not carry the socket's own bytes.
func newSocketReader(c net.Conn) Reader {
	var raw syscall.RawConn
	var err error
	switch c := c.(type) {
	case *net.TCPConn:
		raw, err = c.SyscallConn()
	case *net.UnixConn:
		raw, err = c.SyscallConn()
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	r := &socketReader{raw: raw}
	r.read = r.readNow
	return r
}

// readNow reports false where there is nothing to read yet.
func (r *socketReader) readNow(fd uintptr) bool {
	g := &r.got
	g.buf = r.ask.pool.Get(r.ask.size)
	for {
		g.n, g.err = syscall.Read(int(fd), *g.buf)
		if g.err != syscall.EINTR {
			break
		}
	}
	if g.err == nil && g.n > 0 {
		return true
	}
	r.ask.pool.Put(g.buf)
	g.buf, g.n = nil, 0
	if g.err == nil {
		g.err = io.EOF
	}
	return g.err != syscall.EAGAIN
}

func (r *socketReader) ReadOnReady(bufSize int, pool mem.BufferPool) (*[]byte, int, error) {
	r.ask.size, r.ask.pool = bufSize, pool
	err := r.raw.Read(r.read)
	got := r.got
	r.got.buf, r.got.n, r.got.err, r.ask.pool = nil, 0, nil, nil
	switch {
	case got.buf != nil:
		return got.buf, got.n, nil
	case err != nil: // closed, or over time
		return nil, 0, err
	}
	return nil, 0, got.err
}
