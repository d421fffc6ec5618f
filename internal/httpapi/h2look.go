package httpapi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"pontoon/internal/peeked"
)

const (
	// lookBytesMax is how much of a connection is looked at until its first request is complete.
	lookBytesMax = 128 << 10
	// frameBytesMax is the largest frame that a client may send before it was told otherwise.
	frameBytesMax = 16 << 10
	// hpackTableBytes is the size of the table of headers before anybody has said otherwise.
	hpackTableBytes = 4096
	frameHeadBytes  = 9
)

// errNoPreface ends a connection that has agreed on HTTP/2 and speaks something else.
var errNoPreface = errors.New("httpapi: the connection does not begin as HTTP/2 does")

// seen is what was learned from the beginning of an HTTP/2 connection.
type seen struct {
	grpc  bool
	head  []byte // all that was read, to be given back
	acked bool   // the acknowledgement of our settings came, and is not in head
}

// lookAtHTTP2 reads up to the first request, and tells whether that is one of gRPC. Clients of gRPC wait for the server's settings before they ask anything, so
// some are sent, with nothing that either server would take back later. One that has said nothing when the time is over is a client of gRPC that keeps
// a connection in reserve: whoever uses HTTP/2 otherwise connects because of a request. The deadline is the caller's.
func lookAtHTTP2(c net.Conn) (seen, error) {
	// The server behind will say that it does not know the old priorities, and that must not change on a connection (RFC 9218).
	if err := http2.NewFramer(c, nil).WriteSettings(http2.Setting{ID: http2.SettingNoRFC7540Priorities, Val: 1}); err != nil {
		return seen{}, err
	}
	var read bytes.Buffer
	from := io.TeeReader(io.LimitReader(c, lookBytesMax), &read)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(from, preface); err != nil {
		return seen{}, err
	}
	if string(preface) != http2.ClientPreface {
		return seen{}, errNoPreface
	}
	frames := http2.NewFramer(nil, from)
	frames.SetMaxReadFrameSize(frameBytesMax)
	frames.ReadMetaHeaders = hpack.NewDecoder(hpackTableBytes, nil)
	frames.MaxHeaderListSize = lookBytesMax
	out := seen{}
	for {
		before := read.Len()
		f, err := frames.ReadFrame()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			out.grpc, out.head = true, read.Bytes()
			return out, nil
		case errors.As(err, new(http2.StreamError)) || errors.As(err, new(http2.ConnectionError)):
			out.head = read.Bytes() // the server behind says in its own words what is wrong
			return out, nil
		case err != nil:
			return seen{}, err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if f.IsAck() && !out.acked {
				out.acked = true
				read.Truncate(before)
			}
		case *http2.MetaHeadersFrame:
			out.grpc, out.head = isGRPC(f), read.Bytes()
			return out, nil
		}
	}
}

func isGRPC(f *http2.MetaHeadersFrame) bool {
	for _, h := range f.RegularFields() {
		if h.Name == "content-type" {
			return strings.HasPrefix(h.Value, "application/grpc")
		}
	}
	return false
}

// lookedConn gives back what was looked at. It knows about its TLS, as servers expect it.
type lookedConn struct {
	*peeked.Conn
	secured
}

func newLookedConn(c net.Conn, s secured, see seen) lookedConn {
	if !see.acked && !see.grpc { // gRPC's server does not mind
		c = &ackConn{c, &ackFilter{from: c}}
	}
	return lookedConn{peeked.New(c, see.head), s}
}

// ackConn leaves out what its filter does.
type ackConn struct {
	net.Conn
	acks *ackFilter // nil: nothing is to be left out any more
}

// Read is called by one reader at a time, as for any net.Conn that a server owns.
func (c *ackConn) Read(p []byte) (int, error) {
	if c.acks != nil {
		n, err := c.acks.Read(p)
		if c.acks.done && len(c.acks.left) == 0 {
			c.acks = nil
		}
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
	}
	return c.Conn.Read(p)
}

// ackFilter leaves the first acknowledgement of settings out of a sequence of frames: the server that reads them has not sent those, and ends a connection
// that acknowledges what was never said.
type ackFilter struct {
	from io.Reader
	left []byte // of a frame's head that is to be passed on
	body int    // bytes of that frame which follow
	head [frameHeadBytes]byte
	got  int // bytes of head
	done bool
}

// Read returns nothing and no error once it is done.
func (a *ackFilter) Read(p []byte) (int, error) {
	for {
		switch {
		case len(a.left) > 0:
			n := copy(p, a.left)
			a.left = a.left[n:]
			return n, nil
		case a.body > 0:
			n, err := a.from.Read(p[:min(len(p), a.body)])
			a.body -= n
			return n, err
		case a.done || len(p) == 0:
			return 0, nil
		}
		n, err := a.from.Read(a.head[a.got:])
		a.got += n
		if a.got < frameHeadBytes {
			if err != nil {
				return 0, err
			}
			continue
		}
		a.got = 0
		size := int(binary.BigEndian.Uint32(a.head[:4]) >> 8)
		if http2.FrameType(a.head[3]) == http2.FrameSettings && http2.Flags(a.head[4]).Has(http2.FlagSettingsAck) && size == 0 {
			a.done = true
			continue
		}
		a.left, a.body = a.head[:], size
	}
}

// lookFor is how long the beginning of an HTTP/2 connection is looked at.
const lookFor = 10 * time.Second
