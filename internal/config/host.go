package config

import (
	"net"
	"net/url"
)

// adoptHost replaces the host of a default URL when the node listens on every address. The
// elements of advertised are changed in place.
func adoptHost(c *Config, listen, advertised []url.URL) {
	if len(listen) == 0 || len(advertised) != 1 || listen[0].Hostname() != "0.0.0.0" {
		return
	}
	host, err := outboundHost()
	if err != nil {
		c.info("failed to detect default host", "error", err)
		return
	}
	advertised[0].Host = net.JoinHostPort(host, listen[0].Port())
	c.info("detected default host for advertise", "host", host)
}

// outboundHost is the address that this machine would send from. "Connecting" a datagram socket
// sends nothing; the address is of the range reserved for documentation.
func outboundHost() (string, error) {
	conn, err := net.Dial("udp", "192.0.2.1:9")
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	return host, err
}
