package httpapi

import (
	"container/list"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"pontoon/internal/peeked"
)

const (
	// sniffTimeout is how long a new connection may stay silent.
	sniffTimeout = 10 * time.Second
	// preface is how every HTTP/2 connection without TLS begins, and no HTTP/1 request.
	preface = "PRI"
	// silentMax is how many connections may be silent so far.
	silentMax = 4096
)

// Port splits the connections of a listener: those that begin as HTTP/2 go to GRPC, all others to HTTP. Of those with TLS that have agreed on HTTP/2, the ones
// that ask for something of gRPC go to GRPC, and the others to HTTP2. Then it is out of the way: reads and writes go to the socket.
type Port struct {
	l                 net.Listener
	grpc, http, http2 *subListener
	wg                sync.WaitGroup
	silentMax         int
	lookFor           time.Duration

	mu struct {
		sync.Mutex
		silent *list.List // net.Conn, the oldest first
		closed bool
	}
}

// NewPort prepares the split of l, which it owns from now on. Nothing is accepted before Run.
func NewPort(l net.Listener) *Port {
	p := &Port{l: l, silentMax: silentMax, lookFor: lookFor}
	p.mu.silent = list.New()
	p.grpc = &subListener{port: p, conns: make(chan net.Conn), done: make(chan struct{})}
	p.http = &subListener{port: p, conns: make(chan net.Conn), done: make(chan struct{})}
	p.http2 = &subListener{port: p, conns: make(chan net.Conn), done: make(chan struct{})}
	return p
}

// GRPC hands out the HTTP/2 connections. Closing it refuses further ones.
func (p *Port) GRPC() net.Listener { return p.grpc }

// HTTP hands out the others.
func (p *Port) HTTP() net.Listener { return p.http }

// HTTP2 hands out connections of HTTP/2 with TLS that are not gRPC's. They are for ServeHTTP2.
func (p *Port) HTTP2() net.Listener { return p.http2 }

// Run accepts until the port is closed, which is no error, or its listener fails, which one made with Patient
// never does.
func (p *Port) Run() error {
	defer p.wg.Wait()
	for {
		c, err := p.l.Accept()
		if err != nil {
			if p.isClosed() || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		silent := p.track(c)
		if silent == nil {
			_ = c.Close()
			return nil
		}
		p.wg.Add(1)
		go p.sniff(c, silent)
	}
}

// Close stops accepting; connections that were handed out live on.
func (p *Port) Close() error {
	p.mu.Lock()
	already := p.mu.closed
	p.mu.closed = true
	for e := p.mu.silent.Front(); e != nil; e = e.Next() {
		_ = e.Value.(net.Conn).Close() // nobody owns it yet
	}
	p.mu.Unlock()
	if already {
		return nil
	}
	p.grpc.finish()
	p.http.finish()
	p.http2.finish()
	return p.l.Close()
}

func (p *Port) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.closed
}

// track notes a connection that is silent so far; nil: the port is closed. Who has something to say says it at once,
// so that the one that has been silent for longest makes room.
func (p *Port) track(c net.Conn) *list.Element {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.closed {
		return nil
	}
	if p.mu.silent.Len() >= p.silentMax {
		oldest := p.mu.silent.Front()
		_ = p.mu.silent.Remove(oldest).(net.Conn).Close()
	}
	return p.mu.silent.PushBack(c)
}

func (p *Port) untrack(e *list.Element) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.silent.Remove(e) // nothing where it had to make room
}

func (p *Port) sniff(c net.Conn, silent *list.Element) {
	defer p.wg.Done()
	if s, ok := c.(secured); ok {
		c, to := p.agreed(c, s)
		p.untrack(silent)
		if c != nil {
			p.handOver(c, to)
		}
		return
	}
	head := make([]byte, len(preface))
	_ = c.SetReadDeadline(time.Now().Add(sniffTimeout))
	n, err := io.ReadFull(c, head)
	_ = c.SetReadDeadline(time.Time{})
	p.untrack(silent)
	if n == 0 || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		_ = c.Close()
		return
	}
	to := p.http
	if string(head[:n]) == preface {
		to = p.grpc
	}
	p.handOver(peeked.New(c, head[:n]), to)
}

// secured is a connection with TLS whose handshake is over.
type secured interface{ ConnectionState() tls.ConnectionState }

// agreed is the side that speaks the protocol on which a handshake has agreed. HTTP/2 is spoken by gRPC and by others: what is asked first tells. No
// connection: it has come to nothing.
func (p *Port) agreed(c net.Conn, s secured) (net.Conn, *subListener) {
	if s.ConnectionState().NegotiatedProtocol != "h2" {
		return c, p.http
	}
	_ = c.SetDeadline(time.Now().Add(p.lookFor))
	see, err := lookAtHTTP2(c)
	if err != nil {
		_ = c.Close()
		return nil, nil
	}
	_ = c.SetDeadline(time.Time{})
	if see.grpc {
		return newLookedConn(c, s, see), p.grpc
	}
	return newLookedConn(c, s, see), p.http2
}

func (*Port) handOver(c net.Conn, to *subListener) {
	select {
	case to.conns <- c:
	case <-to.done:
		_ = c.Close()
	}
}

// subListener is one side of a Port.
type subListener struct {
	port  *Port
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

// Accept waits for a connection of this side.
func (s *subListener) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close refuses further connections of this side; the other side goes on.
func (s *subListener) Close() error {
	s.finish()
	return nil
}

// Addr is the port's address.
func (s *subListener) Addr() net.Addr { return s.port.l.Addr() }

func (s *subListener) finish() { s.once.Do(func() { close(s.done) }) }
