package peer

import (
	"crypto/tls"
	"net"
	"net/url"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// The address of a peer port is a text that Directory makes of a member's URL: "host:port", with TLS "https://host:port"; a socket of the
// machine is "unix://PATH", with TLS "unixs://PATH".

// URLAddr is the address for a peer URL; etcd's peer port where none is stated. ok is false for what is no such URL.
func URLAddr(text string) (addr string, ok bool) {
	u, err := url.Parse(text)
	if err != nil {
		return "", false
	}
	if u.Scheme == "unix" || u.Scheme == "unixs" {
		if at := u.Host + u.Path; at != "" {
			return u.Scheme + "://" + at, true
		}
	}
	if u.Hostname() == "" {
		return "", false
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "2380")
	}
	if u.Scheme == "https" {
		return "https://" + host, true
	}
	return host, true
}

// place is an address taken apart.
type place struct {
	network, at string // as net.Dial takes them
	name        string // what a certificate is held against; host:port
	secure      bool
}

func placeOf(addr string) place {
	scheme, at, stated := strings.Cut(addr, "://")
	switch {
	case !stated:
		return place{network: "tcp", at: addr, name: addr}
	case scheme != "unix" && scheme != "unixs":
		return place{network: "tcp", at: at, name: at, secure: scheme == "https"}
	}
	p := place{network: "unix", at: at, name: at, secure: scheme == "unixs"}
	if _, _, err := net.SplitHostPort(at); err != nil || strings.Contains(at, "/") {
		p.name = "localhost:0" // a path says nothing of who is there
	}
	return p
}

// SecureBy is DialerConfig.Credentials for addresses of Directory: those with TLS are called with the given credentials; nil: by whatever
// authorities the system trusts.
func SecureBy(withTLS credentials.TransportCredentials) func(addr string) credentials.TransportCredentials {
	if withTLS == nil {
		withTLS = credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12})
	}
	return func(addr string) credentials.TransportCredentials {
		if placeOf(addr).secure {
			return withTLS
		}
		return insecure.NewCredentials()
	}
}
