package certs

import (
	"crypto/tls"
	"path/filepath"
)

// Servers are what a cluster's servers need that ask for certificates at every port: an authority, and one certificate that all of them have.
type Servers struct {
	authority *Authority
	Args      []string // of every server, as etcd's flags
	CAFile    string
	dir       string
}

// NewServers makes certificates in dir for servers at these addresses.
func NewServers(dir string, addresses ...string) (*Servers, error) {
	a, err := NewAuthority("pontoon test")
	if err != nil {
		return nil, err
	}
	s := &Servers{authority: a, CAFile: filepath.Join(dir, "ca.pem"), dir: dir}
	if err := Replace(s.CAFile, a.PEM); err != nil {
		return nil, err
	}
	cert, key, err := s.Issue("node", Options{IPs: addresses})
	s.Args = []string{
		"--cert-file=" + cert, "--key-file=" + key, "--trusted-ca-file=" + s.CAFile, "--client-cert-auth",
		"--peer-cert-file=" + cert, "--peer-key-file=" + key, "--peer-trusted-ca-file=" + s.CAFile, "--peer-client-cert-auth",
	}
	return s, err
}

// Issue makes a certificate and writes it down, with its key.
func (s *Servers) Issue(name string, o Options) (cert, key string, err error) {
	pair, err := s.authority.Issue(o)
	if err != nil {
		return "", "", err
	}
	return pair.Write(s.dir, name)
}

// Client is what a client connects with whose certificate names a user; empty: nobody.
func (s *Servers) Client(user string) (*tls.Config, error) {
	pair, err := s.authority.Issue(Options{CN: user})
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.authority.Pool(), Certificates: []tls.Certificate{pair.TLSPair}}, nil
}
