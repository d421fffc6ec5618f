package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Authority issues certificates.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	PEM  []byte
}

// Options are what a certificate says.
type Options struct {
	CN    string
	IPs   []string
	Names []string
	Life  time.Duration // default a day
}

// Pair is a certificate with its key.
type Pair struct {
	Leaf    *x509.Certificate
	PEM     []byte
	KeyPEM  []byte
	TLSPair tls.Certificate
}

// NewAuthority returns an authority that trusts itself.
func NewAuthority(name string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template(Options{CN: name})
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage |= x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &Authority{cert: cert, key: key, PEM: block("CERTIFICATE", der)}, err
}

func template(o Options) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62)) // never fails
	life := o.Life
	if life == 0 {
		life = 24 * time.Hour
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: o.CN}, DNSNames: o.Names,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(life),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, ip := range o.IPs {
		t.IPAddresses = append(t.IPAddresses, net.ParseIP(ip))
	}
	return t
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// Issue makes a certificate, for servers and clients alike.
func (a *Authority) Issue(o Options) (*Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template(o), a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	kd, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	p := &Pair{PEM: block("CERTIFICATE", der), KeyPEM: block("EC PRIVATE KEY", kd)}
	if p.TLSPair, err = tls.X509KeyPair(p.PEM, p.KeyPEM); err != nil {
		return nil, err
	}
	p.Leaf = p.TLSPair.Leaf
	return p, nil
}

// Revoked is the list (DER) of what the authority has taken back.
func (a *Authority) Revoked(pairs ...*Pair) ([]byte, error) {
	list := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for _, p := range pairs {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: p.Leaf.SerialNumber, RevocationTime: time.Now()})
	}
	return x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
}

// Raw is its certificate (DER).
func (a *Authority) Raw() []byte { return a.cert.Raw }

// Pool is the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// Write puts a pair into dir/name.pem and dir/name.key, whatever stands there. Each file is replaced as a whole.
func (p *Pair) Write(dir, name string) (cert, key string, err error) {
	cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	if err = Replace(key, p.KeyPEM); err == nil {
		err = Replace(cert, p.PEM)
	}
	return cert, key, err
}

// Replace writes a file so that a reader finds the old text or the new one.
func Replace(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
