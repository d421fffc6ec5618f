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

// rawSocket returns nil where c is no bare socket. It names the types: what embeds a socket need not carry the socket's own bytes.
func rawSocket(c net.Conn) (raw syscall.RawConn) {
	var err error
	switch c := c.(type) {
	case *net.TCPConn:
		raw, err = c.SyscallConn()
	case *net.UnixConn:
		raw, err = c.SyscallConn()
	}
	if err != nil {
		return nil
	}
	return raw
}

// gone looks at the next byte and leaves it where it is.
func gone(c net.Conn) bool {
	raw := rawSocket(c)
	if raw == nil {
		return false
	}
	over := false
	err := raw.Read(func(fd uintptr) bool {
		var one [1]byte
		n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		over = n == 0 && err == nil || err != nil && err != syscall.EAGAIN && err != syscall.EINTR
		return true // whatever there is
	})
	return over || err != nil
}

// newSocketReader returns nil where c is no bare socket.
func newSocketReader(c net.Conn) Reader {
	raw := rawSocket(c)
	if raw == nil {
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
