package tlsport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"runtime"

	"go.etcd.io/etcd/client/pkg/v3/transport"
)

// Names of endpoints, as logs and metrics have them.
const (
	Client = "client"
	Peer   = "peer"
)

// protocols are offered to whoever asks for one (ALPN), the first that both have wins.
var protocols = []string{"h2", "http/1.1"}

// Config describes one endpoint of a node, as its flags do.
type Config struct {
	Name string // Client or Peer
	// Info names the files, and says who is let in. Its callbacks and its logger are the endpoint's to set.
	Info transport.TLSInfo
	// Auto makes a certificate for Hosts ("host:port"), in the directory Fixtures, where Info names none. It is kept there for
	// the next start. It is valid for so many years.
	Auto     bool
	Hosts    []string
	Fixtures string
	Years    uint
	Log      *slog.Logger
}

// Endpoint is one side of a node, towards clients or towards peers, with TLS.
type Endpoint struct {
	name   string
	info   transport.TLSInfo
	log    *slog.Logger
	server *tls.Config
	client *tls.Config
	files  files
	check  func(context.Context, *tls.Conn) error
	places *places // of handshakes that are accepted, over all listeners
	counts counts
}

// Open reads an endpoint's files for the first time. It returns nil where there is neither a certificate nor Auto: no TLS. Errors are
// etcd's.
func Open(cfg Config) (*Endpoint, error) {
	most := max(1, runtime.GOMAXPROCS(0)/2) // the other half is for those who are there already
	e := &Endpoint{
		name: cfg.Name, info: cfg.Info, log: cfg.Log, check: func(context.Context, *tls.Conn) error { return nil },
		places: newPlaces(most, waitingPerPlace*most),
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if err := e.makeCertificate(cfg); err != nil {
		return nil, err
	}
	if e.info.Empty() {
		return nil, nil
	}
	e.info.Logger = zapTo(e.log)
	var err error
	if e.server, err = e.info.ServerConfig(); err != nil {
		return nil, fmt.Errorf("tlsport: %s port: %w", e.name, err)
	}
	if e.client, err = e.info.ClientConfig(); err != nil {
		return nil, fmt.Errorf("tlsport: %s port, as a client: %w", e.name, err)
	}
	e.keepFiles()
	e.useFiles()
	if e.name == Peer && !e.info.SkipClientSANVerify {
		e.check = checkSAN
	}
	e.server.NextProtos = protocols
	// A resumed session shows no certificate: revoked and renewed ones would count on until the ticket ends, and who has the key is everybody (0064).
	e.server.SessionTicketsDisabled = true
	e.log.Info("starting with "+e.name+" TLS", "tls-info", e.info.String(), "cipher-suites", suiteNames(e.info.CipherSuites))
	return e, nil
}

// makeCertificate does what Auto asks for.
func (e *Endpoint) makeCertificate(cfg Config) error {
	if !cfg.Auto {
		return nil
	}
	if !e.info.Empty() {
		e.log.Warn("ignoring " + e.name + " auto TLS since certs given")
		return nil
	}
	made, err := transport.SelfCert(zapTo(e.log), cfg.Fixtures, cfg.Hosts, cfg.Years)
	if err != nil {
		return fmt.Errorf("failed to get %s self-signed certs: %w", e.name, err)
	}
	// Whom to let in is another matter than what to present. etcd forgets about it here.
	made.TrustedCAFile, made.ClientCertAuth, made.CRLFile = e.info.TrustedCAFile, e.info.ClientCertAuth, e.info.CRLFile
	made.AllowedCNs, made.AllowedHostnames = e.info.AllowedCNs, e.info.AllowedHostnames
	made.CipherSuites, made.MinVersion, made.MaxVersion = e.info.CipherSuites, e.info.MinVersion, e.info.MaxVersion
	made.SkipClientSANVerify = true // it was made by the peer itself, and proves nothing
	e.info = made
	return nil
}

func suiteNames(ids []uint16) []string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = tls.CipherSuiteName(id)
	}
	return names
}

// leaf is the certificate that the endpoint presents, as it is in its file now.
func (e *Endpoint) leaf() (*x509.Certificate, error) {
	pair, err := e.files.own.get()
	if err != nil {
		return nil, err
	}
	return pair.Leaf, nil
}

// clientConfig is what the next connection is made with.
func (e *Endpoint) clientConfig() (*tls.Config, error) {
	cfg := e.client.Clone()
	if e.files.cas == nil {
		return cfg, nil
	}
	pool, err := e.trusted()
	cfg.RootCAs = pool
	return cfg, err
}

// handshake accepts one connection. Its deadlines are the caller's.
func (e *Endpoint) handshake(ctx context.Context, s *shaking) (*tls.Conn, error) {
	tc := tls.Server(s, e.server)
	err := tc.HandshakeContext(ctx)
	s.over()
	if err == nil {
		err = e.check(ctx, tc) // it may ask DNS
	}
	e.counts.handshake(err)
	if err != nil {
		e.rejected(tc, err)
		_ = tc.Close() // it is over already
		return nil, err
	}
	return tc, nil
}
