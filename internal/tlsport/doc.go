// Package tlsport is TLS on the ports of a node: what an Endpoint presents, whom it takes for genuine, and the
// handshakes. On top of etcd's own packages for it, so that flags mean what they mean there.
//
// It owns certificates and handshakes. It does not know what is spoken inside: it wraps listeners, and makes
// credentials for gRPC. Files are read again at every handshake, on both sides, so that what was renewed holds
// for the next connection, and what is broken fails it; connections that are there live on. No session is resumed (0064).
//
// Invariants: a connection that a listener hands out has ended its handshake and has passed every check; how
// many handshakes are under way is bounded, and how long each may take, and how many of them use the processors at
// once (docs/decisions/0063); Close waits for all goroutines.
package tlsport
