package httpapi

import (
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// Pauses between attempts to accept after one that failed, and how often the log says so.
const (
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = time.Second
	acceptLogEvery = time.Minute
)

// Listener is an open socket and the URL that it was opened for.
type Listener struct {
	net.Listener
	URL string
	// TLS is spoken there, and what is not TLS is served, too, if Plain. Without TLS all is plain.
	TLS, Plain bool
}

// With is the same socket with another listener over it.
func (l Listener) With(over net.Listener) Listener {
	l.Listener = over
	return l
}

// Queued returns what tells how many connections wait until somebody accepts them on some sockets, which nothing is put over yet. 0 where the system does
// not say.
func Queued(ls []Listener) func() int {
	ls = slices.Clone(ls)
	return func() (n int) {
		for _, l := range ls {
			n += queued(l.Listener)
		}
		return n
	}
}

// Patients makes each of some listeners patient.
func Patients(ls []Listener, log *slog.Logger) []Listener {
	out := make([]Listener, len(ls))
	for i, l := range ls {
		out[i] = l.With(Patient(l.Listener, log))
	}
	return out
}

// Secured puts over each of some listeners that speak TLS what does.
func Secured(ls []Listener, over func(l net.Listener, mixed bool) net.Listener) []Listener {
	out := slices.Clone(ls)
	for i, l := range ls {
		if l.TLS {
			out[i] = l.With(over(l.Listener, l.Plain))
		}
	}
	return out
}

// PeerPorts makes of bare listeners those of a port for other members or gateways: patient, with room for as many connections as there may be, and with TLS
// by secure where they speak it. unacked is as in Room.Listeners.
func PeerPorts(ls []Listener, unacked time.Duration, secure func(l net.Listener, mixed bool) net.Listener, log *slog.Logger) []Listener {
	_, connections := Connections()
	return Secured(NewRoom(connections, log).Listeners(Patients(ls, log), unacked), secure)
}

// CloseAll closes listeners; closing one twice does no harm.
func CloseAll(ls []Listener) error {
	var errs []error
	for _, l := range ls {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Patient returns l with an Accept that fails only once the listener is closed. Everything else passes: a
// process at its limit of open files accepts again when some are closed, and an error that a single
// connection brought is that connection's. Whoever takes any other error for the end of a listener lets
// clients end the process. It owns l from now on.
func Patient(l net.Listener, log *slog.Logger) net.Listener {
	return &patientListener{Listener: l, log: log, done: make(chan struct{})}
}

type patientListener struct {
	net.Listener
	log  *slog.Logger
	once sync.Once
	done chan struct{}

	mu struct {
		sync.Mutex
		failed int // attempts since one that succeeded
		logged time.Time
	}
}

// Accept waits for a connection, or until the listener is closed: then its error is net.ErrClosed.
func (l *patientListener) Accept() (net.Conn, error) {
	for pause := acceptPauseMin; ; pause = min(2*pause, acceptPauseMax) {
		c, err := l.Listener.Accept()
		if err == nil {
			l.accepted()
			return c, nil
		}
		if l.closed() || errors.Is(err, net.ErrClosed) {
			return nil, net.ErrClosed
		}
		l.refused(err)
		l.wait(pause)
	}
}

// Close ends a waiting Accept.
func (l *patientListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

func (l *patientListener) closed() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

func (l *patientListener) wait(pause time.Duration) {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.done:
	}
}

// refused says in the log, now and then, that nobody can connect.
func (l *patientListener) refused(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.failed++
	if now := time.Now(); now.Sub(l.mu.logged) >= acceptLogEvery {
		l.mu.logged = now
		l.log.Warn("connections cannot be accepted", "address", l.Addr().String(), "error", err, "attempts", l.mu.failed)
	}
}

func (l *patientListener) accepted() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.failed > 0 {
		l.log.Info("connections are accepted again", "address", l.Addr().String(), "attempts", l.mu.failed)
	}
	l.mu.failed = 0
}
