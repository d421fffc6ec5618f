//go:build !unix

package peeked

import "net"

func newSocketReader(net.Conn) Reader { return nil }

func gone(net.Conn) bool { return false }
