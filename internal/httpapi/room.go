package httpapi

import (
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/mem"

	"pontoon/internal/peeked"
)

// What a process keeps of its open files for itself, and for those who are no clients: a quarter, between these.
const (
	ownFilesMin = 150
	ownFilesMax = 16 << 10
)

// How much of a connection may wait in the kernel for its turn to be sent. Of a client that takes nothing the system would keep up to 4 MiB,
// for each: what waits beyond this waits where it is counted, and shared with others who are to get the same.
const (
	// unsentFew is enough for one that takes what it gets as it comes.
	unsentFew = 16 << 10
	// unsentMax is for one that takes what waits for it. It is more than is sent in the time that it takes to be told that there is room: with a quarter of it
	// events of 10 KiB took a fourth more of the processors.
	unsentMax = 128 << 10
	// takesAfter is more than the system of one that takes nothing has room for, where it never took much.
	takesAfter = 256 << 10
	// calmAfter is how long nothing has had to wait when little is enough again.
	calmAfter = 100 * time.Millisecond
)

// Connections is how many connections the clients of this process may have, and how many others: those who look at its
// metrics, and its peers, each. Accepting could go on up to the limit of open files, and would find some again as
// soon as others are closed. A log that needs a new file at that moment could not, and the node would end.
func Connections() (clients, others int) {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		lim.Cur = 1 << 20
	}
	files := int(min(lim.Cur, 1<<30))
	own := min(max(files/4, ownFilesMin), ownFilesMax)
	return max(files-own, 1), own / 4
}

// Room is how many connections there may be at a time, over all listeners that share it. Beyond it nothing is accepted: who
// connects waits in the system's queue.
type Room struct {
	slots chan struct{}
	log   *slog.Logger

	mu     sync.Mutex
	logged time.Time
}

// NewRoom makes room for so many connections.
func NewRoom(connections int, log *slog.Logger) *Room {
	return &Room{slots: make(chan struct{}, connections), log: log}
}

// Listeners lets each of some listeners accept while there is room. It owns them from now on. A connection of which data
// stays unacknowledged for longer than unacked fails; with 0 that is the system's to decide.
func (r *Room) Listeners(ls []Listener, unacked time.Duration) []Listener {
	out := make([]Listener, len(ls))
	for i, l := range ls {
		out[i] = l.With(&roomListener{Listener: l.Listener, room: r, unacked: unacked, done: make(chan struct{})})
	}
	return out
}

// full says in the log, now and then, that nobody can connect to a port.
func (r *Room) full(port net.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.logged) >= acceptLogEvery {
		r.logged = now
		r.log.Warn("there are as many connections as there may be: further ones wait", "address", port.String(), "connections", cap(r.slots))
	}
}

type roomListener struct {
	net.Listener
	room    *Room
	unacked time.Duration
	once    sync.Once
	done    chan struct{}
}

// Accept waits for room, and then for a connection; or until the listener is closed: then its error is net.ErrClosed.
func (l *roomListener) Accept() (net.Conn, error) {
	select {
	case l.room.slots <- struct{}{}:
	default:
		l.room.full(l.Addr())
		select {
		case l.room.slots <- struct{}{}:
		case <-l.done:
			return nil, net.ErrClosed
		}
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.room.slots
		return nil, err
	}
	_ = limitSocket(c, l.unacked) // a connection that is over already says so when it is read
	writer := newUnsentWriter(c, time.Now)
	if writer == nil {
		writer = c
	}
	return &roomConn{Conn: c, reader: peeked.ReaderOf(c), writer: writer, room: l.room}, nil
}

// Close ends a waiting Accept.
func (l *roomListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// roomConn gives its place back when it is closed.
type roomConn struct {
	net.Conn
	reader peeked.Reader
	writer io.Writer // to Conn
	room   *Room
	once   sync.Once
}

var _ peeked.Reader = (*roomConn)(nil)

// ReadOnReady implements peeked.Reader.
func (c *roomConn) ReadOnReady(bufSize int, pool mem.BufferPool) (*[]byte, int, error) {
	return c.reader.ReadOnReady(bufSize, pool)
}

// Write implements net.Conn.
func (c *roomConn) Write(p []byte) (int, error) { return c.writer.Write(p) }

// NetConn is the connection as it was accepted.
func (c *roomConn) NetConn() net.Conn { return c.Conn }

// Close may be called again.
func (c *roomConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.room.slots })
	return err
}
