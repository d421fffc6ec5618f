package peeked

import (
	"net"

	"google.golang.org/grpc/mem"
)

// Reader is what gRPC's transport looks for in a connection.
type Reader interface {
	// ReadOnReady waits until there is something to read, takes a buffer of bufSize bytes from pool, and reads into it. The buffer is the
	// caller's, who gives it back to pool; none with an error. Like Read it is for one caller at a time.
	ReadOnReady(bufSize int, pool mem.BufferPool) (buf *[]byte, n int, err error)
}

// ReaderOf returns the way to read c that holds least while it waits: c's own, that of a socket, or one with a small buffer of its own. All
// that is read of c from now on must be read through it, or Read of c between two calls, never during one.
func ReaderOf(c net.Conn) Reader {
	if r, ok := c.(Reader); ok {
		return r
	}
	if r := newSocketReader(c); r != nil {
		return r
	}
	return &smallReader{c: c}
}

// Conn gives back what was read of a connection, and is out of the way then.
type Conn struct {
	net.Conn
	head   []byte
	reader Reader // nil before it is asked for
}

var _ Reader = (*Conn)(nil)

// New returns c with head, which was read of it, before everything else. It owns both.
func New(c net.Conn, head []byte) *Conn { return &Conn{Conn: c, head: head} }

// Read is called by one reader at a time, as for any net.Conn that a server owns.
func (c *Conn) Read(p []byte) (int, error) {
	if len(c.head) > 0 {
		return c.take(p), nil
	}
	return c.Conn.Read(p)
}

// ReadOnReady implements Reader.
func (c *Conn) ReadOnReady(bufSize int, pool mem.BufferPool) (*[]byte, int, error) {
	if len(c.head) > 0 {
		buf := pool.Get(bufSize)
		return buf, c.take(*buf), nil
	}
	if c.reader == nil {
		c.reader = ReaderOf(c.Conn)
	}
	return c.reader.ReadOnReady(bufSize, pool)
}

// NetConn is what is given back from.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Gone tells whether the other side of c has hung up, as far as that is known without waiting and without reading: behind what it has said before
// nobody can see. Of what is no socket, nor has one below it (NetConn), nothing is known.
func Gone(c net.Conn) bool {
	for {
		below, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return gone(c)
		}
		c = below.NetConn()
	}
}

func (c *Conn) take(p []byte) int {
	n := copy(p, c.head)
	if c.head = c.head[n:]; len(c.head) == 0 {
		c.head = nil // it may be part of something larger
	}
	return n
}

// readSome reads something, or says why there is nothing: an error that came with bytes comes again with the next read.
func readSome(c net.Conn, p []byte) (n int, err error) {
	for n == 0 && err == nil {
		n, err = c.Read(p)
	}
	return n, err
}

// smallBytes is what a connection holds that cannot be asked whether it is readable: the frames of most requests are shorter.
const smallBytes = 512

// smallReader waits with a small buffer. Where it was filled more is likely to be there, so that the next read is made with one from the pool.
type smallReader struct {
	c     net.Conn
	more  bool
	small [smallBytes]byte
}

func (r *smallReader) ReadOnReady(bufSize int, pool mem.BufferPool) (*[]byte, int, error) {
	if r.more || bufSize <= smallBytes {
		buf := pool.Get(bufSize)
		n, err := readSome(r.c, *buf)
		r.more = n == bufSize
		if n == 0 {
			pool.Put(buf)
			return nil, 0, err
		}
		return buf, n, nil
	}
	n, err := readSome(r.c, r.small[:])
	r.more = n == smallBytes
	if n == 0 {
		return nil, 0, err
	}
	buf := pool.Get(bufSize)
	return buf, copy(*buf, r.small[:n]), nil
}
