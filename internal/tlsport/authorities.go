package tlsport

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// authorities are the certificates in a file of those who are trusted. The file is read for every handshake, and
// understood anew when it has changed. etcd reads it once.
type authorities struct {
	file string
	log  *slog.Logger

	mu    sync.Mutex
	text  []byte
	known *x509.CertPool
}

func (a *authorities) pool() (*x509.CertPool, error) {
	text, err := os.ReadFile(a.file)
	if err != nil {
		a.log.Warn("failed to read the certificate authorities", "trusted-ca-file", a.file, "error", err)
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known != nil && bytes.Equal(text, a.text) {
		return a.known, nil
	}
	pool, err := parsePool(text)
	if err != nil {
		a.log.Warn("failed to read the certificate authorities", "trusted-ca-file", a.file, "error", err)
		return nil, fmt.Errorf("%s: %w", a.file, err)
	}
	if a.known != nil {
		a.log.Info("the certificate authorities have changed", "trusted-ca-file", a.file)
	}
	a.text, a.known = text, pool
	return pool, nil
}

// parsePool refuses a text without any certificate: half of a file must not mean that nobody is trusted, nor be
// taken for a file without end.
func parsePool(text []byte) (*x509.CertPool, error) {
	pool, n := x509.NewCertPool(), 0
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		pool.AddCert(cert)
		n++
	}
	if n == 0 {
		return nil, fmt.Errorf("there is no certificate in it")
	}
	return pool, nil
}
