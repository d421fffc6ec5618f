package tlsport

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
)

// files are those of an endpoint. What they say is asked for at every handshake.
type files struct {
	own, asClient *kept[*tls.Certificate] // asClient is own where the endpoint calls with the same certificate
	cas           *kept[*x509.CertPool]   // nil: the system's
	revoked       *kept[revoked]          // nil: nothing is
}

func (e *Endpoint) keepFiles() {
	i := &e.info
	f := &e.files
	f.own = &kept[*tls.Certificate]{files: []string{i.CertFile, i.KeyFile}, parse: parsePair}
	f.asClient = f.own
	if i.ClientCertFile != "" {
		f.asClient = &kept[*tls.Certificate]{files: []string{i.ClientCertFile, i.ClientKeyFile}, parse: parsePair}
	}
	if i.TrustedCAFile != "" {
		f.cas = &kept[*x509.CertPool]{files: []string{i.TrustedCAFile}, parse: parsePool, changed: func() {
			e.log.Info("the certificate authorities have changed", "trusted-ca-file", i.TrustedCAFile)
		}}
	}
	if i.CRLFile != "" {
		f.revoked = &kept[revoked]{files: []string{i.CRLFile}, parse: parseRevoked}
	}
}

// useFiles has handshakes ask them, in place of what etcd's package does. That reads the same files, and understands them every time.
func (e *Endpoint) useFiles() {
	e.server.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return presented(e.files.own, "peer", e.log)
	}
	e.client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return presented(e.files.asClient, "client", e.log)
	}
	if e.files.revoked != nil {
		e.server.VerifyConnection = func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return nil
			}
			r, err := e.files.revoked.get()
			if err != nil {
				return err
			}
			return r.check(s.PeerCertificates)
		}
	}
	if e.files.cas != nil {
		e.server.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			pool, err := e.trusted()
			if err != nil {
				return nil, err
			}
			cfg := e.server.Clone()
			cfg.ClientCAs, cfg.GetConfigForClient = pool, nil
			return cfg, nil
		}
	}
}

// trusted are the authorities that count now; there is a file that names them.
func (e *Endpoint) trusted() (*x509.CertPool, error) {
	pool, err := e.files.cas.get()
	if err != nil {
		e.log.Warn("failed to read the certificate authorities", "trusted-ca-file", e.info.TrustedCAFile, "error", err)
	}
	return pool, err
}

// presented is a certificate for one handshake. The log has etcd's words.
func presented(k *kept[*tls.Certificate], whose string, log *slog.Logger) (*tls.Certificate, error) {
	pair, err := k.get()
	attrs := []any{"cert-file", k.files[0], "key-file", k.files[1], "error", err}
	switch {
	case err == nil:
		return pair, nil
	case os.IsNotExist(err):
		log.Warn("failed to find "+whose+" cert files", attrs...)
	default:
		log.Warn("failed to create "+whose+" certificate", attrs...)
	}
	return nil, err
}
