//go:build !linux

package httpapi

import (
	"net"
	"time"
)

func limitSocket(net.Conn, time.Duration) error { return nil }

func queued(net.Listener) int { return 0 }
