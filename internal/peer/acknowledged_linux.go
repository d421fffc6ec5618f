package peer

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// acknowledged reads TCP_INFO (tcp(7)) of a connection.
func acknowledged(raw syscall.RawConn) (ago time.Duration, known bool) {
	err := raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			ago, known = time.Duration(info.Last_ack_recv)*time.Millisecond, true
		}
	})
	return ago, known && err == nil
}
