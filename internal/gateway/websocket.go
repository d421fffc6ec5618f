package gateway

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// closeWait bounds the goodbye to a websocket.
const closeWait = time.Second

// sockets lets a call be made over a websocket: each message that comes in is an object of the request, each object of the answer goes out as a
// message. A browser, which can set no header there, gives its token as a protocol ("Bearer, TOKEN") or as the cookie "token".
type sockets struct {
	next     http.Handler
	plain    http.Handler // next, for who asks without a websocket
	max      int          // bytes of a message
	upgrader websocket.Upgrader

	ctx    context.Context // of all calls
	cancel context.CancelFunc
	mu     sync.Mutex // over the end of ctx, so that nobody begins behind it
	wg     sync.WaitGroup
}

func newSockets(next http.Handler, bytesMax int) *sockets {
	s := &sockets{next: next, plain: breakable(next), max: bytesMax, upgrader: websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// close ends the calls that are under way: no server of HTTP knows of them any more.
func (s *sockets) close() {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.wg.Wait()
}

// begin notes that a call begins; false: none may any more.
func (s *sockets) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.wg.Add(1)
	return true
}

// ServeHTTP implements http.Handler.
func (s *sockets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !websocket.IsWebSocketUpgrade(r) {
		s.plain.ServeHTTP(w, r)
		return
	}
	if !s.begin() {
		http.Error(w, "the node stops", http.StatusServiceUnavailable)
		return
	}
	defer s.wg.Done()
	var header http.Header
	if strings.HasPrefix(r.Header.Get("Sec-Websocket-Protocol"), "Bearer") {
		header = http.Header{"Sec-Websocket-Protocol": {"Bearer"}}
	}
	conn, err := s.upgrader.Upgrade(w, r, header)
	if err != nil {
		return // it has answered
	}
	conn.SetReadLimit(int64(s.max))
	s.serve(conn, r)
}

// serve makes one call, which ends with the websocket, and the other way round.
func (s *sockets) serve(conn *websocket.Conn, r *http.Request) {
	ctx, cancel := context.WithCancel(s.ctx)
	body, in := io.Pipe()
	call := (&http.Request{
		Method: http.MethodPost, URL: r.URL, Host: r.Host, RemoteAddr: r.RemoteAddr, Header: headerOf(r), Body: body, ContentLength: -1,
		Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor,
	}).WithContext(ctx)
	stop := context.AfterFunc(ctx, func() {
		_ = in.CloseWithError(io.EOF)
		_ = conn.Close()
	})
	received := make(chan struct{})
	go func() {
		defer close(received)
		defer cancel()
		receive(conn, in)
	}()
	out := &answers{conn: conn, header: http.Header{}}
	s.next.ServeHTTP(out, call)
	out.end()
	_ = body.Close()
	cancel()
	<-received
	stop()
	_ = conn.Close()
}

// receive writes what comes in as lines, until no more comes, or nobody wants it.
func receive(conn *websocket.Conn, in io.Writer) {
	for {
		_, message, err := conn.ReadMessage()
		if err != nil {
			return
		}
		if _, err := in.Write(append(message, '\n')); err != nil {
			return
		}
	}
}

// headerOf is what a call keeps of the header that asked for a websocket.
func headerOf(r *http.Request) http.Header {
	h := http.Header{}
	for _, name := range []string{"Origin", "Referer"} {
		if v := r.Header.Values(name); len(v) > 0 {
			h[name] = v
		}
	}
	if _, token, ok := strings.Cut(r.Header.Get("Sec-Websocket-Protocol"), "Bearer,"); ok {
		h.Set("Authorization", "Bearer "+strings.TrimSpace(token))
	}
	if c, err := r.Cookie("token"); err == nil {
		h.Set("Authorization", "Bearer "+c.Value)
	}
	return h
}

// answers sends each line that is written to it as a message. There is no status: an error is an object, too.
type answers struct {
	conn   *websocket.Conn
	header http.Header
	line   []byte // that has not ended yet
	err    error
}

// Header implements http.ResponseWriter.
func (a *answers) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answers) WriteHeader(int) {}

// Flush implements http.Flusher: nothing is held back but a line that has not ended.
func (a *answers) Flush() {}

// Write implements io.Writer.
func (a *answers) Write(p []byte) (int, error) {
	n := len(p)
	for {
		line, rest, ended := bytes.Cut(p, []byte("\n"))
		a.line = append(a.line, line...)
		if !ended {
			return n, a.err
		}
		if a.send(); a.err != nil {
			return 0, a.err
		}
		p = rest
	}
}

// send sends the line, if there is something in it.
func (a *answers) send() {
	if len(a.line) > 0 && a.err == nil {
		a.err = a.conn.WriteMessage(websocket.TextMessage, a.line)
	}
	a.line = nil
}

// end sends what is left, and says goodbye.
func (a *answers) end() {
	a.send()
	if a.err == nil {
		_ = a.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(closeWait))
	}
}
