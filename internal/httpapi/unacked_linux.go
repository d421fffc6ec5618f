package httpapi

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// limitUnacked makes a connection fail that has data unacknowledged for longer. gRPC does so by itself where it is given
// the socket, and only there.
func limitUnacked(c net.Conn, most time.Duration) error {
	tcp, ok := c.(*net.TCPConn)
	if !ok || most <= 0 {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(most.Milliseconds()))
	})
	if err != nil {
		return err
	}
	return serr
}
