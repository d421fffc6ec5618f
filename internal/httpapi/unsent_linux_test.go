package httpapi

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// narrow is a connection whose far side's system takes hardly anything that is not read.
type narrow struct {
	near *net.TCPConn
	far  net.Conn
	w    io.Writer
	now  atomic.Int64 // nanoseconds
}

func newNarrow(t *testing.T) *narrow {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
	}}
	far, err := d.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	if err := limitSocket(near, 0); err != nil {
		t.Fatal(err)
	}
	n := &narrow{near: near.(*net.TCPConn), far: far}
	n.now.Store(1)
	n.w = newUnsentWriter(near, func() time.Time { return time.Unix(0, n.now.Load()) })
	return n
}

// asks is what the system says of the near socket.
func (n *narrow) asks(t *testing.T, ask func(fd int) (int, error)) (v int) {
	t.Helper()
	raw, err := n.near.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { v, err = ask(int(fd)) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return v
}

func (n *narrow) most(t *testing.T) int {
	return n.asks(t, func(fd int) (int, error) { return unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT) })
}

func (n *narrow) unsent(t *testing.T) int {
	return n.asks(t, func(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.SIOCOUTQNSD) })
}

// TestUnsentIsLittle: little of what nobody takes is in the system, much where it is taken, little again when all is calm; and everything arrives.
func TestUnsentIsLittle(t *testing.T) {
	n := newNarrow(t)
	data := make([]byte, takesAfter+4*unsentMax)
	for i := range data {
		data[i] = byte(i / 251)
	}
	_ = n.near.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)) // the far side takes nothing so far
	sent, err := n.w.Write(data)
	if !errors.Is(err, os.ErrDeadlineExceeded) || sent == 0 || sent >= len(data) {
		t.Fatalf("%d bytes were written, %v", sent, err)
	}
	if got := n.unsent(t); got < unsentFew/2 || got > 2*unsentFew || n.most(t) != unsentFew {
		t.Errorf("%d bytes wait, %d may", got, n.most(t))
	}
	_ = n.near.SetWriteDeadline(time.Time{})
	done := make(chan error, 1)
	go func() {
		_, err := n.w.Write(data[sent:])
		done <- err
	}()
	got := make([]byte, len(data))
	if _, err := io.ReadFull(n.far, got[:len(data)-unsentMax/2]); err != nil { // what is left fits into the system
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n.most(t) != unsentMax {
		t.Errorf("%d may wait for one that takes", n.most(t))
	}
	if _, err := io.ReadFull(n.far, got[len(data)-unsentMax/2:]); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("it has not arrived as it was sent, %v", err)
	}
	for _, of := range []struct {
		after time.Duration
		most  int
	}{{calmAfter, unsentMax}, {calmAfter + 1, unsentFew}} {
		n.now.Store(1 + int64(of.after))
		if _, err := n.w.Write([]byte{1}); err != nil || n.most(t) != of.most {
			t.Errorf("after %v %d may wait, want %d; %v", of.after, n.most(t), of.most, err)
		}
	}
}

// TestUnsentTakenBySystem: the system of one that takes nothing may take what it has room for; that alone does not have more wait.
func TestUnsentTakenBySystem(t *testing.T) {
	n := newNarrow(t)
	_ = n.near.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	sent, _ := n.w.Write(make([]byte, takesAfter))
	go func() { _, _ = io.ReadFull(n.far, make([]byte, takesAfter/2)) }()
	_ = n.near.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	more, err := n.w.Write(make([]byte, takesAfter))
	if !errors.Is(err, os.ErrDeadlineExceeded) || more < takesAfter/4 || sent+more >= takesAfter {
		t.Fatalf("%d and %d bytes were written, %v", sent, more, err)
	}
	if n.most(t) != unsentFew {
		t.Errorf("%d may wait", n.most(t))
	}
}

// TestUnsentErrors: what goes wrong is said as a socket says it.
func TestUnsentErrors(t *testing.T) {
	for _, of := range []struct {
		name  string
		ruin  func(n *narrow)
		cause error
	}{
		{"closed", func(n *narrow) { _ = n.near.Close() }, net.ErrClosed},
		{"over time", func(n *narrow) { _ = n.near.SetWriteDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		{"shut", func(n *narrow) { _ = n.near.CloseWrite() }, syscall.EPIPE},
	} {
		n := newNarrow(t)
		of.ruin(n)
		sent, err := n.w.Write([]byte{1, 2, 3})
		_, want := n.near.Write([]byte{1, 2, 3})
		if sent != 0 || !errors.Is(err, of.cause) || err.Error() != want.Error() {
			t.Errorf("%s: %d, %v; want %v", of.name, sent, err, want)
		}
		var as net.Error
		if !errors.As(err, &as) || as.Timeout() != errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v is no error of a network, or wrong about time", of.name, err)
		}
	}
	if w := newUnsentWriter(&net.UnixConn{}, time.Now); w != nil {
		t.Error("what is no socket of TCP has a writer of its own")
	}
}
