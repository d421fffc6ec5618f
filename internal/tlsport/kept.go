package tlsport

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
)

// kept is what files say. They are read whenever it is asked for, and understood anew when they have changed: a certificate with its key takes a third of a
// handshake to understand.
type kept[T any] struct {
	files []string
	parse func(texts [][]byte) (T, error)
	// changed is told of another text that was understood; nil: nobody.
	changed func()

	mu    sync.Mutex
	texts [][]byte // nil: nothing was understood yet
	known T
}

// get returns what the files say now. With an error nothing is known, whatever they said before.
func (k *kept[T]) get() (none T, err error) {
	texts := make([][]byte, len(k.files))
	for i, name := range k.files {
		if texts[i], err = os.ReadFile(name); err != nil {
			return none, err
		}
	}
	known, fresh, err := k.understood(texts)
	if fresh && k.changed != nil {
		k.changed()
	}
	return known, err
}

// understood tells besides whether it is something else than before.
func (k *kept[T]) understood(texts [][]byte) (none T, fresh bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.texts != nil && equalTexts(texts, k.texts) {
		return k.known, false, nil
	}
	known, err := k.parse(texts)
	if err != nil {
		return none, false, fmt.Errorf("%s: %w", strings.Join(k.files, ", "), err)
	}
	fresh = k.texts != nil
	k.texts, k.known = texts, known
	return known, fresh, nil
}

func equalTexts(a, b [][]byte) bool {
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func parsePair(texts [][]byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(texts[0], texts[1])
	return &pair, err
}

// parsePool refuses a text without any certificate: half of a file must not mean that nobody is trusted, nor be
// taken for a file without end.
func parsePool(texts [][]byte) (*x509.CertPool, error) {
	text, pool, n := texts[0], x509.NewCertPool(), 0
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
		return nil, errors.New("there is no certificate in it")
	}
	return pool, nil
}

// revoked has the serial numbers of certificates that an authority has taken back.
type revoked map[string]struct{}

func parseRevoked(texts [][]byte) (revoked, error) {
	list, err := x509.ParseRevocationList(texts[0])
	if err != nil {
		return nil, err
	}
	r := make(revoked, len(list.RevokedCertificateEntries))
	for _, e := range list.RevokedCertificateEntries {
		r[string(e.SerialNumber.Bytes())] = struct{}{}
	}
	return r, nil
}

// check has an error where one of certs is among them, in etcd's words.
func (r revoked) check(certs []*x509.Certificate) error {
	for _, c := range certs {
		if serial := c.SerialNumber.Bytes(); has(r, serial) {
			return fmt.Errorf("transport: certificate serial %x revoked", serial)
		}
	}
	return nil
}

func has(r revoked, serial []byte) bool {
	_, ok := r[string(serial)]
	return ok
}
