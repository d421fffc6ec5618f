package httpapi

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unsentWriter writes to a socket, and lets more or less wait there to be sent: unsentFew until its far side has taken takesAfter of what had to wait, and
// then unsentMax, until nothing has had to wait for calmAfter. One that takes nothing never gets there, for its system's sake either.
type unsentWriter struct {
	c     net.Conn
	raw   syscall.RawConn
	now   func() time.Time
	write func(fd uintptr) bool // one closure for all writes

	mu     sync.Mutex // held while something is written
	rest   []byte     // of what is to be written
	err    error
	waits  bool      // the write under way had to
	waited time.Time // when one was last told that there is room; zero: none since all was calm
	taken  int       // since then
	wide   bool      // unsentMax holds
}

// newUnsentWriter returns nil where c is no bare socket.
func newUnsentWriter(c net.Conn, now func() time.Time) io.Writer {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	w := &unsentWriter{c: c, raw: raw, now: now}
	w.write = w.writeNow
	return w
}

// Write implements io.Writer, with a socket's own errors.
func (w *unsentWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest, w.err, w.waits = p, nil, false
	err := w.raw.Write(w.write)
	if of := (*net.OpError)(nil); errors.As(err, &of) {
		err = of.Err // closed, or over time
	}
	n := len(p) - len(w.rest)
	w.rest = nil
	if err == nil {
		err = w.err
	}
	if err == nil {
		return n, nil
	}
	return n, &net.OpError{Op: "write", Net: w.c.LocalAddr().Network(), Source: w.c.LocalAddr(), Addr: w.c.RemoteAddr(), Err: err}
}

// writeNow is called when there may be room; false asks to be called again once there is some.
func (w *unsentWriter) writeNow(fd uintptr) bool {
	switch {
	case w.waits:
		w.waited = w.now()
		if w.taken >= takesAfter {
			w.let(fd, true)
		}
	case !w.waited.IsZero() && w.now().Sub(w.waited) > calmAfter:
		w.waited, w.taken = time.Time{}, 0
		w.let(fd, false)
	}
	for len(w.rest) > 0 && w.err == nil {
		n, err := syscall.Write(int(fd), w.rest)
		switch {
		case err == nil:
			w.rest = w.rest[n:]
			if !w.waited.IsZero() {
				w.taken += n
			}
		case errors.Is(err, syscall.EAGAIN):
			w.waits = true
			return false
		case !errors.Is(err, syscall.EINTR):
			w.err = os.NewSyscallError("write", err)
		}
	}
	return true
}

// let lets much wait in the socket, or little.
func (w *unsentWriter) let(fd uintptr, wide bool) {
	if w.wide == wide {
		return
	}
	w.wide = wide
	most := unsentFew
	if wide {
		most = unsentMax
	}
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, most) // what held before still does
}
