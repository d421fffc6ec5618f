//go:build !linux

package httpapi

import (
	"net"
	"time"
)

func limitUnacked(net.Conn, time.Duration) error { return nil }
