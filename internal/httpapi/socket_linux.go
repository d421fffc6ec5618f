package httpapi

import (
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// limitSocket bounds what the system does for a connection: one that has data unacknowledged for longer than unacked fails (0: the system decides), and no more
// than unsentMax waits in the kernel to be sent. gRPC asks for the first where it is given the socket, and only there.
func limitSocket(c net.Conn, unacked time.Duration) error {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentMax)
		if unacked > 0 {
			serr = errors.Join(serr, unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacked.Milliseconds())))
		}
	})
	return errors.Join(err, serr)
}
