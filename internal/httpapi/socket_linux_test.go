package httpapi

import (
	"log/slog"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSocketIsLimited: a connection that is counted still fails when its data stays unacknowledged, as it did when
// gRPC saw its socket, and the system keeps little of what it has not sent.
func TestSocketIsLimited(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ls := NewRoom(1, slog.New(slog.DiscardHandler)).Listeners([]Listener{{Listener: l}}, 3*time.Second)
	defer func() { _ = CloseAll(ls) }()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = far.Close() }()
	c, err := ls[0].Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	raw, err := c.(*roomConn).Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for option, want := range map[int]int{unix.TCP_USER_TIMEOUT: 3000, unix.TCP_NOTSENT_LOWAT: unsentFew} {
		var got int
		if err := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option) }); err != nil {
			t.Fatal(err)
		}
		if err != nil || got != want {
			t.Errorf("option %d is %d, %v; want %d", option, got, err, want)
		}
	}
}

// TestQueued: who waits to be accepted is counted, and nobody else is.
func TestQueued(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tell := Queued([]Listener{{Listener: l}})
	for want := range 3 {
		if got := tell(); got != want {
			t.Errorf("%d wait, want %d", got, want)
		}
		far, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = far.Close() }()
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if got := tell(); got != 2 {
		t.Errorf("%d wait after one of 3 was accepted", got)
	}
	if _ = l.Close(); tell() != 0 {
		t.Error("somebody waits at a socket that is closed")
	}
}
