package httpapi

import (
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// limitSocket bounds what the system does for a connection: one that has data unacknowledged for longer than unacked fails (0: the system decides), and no more
// than unsentFew waits in the kernel to be sent. gRPC asks for the first where it is given the socket, and only there.
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
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentFew)
		if unacked > 0 {
			serr = errors.Join(serr, unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacked.Milliseconds())))
		}
	})
	return errors.Join(err, serr)
}

// queued is how many connections wait in the system until a socket's owner accepts them: of one that listens the system tells it where it tells of
// others how much is unacknowledged.
func queued(l net.Listener) (n int) {
	sock, ok := l.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { // a socket that is closed has none
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = int(info.Unacked)
		}
	})
	return n
}
