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
func peer(c *Config) *transport.TLSInfo   { return &c.PeerTLS }

// file is a flag that names a file of an endpoint.
func file(name, usage string, of func(*Config) *transport.TLSInfo, field func(*transport.TLSInfo) *string) flagSpec {
	return used(kindString, name, "", usage, text(func(c *Config) *string { return field(of(c)) }))
}

// list is a flag with values that are separated by commas.
func list(name, byDefault, usage string, field func(*Config) *[]string) flagSpec {
	return used(kindString, name, byDefault, usage, func(c *Config, v string) error {
		*field(c) = unique(strings.Split(v, ","))
		return nil
	})
}

func securityFlags() []flagSpec {
	return slices.Concat(clientSecurityFlags(), peerSecurityFlags(), []flagSpec{
		used(kindUint, "self-signed-cert-validity", "1", "For how many years certificates are made by --auto-tls and --peer-auto-tls.",
			number(32, func(c *Config) *uint { return &c.SelfSignedCertValidity })),
		list("cipher-suites", "", "Suites of TLS 1.2, comma separated (empty: as Go has it).",
			func(c *Config) *[]string { return &c.CipherSuites }),
		list("cors", "*", "Origins that browsers may come from, comma separated.", func(c *Config) *[]string { return &c.CORS }),
		list("host-whitelist", "*", "Host names that HTTP requests may name, comma separated.", func(c *Config) *[]string { return &c.HostWhitelist }),
		used(kindString, "tls-min-version", string(tlsutil.TLSVersion12), "Oldest version of TLS: TLS1.2 or TLS1.3.",
			text(func(c *Config) *string { return &c.TLSMinVersion })),
		used(kindString, "tls-max-version", "", "Newest version of TLS: TLS1.2 or TLS1.3 (empty: as Go has it).",
			text(func(c *Config) *string { return &c.TLSMaxVersion })),
	})
}

func peerSecurityFlags() []flagSpec {
	return []flagSpec{
		file("peer-cert-file", "Certificate of the peer port.", peer, func(i *transport.TLSInfo) *string { return &i.CertFile }),
		file("peer-key-file", "Its key.", peer, func(i *transport.TLSInfo) *string { return &i.KeyFile }),
		used(kindBool, "peer-client-cert-auth", "false", "Whether peers must present a certificate; with --peer-trusted-ca-file they must anyway.",
			boolean(func(c *Config) *bool { return &c.PeerTLS.ClientCertAuth })),
		file("peer-client-cert-file", "What the node presents to peers that it calls, if not --peer-cert-file.", peer,
			func(i *transport.TLSInfo) *string { return &i.ClientCertFile }),
		file("peer-client-key-file", "Its key.", peer, func(i *transport.TLSInfo) *string { return &i.ClientKeyFile }),
		file("peer-trusted-ca-file", "Authorities that have issued the certificates of peers.", peer,
			func(i *transport.TLSInfo) *string { return &i.TrustedCAFile }),
		list("peer-cert-allowed-cn", "", "Common names, comma separated, of which a peer's certificate must have one.",
			func(c *Config) *[]string { return &c.PeerTLS.AllowedCNs }),
		list("peer-cert-allowed-hostname", "", "Host names, comma separated, of which a peer's certificate must have one.",
			func(c *Config) *[]string { return &c.PeerTLS.AllowedHostnames }),
		used(kindBool, "peer-auto-tls", "false",
			"Whether the node makes a certificate for the peer port itself; peers are not verified then, what goes between them is only encrypted.",
			boolean(func(c *Config) *bool { return &c.PeerAutoTLS })),
		file("peer-crl-file", "List of revoked certificates (DER) of peers.", peer, func(i *transport.TLSInfo) *string { return &i.CRLFile }),
		used(kindBool, "peer-skip-client-san-verification", "false",
			"Whether a peer's certificate need not name the address that it comes from.",
			boolean(func(c *Config) *bool { return &c.PeerTLS.SkipClientSANVerify })),
	}
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
		list("client-cert-allowed-hostname", "", "Names, comma separated, of which a client's certificate must have one.",
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
	for _, i := range []*transport.TLSInfo{&c.ClientTLS, &c.PeerTLS} {
		if len(suites) > 0 {
			i.CipherSuites = suites
		}
		i.MinVersion, i.MaxVersion = oldest, newest
	}
	if err := c.checkPeerSchemes(); err != nil {
		return err
	}
	return c.checkSchemes()
}

func (c *Config) checkPeerSchemes() error {
	i := &c.PeerTLS
	auto := c.PeerAutoTLS && i.Empty()
	if auto && (i.ClientCertAuth || i.TrustedCAFile != "" || len(i.AllowedCNs) > 0 || len(i.AllowedHostnames) > 0) {
		// etcd lets everybody in then.
		return errors.New("--peer-auto-tls makes certificates that no peer can verify: leave out --peer-client-cert-auth, --peer-trusted-ca-file, --peer-cert-allowed-cn and --peer-cert-allowed-hostname, or name a certificate (--peer-cert-file, --peer-key-file)")
	}
	for _, u := range c.ListenPeerURLs {
		switch {
		case IsSecure(&u) && i.Empty() && !auto:
			return fmt.Errorf("cannot listen on TLS for %s: KeyFile and CertFile are not presented", u.Host)
		case IsSecure(&u):
			continue
		}
		if !i.Empty() || auto {
			c.warn("scheme is HTTP while key and cert files are present; ignoring key and cert files", "peer-url", u.String())
		}
		if i.ClientCertAuth {
			c.warn("scheme is HTTP while --peer-client-cert-auth is enabled; ignoring client cert auth for this URL", "peer-url", u.String())
		}
	}
	return nil
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
