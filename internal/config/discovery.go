package config

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"

	"pontoon/shard"
)

// Discovery says how the members of a new cluster are found where --initial-cluster does not name them. At most one of Domain and
// Endpoints is set. It is without meaning once the node has data.
type Discovery struct {
	// Domain has SRV records of the members' peer ports in DNS. Default "": not used.
	Domain string
	// Service is what the names of those records have behind "etcd-server". Default "".
	Service string

	// Endpoints are client URLs of another cluster, in which the members register. Default none.
	Endpoints []string
	// Token is the key that they do it under; it is set with Endpoints alone. It takes the place of InitialClusterToken.
	Token string
	// DialTimeout bounds the first contact with user and password. Default 2 s.
	DialTimeout time.Duration
	// RequestTimeout bounds each request. Default 5 s.
	RequestTimeout time.Duration
	// KeepAliveTime is the pause between two pings, KeepAliveTimeout how long an answer is waited for. Default 2 s and 6 s.
	KeepAliveTime, KeepAliveTimeout time.Duration
	// Insecure: Endpoints are called without TLS, where no file is named. Default true.
	Insecure bool
	// SkipVerify: with TLS, and whoever answers is believed. Default false.
	SkipVerify bool
	// Cert, Key and CACert are files for TLS to Endpoints. Default "".
	Cert, Key, CACert string
	// User and Password are sent to Endpoints where User is not empty.
	User, Password string
}

// ByDNS tells whether the members of a new cluster stand in DNS.
func (d *Discovery) ByDNS() bool { return d.Domain != "" }

// ByService tells whether they register at another cluster.
func (d *Discovery) ByService() bool { return len(d.Endpoints) > 0 }

// On tells whether they have to be found out.
func (d *Discovery) On() bool { return d.ByDNS() || d.ByService() }

// fallbackProxy is what --discovery-fallback could be once.
const fallbackProxy = "proxy"

func newDiscovery() Discovery {
	return Discovery{DialTimeout: 2 * time.Second, RequestTimeout: 5 * time.Second, KeepAliveTime: 2 * time.Second, KeepAliveTimeout: 6 * time.Second, Insecure: true}
}

func discoveryFlags() []flagSpec {
	word := func(name, usage string, field func(*Discovery) *string) flagSpec {
		return used(kindString, name, "", usage, text(func(c *Config) *string { return field(&c.Discovery) }))
	}
	pause := func(name, byDefault, usage string, field func(*Discovery) *time.Duration) flagSpec {
		return used(kindDuration, name, byDefault, usage, duration(func(c *Config) *time.Duration { return field(&c.Discovery) }))
	}
	return []flagSpec{
		word("discovery-srv", "Domain with SRV records (_etcd-server._tcp, _etcd-server-ssl._tcp) of the members of a new cluster, instead of --initial-cluster.",
			func(d *Discovery) *string { return &d.Domain }),
		word("discovery-srv-name", "What the names of those records have behind etcd-server, after a hyphen.", func(d *Discovery) *string { return &d.Service }),
		word("discovery-token", "Token under which the members of a new cluster register at --discovery-endpoints, new for each cluster.",
			func(d *Discovery) *string { return &d.Token }),
		used(kindString, "discovery-endpoints", "", "Client URLs of another cluster where the members of a new one register, instead of --initial-cluster.", setDiscoveryEndpoints),
		pause("discovery-dial-timeout", "2s", "How long that cluster may take to let --discovery-user in.", func(d *Discovery) *time.Duration { return &d.DialTimeout }),
		pause("discovery-request-timeout", "5s", "How long it may take for an answer.", func(d *Discovery) *time.Duration { return &d.RequestTimeout }),
		pause("discovery-keepalive-time", "2s", "Pause between two pings of the connection to it.", func(d *Discovery) *time.Duration { return &d.KeepAliveTime }),
		pause("discovery-keepalive-timeout", "6s", "How long the answer to one is waited for.", func(d *Discovery) *time.Duration { return &d.KeepAliveTimeout }),
		used(kindBool, "discovery-insecure-transport", "true", "Whether it is called without TLS, where no file below is named.",
			boolean(func(c *Config) *bool { return &c.Discovery.Insecure })),
		used(kindBool, "discovery-insecure-skip-tls-verify", "false", "Whether its certificate is not verified; for tests.",
			boolean(func(c *Config) *bool { return &c.Discovery.SkipVerify })),
		word("discovery-cert", "Certificate that the node presents to it.", func(d *Discovery) *string { return &d.Cert }),
		word("discovery-key", "Its key.", func(d *Discovery) *string { return &d.Key }),
		word("discovery-cacert", "Authorities that have issued its certificate.", func(d *Discovery) *string { return &d.CACert }),
		word("discovery-user", "User who may write there.", func(d *Discovery) *string { return &d.User }),
		word("discovery-password", "The user's password.", func(d *Discovery) *string { return &d.Password }),
		used(kindString, "discovery-fallback", "exit", "'exit': what a node does that does not find its cluster.", setDiscoveryFallback),
	}
}

// setDiscoveryEndpoints keeps empty ones, which are refused later with a text that names the flag.
func setDiscoveryEndpoints(c *Config, v string) error {
	c.Discovery.Endpoints = nil
	if v == "" {
		return nil
	}
	for _, e := range strings.Split(v, ",") {
		if !slices.Contains(c.Discovery.Endpoints, e) {
			c.Discovery.Endpoints = append(c.Discovery.Endpoints, e)
		}
	}
	return nil
}

func setDiscoveryFallback(_ *Config, v string) error {
	switch v {
	case "exit":
		return nil
	case fallbackProxy:
		return &rejectedError{fmt.Errorf("v2 proxy is deprecated, and --discovery-fallback can't be configured as %q", v)}
	}
	return errors.New(`invalid value: valid values are "exit"`)
}

// check refuses two ways at once, and half of one. Texts are etcd's.
func (d *Discovery) check(initialCluster string) error {
	ways := 0
	for _, way := range []bool{initialCluster != "", d.ByDNS(), d.ByService()} {
		if way {
			ways++
		}
	}
	if ways > 1 {
		return errors.New(`multiple discovery or bootstrap flags are set. Choose one of "initial-cluster", "discovery-endpoints" or "discovery-srv"`)
	}
	if (d.Token != "") != d.ByService() {
		return errors.New("both --discovery-token and --discovery-endpoints must be set")
	}
	if slices.ContainsFunc(d.Endpoints, func(e string) bool { return strings.TrimSpace(e) == "" }) {
		return errors.New("--discovery-endpoints must not contain empty endpoints")
	}
	return nil
}

// resolveAlone is resolveCluster while the other members are not known: all that is sure is who the node itself will be.
func (c *Config) resolveAlone() {
	if c.Discovery.ByService() {
		c.InitialClusterToken = c.Discovery.Token
	}
	c.Members, c.ClusterID = clusterMap{c.Name: c.AdvertisePeerURLs}.members(c.InitialClusterToken)
	c.NodeID = c.Members[0].ID
}

// OwnEntry is a node's own entry of --initial-cluster, as it registers with it.
func OwnEntry(c *Config) string { return clusterMap{c.Name: c.AdvertisePeerURLs}.String() }

// Discovered takes the members of a new cluster, written as in --initial-cluster, as they were found.
func (c *Config) Discovered(cluster string) error {
	m, err := parseCluster(cluster)
	if err != nil {
		return fmt.Errorf("error setting up initial cluster: %w", err)
	}
	switch _, ok := m[c.Name]; {
	case c.Discovery.ByDNS() && !ok:
		return fmt.Errorf("error setting up initial cluster: cannot find local etcd member %q in SRV records", c.Name)
	case c.Discovery.ByService() && m.hasDuplicateURL():
		return fmt.Errorf("discovery cluster %s has duplicate url", m)
	}
	self := c.NodeID
	c.InitialCluster = cluster
	if err := c.resolveCluster(net.LookupHost); err != nil {
		return err
	}
	if c.Discovery.ByService() && c.NodeID != self { // the registered URLs are the ones that were advertised
		return fmt.Errorf("discovery cluster %s has another member of the name %q: give each member a --name of its own", m, c.Name)
	}
	return nil
}

// Verify makes the node hold peers to the domain that they were found in, where no authorities were named for that: SRV records may name any host.
// It is to be called once the members are known.
func (d *Discovery) Verify(members []shard.Member, by *transport.TLSInfo) {
	https := func(m shard.Member) bool {
		return slices.ContainsFunc(m.PeerURLs, func(u string) bool { return strings.HasPrefix(u, "https://") })
	}
	if d.ByDNS() && by.TrustedCAFile == "" && slices.ContainsFunc(members, https) {
		by.ServerName = d.Domain
	}
}

// secretFlag is the one flag whose value is nobody's business.
const secretFlag = "discovery-password"

const hidden = "***"

// Hide returns a command line as it may be logged.
func Hide(args []string) []string {
	out := slices.Clone(args)
	for i, a := range out {
		name, _, inline := strings.Cut(strings.TrimLeft(a, "-"), "=")
		switch {
		case name != secretFlag || !strings.HasPrefix(a, "-"):
		case inline:
			out[i] = a[:strings.IndexByte(a, '=')+1] + hidden
		case i+1 < len(out):
			out[i+1] = hidden
		}
	}
	return out
}
