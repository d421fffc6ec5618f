package httpapi

import (
	"math"
	"net"
	"net/http"
	"sync"

	"golang.org/x/net/http2"
)

// HTTP2 serves connections of HTTP/2 whose beginning a Port has looked at: Go's HTTP server takes only those that it has seen from the first byte.
type HTTP2 struct {
	srv  *http2.Server
	base *http.Server

	wg sync.WaitGroup
	mu struct {
		sync.Mutex
		conns  map[net.Conn]bool
		closed bool
	}
}

// NewHTTP2 serves what base does, with so many requests of a connection at a time.
func NewHTTP2(base *http.Server, streams uint32) *HTTP2 {
	h := &HTTP2{srv: &http2.Server{MaxConcurrentStreams: min(streams, math.MaxInt32)}, base: base}
	h.mu.conns = make(map[net.Conn]bool)
	return h
}

// Serve serves the connections of a listener until that is closed.
func (h *HTTP2) Serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		if !h.add(c) {
			_ = c.Close()
			return http.ErrServerClosed
		}
		go func() {
			defer h.remove(c)
			h.srv.ServeConn(c, &http2.ServeConnOpts{BaseConfig: h.base})
		}()
	}
}

// Close ends all connections, and waits until nothing is served any more. What is accepted later is closed.
func (h *HTTP2) Close() {
	h.mu.Lock()
	h.mu.closed = true
	for c := range h.mu.conns {
		_ = c.Close()
	}
	h.mu.Unlock()
	h.wg.Wait()
}

func (h *HTTP2) add(c net.Conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.closed {
		return false
	}
	h.wg.Add(1)
	h.mu.conns[c] = true
	return true
}

func (h *HTTP2) remove(c net.Conn) {
	_ = c.Close() // the server has done so already
	h.mu.Lock()
	delete(h.mu.conns, c)
	h.mu.Unlock()
	h.wg.Done()
}
