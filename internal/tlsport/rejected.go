package tlsport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
)

// rejected says in the log why a connection came to nothing, in etcd's words. Who only looks whether anybody listens is no news.
func (e *Endpoint) rejected(c *tls.Conn, err error) {
	level := slog.LevelWarn
	if errors.Is(err, io.EOF) || errors.Is(err, errLeft) {
		level = slog.LevelDebug
	}
	state := c.ConnectionState()
	attrs := []any{"remote-addr", c.RemoteAddr().String(), "server-name", state.ServerName}
	if len(state.PeerCertificates) > 0 {
		cert := state.PeerCertificates[0]
		ips := make([]string, len(cert.IPAddresses))
		for i, ip := range cert.IPAddresses {
			ips[i] = ip.String()
		}
		attrs = append(attrs, "ip-addresses", ips, "dns-names", append([]string{}, cert.DNSNames...))
	}
	e.log.Log(context.Background(), level, "rejected connection on "+e.name+" endpoint", append(attrs, "error", err.Error())...)
}
