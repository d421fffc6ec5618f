package tlsport

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Dial returns credentials for connections that the node makes. They verify the other side as the endpoint's flags say, by the host that
// is dialled, or by Info.ServerName where that is set. A nil endpoint has none.
func (e *Endpoint) Dial() credentials.TransportCredentials {
	if e == nil {
		return nil
	}
	return dialCredentials{e}
}

var errOneWay = errors.New("tlsport: these credentials are for the other side of a connection")

type dialCredentials struct{ endpoint *Endpoint }

func (d dialCredentials) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg, err := d.endpoint.clientConfig()
	if err != nil {
		return nil, nil, err
	}
	if cfg.ServerName != "" { // it is known better than by the host, which gRPC would take
		authority = cfg.ServerName
	}
	return credentials.NewTLS(cfg).ClientHandshake(ctx, authority, c)
}

func (dialCredentials) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errOneWay
}

func (dialCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (d dialCredentials) Clone() credentials.TransportCredentials { return d }

func (dialCredentials) OverrideServerName(string) error {
	return errors.New("tlsport: a node is verified by the host that was dialled")
}

// Accepted returns credentials for a gRPC server behind listeners of Endpoint.Listen, or others: a connection's handshake is over already where it had one, and calls
// learn of its certificates.
func Accepted() credentials.TransportCredentials {
	return acceptedCredentials{insecure.NewCredentials()}
}

type acceptedCredentials struct {
	credentials.TransportCredentials // of those without TLS
}

func (a acceptedCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	s, ok := c.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return a.TransportCredentials.ServerHandshake(c)
	}
	return c, &Info{TLSInfo: credentials.TLSInfo{
		State:          s.ConnectionState(),
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}}, nil
}

// Info is what is known of a connection with TLS; peer.AuthInfo of its calls.
type Info struct {
	credentials.TLSInfo
	owner atomic.Uint64
}

// Owns tells whether a connection is that of the node id, which it is from the first time on that somebody asks.
func (i *Info) Owns(id uint64) bool {
	return i.owner.CompareAndSwap(0, id) || i.owner.Load() == id
}

func (acceptedCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errOneWay
}

func (a acceptedCredentials) Clone() credentials.TransportCredentials { return a }
