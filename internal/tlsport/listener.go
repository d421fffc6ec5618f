package tlsport

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	"pontoon/internal/peeked"
)

const (
	// handshakeTimeout is how long a connection may take until its handshake is over.
	handshakeTimeout = 10 * time.Second
	// crowdedTimeout is how long it may take where others wait for its place.
	crowdedTimeout = time.Second
	// answeredTimeout is the same for one whose hello was answered, which is most of the work: in a storm whose clients have no processors left either, a
	// fourth of them gave way after one second, and came again.
	answeredTimeout = 5 * time.Second
	// handshakesMax is how many may be under way on one listener. More would only wait longer for clients that come to their end no faster.
	handshakesMax = 1024
	// waitingPerPlace is how many may wait for each place until nothing further is accepted: what waits longer does so in the system's queue, where it
	// costs nothing. A handshake takes half a millisecond of a processor, so that these wait for 32 ms where there is nothing else to do.
	waitingPerPlace = 64
	// recordHandshake is the first byte of every TLS connection, and of no other that is spoken here.
	recordHandshake = 0x16
)

// Listen returns a listener whose connections have ended their handshake. If mixed, those that do not begin with one are handed out as they are. It
// owns l from now on; nothing is accepted before the first Accept, which a nil Endpoint does not have.
func (e *Endpoint) Listen(l net.Listener, mixed bool) net.Listener {
	ctx, cancel := context.WithCancel(context.Background())
	return &listener{
		Listener: l, endpoint: e, mixed: mixed, ctx: ctx, cancel: cancel,
		conns: make(chan net.Conn), failed: make(chan struct{}), open: newCrowd(handshakesMax, crowdedTimeout, answeredTimeout),
	}
}

type listener struct {
	net.Listener
	endpoint *Endpoint
	mixed    bool
	conns    chan net.Conn // accepted, and through
	open     *crowd        // of those that are not through yet

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once
	failed chan struct{} // closed when err is valid
	err    error
}

// Accept waits for a connection that is through.
func (l *listener) Accept() (net.Conn, error) {
	l.start()
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.failed:
		return nil, l.err
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (l *listener) start() {
	l.once.Do(func() {
		l.wg.Add(1)
		go l.run()
	})
}

// Close refuses further connections, and ends those that are not through yet.
func (l *listener) Close() error {
	l.once.Do(func() {}) // it is too late to begin
	l.cancel()
	err := l.Listener.Close()
	l.open.close()
	l.wg.Wait()
	return err
}

func (l *listener) run() {
	defer l.wg.Done()
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			l.err = err
			close(l.failed)
			return
		}
		member := l.open.enter(l.ctx, c)
		if member == nil {
			_ = c.Close()
			continue // Accept says that it is over
		}
		l.wg.Add(1)
		go l.shake(c, member)
		l.endpoint.places.roomy(l.ctx)
	}
}

// shake brings one connection through, or ends it.
func (l *listener) shake(c net.Conn, member *member) {
	defer l.wg.Done()
	ctx, cancel := context.WithTimeout(l.ctx, handshakeTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline) // one that has failed says so when it is read
	through, err := l.look(ctx, c, member)
	l.open.leave(member)
	if err != nil {
		return
	}
	_ = c.SetDeadline(time.Time{})
	select {
	case l.conns <- through:
	case <-l.ctx.Done():
		_ = c.Close()
	}
}

// look makes the handshake, where there is one to be made.
func (l *listener) look(ctx context.Context, c net.Conn, member *member) (net.Conn, error) {
	turn := &turn{ctx: ctx, places: l.endpoint.places, crowd: l.open, member: member, socket: c}
	if !l.mixed {
		return l.endpoint.handshake(ctx, &shaking{Conn: c, turn: turn})
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(c, first); err != nil {
		_ = c.Close()
		return nil, err
	}
	again := peeked.New(c, first)
	if first[0] != recordHandshake {
		return again, nil
	}
	return l.endpoint.handshake(ctx, &shaking{Conn: again, turn: turn})
}
