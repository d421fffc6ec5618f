package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/tlsutil"
	"go.etcd.io/etcd/client/pkg/v3/transport"
)

func client(c *Config) *transport.TLSInfo { return &c.ClientTLS }

// file is a flag that names a file of an endpoint.
func file(name, usage string, of func(*Config) *transport.TLSInfo, field func(*transport.TLSInfo) *string) flagSpec {
	return used(kindString, name, "", usage, text(func(c *Config) *string { return field(of(c)) }))
}

// list is a flag with values that are separated by commas.
func list(name, usage string, field func(*Config) *[]string) flagSpec {
	return used(kindString, name, "", usage, func(c *Config, v string) error {
		*field(c) = unique(strings.Split(v, ","))
		return nil
	})
}

func securityFlags() []flagSpec {
	return append(clientSecurityFlags(),
		tlsRefused(kindString, "peer-cert-file", ""),
		tlsRefused(kindString, "peer-key-file", ""),
		tlsRefused(kindBool, "peer-client-cert-auth", "false"),
		tlsRefused(kindString, "peer-client-cert-file", ""),
		tlsRefused(kindString, "peer-client-key-file", ""),
		tlsRefused(kindString, "peer-trusted-ca-file", ""),
		tlsRefused(kindString, "peer-cert-allowed-cn", ""),
		tlsRefused(kindString, "peer-cert-allowed-hostname", ""),
		tlsRefused(kindBool, "peer-auto-tls", "false"),
		tlsRefused(kindString, "peer-crl-file", ""),
		tlsRefused(kindBool, "peer-skip-client-san-verification", "false"),
		used(kindUint, "self-signed-cert-validity", "1", "For how many years certificates are made by --auto-tls.",
			number(32, func(c *Config) *uint { return &c.SelfSignedCertValidity })),
		list("cipher-suites", "Suites of TLS 1.2, comma separated (empty: as Go has it).",
			func(c *Config) *[]string { return &c.CipherSuites }),
		used(kindString, "cors", "*", "Origins that browsers may come from, comma separated.",
			func(c *Config, v string) error { c.CORS = unique(strings.Split(v, ",")); return nil }),
		used(kindString, "host-whitelist", "*", "Host names that HTTP requests may name, comma separated.",
			func(c *Config, v string) error { c.HostWhitelist = unique(strings.Split(v, ",")); return nil }),
		used(kindString, "tls-min-version", string(tlsutil.TLSVersion12), "Oldest version of TLS: TLS1.2 or TLS1.3.",
			text(func(c *Config) *string { return &c.TLSMinVersion })),
		used(kindString, "tls-max-version", "", "Newest version of TLS: TLS1.2 or TLS1.3 (empty: as Go has it).",
			text(func(c *Config) *string { return &c.TLSMaxVersion })),
	)
}

func clientSecurityFlags() []flagSpec {
	return []flagSpec{
		file("cert-file", "Certificate of the client port; read again at every handshake, as are all of these files.", client,
			func(i *transport.TLSInfo) *string { return &i.CertFile }),
		file("key-file", "Its key.", client, func(i *transport.TLSInfo) *string { return &i.KeyFile }),
		used(kindBool, "client-cert-auth", "false", "Whether clients must present a certificate; with --trusted-ca-file they must anyway.",
			boolean(func(c *Config) *bool { return &c.ClientTLS.ClientCertAuth })),
		file("client-cert-file", "What the node itself presents as a client of the client port, if not --cert-file.", client,
			func(i *transport.TLSInfo) *string { return &i.ClientCertFile }),
		file("client-key-file", "Its key.", client, func(i *transport.TLSInfo) *string { return &i.ClientKeyFile }),
		file("client-crl-file", "List of revoked certificates (DER) of clients.", client, func(i *transport.TLSInfo) *string { return &i.CRLFile }),
		list("client-cert-allowed-hostname", "Names, comma separated, of which a client's certificate must have one.",
			func(c *Config) *[]string { return &c.ClientTLS.AllowedHostnames }),
		file("trusted-ca-file", "Authorities that have issued the certificates of clients, which must then present one.", client,
			func(i *transport.TLSInfo) *string { return &i.TrustedCAFile }),
		used(kindBool, "auto-tls", "false", "Whether the node makes a certificate for the client port itself.",
			boolean(func(c *Config) *bool { return &c.ClientAutoTLS })),
	}
}

// checkSecurity resolves names of suites and versions, and compares URLs with certificates. Texts are etcd's.
func (c *Config) checkSecurity() error {
	suites, err := tlsutil.GetCipherSuites(c.CipherSuites)
	if err != nil {
		return err
	}
	oldest, err := tlsutil.GetTLSVersion(c.TLSMinVersion)
	if err != nil {
		return err
	}
	newest, err := tlsutil.GetTLSVersion(c.TLSMaxVersion)
	if err != nil {
		return err
	}
	if newest != 0 && oldest > newest {
		return fmt.Errorf("min version (%s) is greater than max version (%s)", c.TLSMinVersion, c.TLSMaxVersion)
	}
	if oldest == tls.VersionTLS13 && len(suites) > 0 {
		return errors.New("cipher suites cannot be configured when only TLS1.3 is enabled")
	}
	i := &c.ClientTLS
	if len(suites) > 0 {
		i.CipherSuites = suites
	}
	i.MinVersion, i.MaxVersion = oldest, newest
	return c.checkSchemes()
}

func (c *Config) checkSchemes() error {
	given := !c.ClientTLS.Empty() || c.ClientAutoTLS
	for _, u := range slices.Concat(c.ListenClientURLs, c.ListenClientHTTPURLs) {
		switch {
		case IsSecure(&u) && !given:
			return fmt.Errorf("TLS key/cert (--cert-file, --key-file) must be provided for client url %s with HTTPS scheme", u.String())
		case IsSecure(&u):
			continue
		}
		if given {
			c.warn("scheme is http or unix while key and cert files are present; ignoring key and cert files", "client-url", u.String())
		}
		if c.ClientTLS.ClientCertAuth {
			c.warn("scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for this URL", "client-url", u.String())
		}
	}
	for _, u := range c.ListenClientHTTPURLs {
		if slices.ContainsFunc(c.ListenClientURLs, func(v url.URL) bool { return SameSocket(&u, &v) }) {
			return fmt.Errorf("cannot bind both --listen-client-urls and --listen-client-http-urls on the same url %s", u.String())
		}
	}
	if !given && slices.ContainsFunc(c.ListenMetricsURLs, func(u url.URL) bool { return IsSecure(&u) }) {
		return errors.New("client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url")
	}
	return nil
}

// IsSecure tells whether TLS is spoken at a URL.
func IsSecure(u *url.URL) bool { return u.Scheme == "https" || u.Scheme == "unixs" }

// SameSocket tells whether two URLs are to be listened to at one place.
func SameSocket(a, b *url.URL) bool {
	na, aa := ListenAddress(a)
	nb, ab := ListenAddress(b)
	return na == nb && aa == ab
}
