package tlsport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
)

// checkSAN lets a peer in whose certificate names the address that it comes from, or names none. etcd's package has it for
// listeners of its own only.
func checkSAN(ctx context.Context, c *tls.Conn) error {
	certs := c.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return nil
	}
	return namesAddress(ctx, net.DefaultResolver, certs[0], c.RemoteAddr().String())
}

// resolver is the part of net.Resolver that is needed.
type resolver interface {
	LookupAddr(ctx context.Context, addr string) ([]string, error)
	LookupHost(ctx context.Context, host string) ([]string, error)
}

func namesAddress(ctx context.Context, dns resolver, cert *x509.Certificate, remote string) error {
	if len(cert.IPAddresses) == 0 && len(cert.DNSNames) == 0 {
		return nil
	}
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return err
	}
	if len(cert.IPAddresses) > 0 {
		if err = cert.VerifyHostname(host); err == nil {
			return nil
		}
	}
	if len(cert.DNSNames) == 0 {
		return err
	}
	found, why := namedIn(ctx, dns, cert.DNSNames, host)
	switch {
	case found:
		return nil
	case why != nil:
		return fmt.Errorf("tls: %q does not match any of DNSNames %q (%w)", host, cert.DNSNames, why)
	}
	return fmt.Errorf("tls: %q does not match any of DNSNames %q", host, cert.DNSNames)
}

// namedIn asks first what the address is called, then where the names point to.
func namedIn(ctx context.Context, dns resolver, allowed []string, host string) (found bool, err error) {
	called, err := dns.LookupAddr(ctx, host)
	for _, name := range called {
		name = strings.TrimSuffix(name, ".")
		for _, a := range allowed {
			if wild, ok := strings.CutPrefix(a, "*"); a == name || ok && strings.HasPrefix(wild, ".") && strings.HasSuffix(name, wild) {
				return true, nil
			}
		}
	}
	for _, a := range allowed {
		if strings.HasPrefix(a, "*.") {
			continue
		}
		addrs, lookupErr := dns.LookupHost(ctx, a)
		if lookupErr != nil {
			err = lookupErr
		} else if slices.Contains(addrs, host) {
			return true, nil
		}
	}
	return false, err
}
