package httpapi

import (
	"log/slog"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestUnackedDataIsLimited: a connection that is counted still fails when its data stays unacknowledged, as it did when
// gRPC saw its socket.
func TestUnackedDataIsLimited(t *testing.T) {
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
	var got int
	if err := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); err != nil {
		t.Fatal(err)
	}
	if err != nil || got != 3000 {
		t.Errorf("%d ms, %v", got, err)
	}
}
