//go:build !linux

package httpapi

import (
	"io"
	"net"
	"time"
)

func limitSocket(net.Conn, time.Duration) error { return nil }

func newUnsentWriter(net.Conn, func() time.Time) io.Writer { return nil }

func queued(net.Listener) int { return 0 }
