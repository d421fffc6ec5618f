//go:build !linux

package peer

import (
	"syscall"
	"time"
)

func acknowledged(syscall.RawConn) (time.Duration, bool) { return 0, false }
