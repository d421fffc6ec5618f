package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Values of Config.Role.
const (
	// RoleMember holds replicas and belongs to the cluster.
	RoleMember = "member"
	// RoleGateway serves clients of a cluster, and holds nothing.
	RoleGateway = "gateway"
)

// Values of Config.MemberList.
const (
	// ListGateways tells clients of a gateway of the gateways.
	ListGateways = "gateways"
	// ListMembers tells them of the members of the cluster.
	ListMembers = "members"
)

// IsGateway reports whether a process that is told so is to be one.
func IsGateway(c *Config) bool { return c.Role == RoleGateway }

func gatewayFlags() []flagSpec {
	return []flagSpec{
		used(kindString, "role", RoleMember, "'member' holds ranges; 'gateway' serves clients and watches of the cluster that --join names, and holds nothing.",
			oneOf("role", []string{RoleMember, RoleGateway}, func(c *Config) *string { return &c.Role })),
		used(kindString, "join", "", "For a gateway: peer URLs of some members, which tell it of all.",
			urlList(func(c *Config) *[]url.URL { return &c.JoinURLs })),
		used(kindString, "upstream", "", "For a gateway: peer URLs of gateways that were told to listen there, with --listen-peer-urls. Feeds come from them, and from members where none of them is reached.",
			urlList(func(c *Config) *[]url.URL { return &c.UpstreamURLs })),
		used(kindDuration, "orphan-streams", "30s",
			"For how long a watch stays open while nothing is heard of the cluster, before its client is to look for it elsewhere (0: for ever, as in etcd, and as members do "+
				"that are not told). Those that require a leader end sooner.",
			duration(func(c *Config) *time.Duration { return &c.OrphanStreams })),
		used(kindString, "member-list", ListGateways, "For a gateway: whether clients that ask for members are told of the 'gateways', or of the 'members'.",
			oneOf("member-list", []string{ListGateways, ListMembers}, func(c *Config) *string { return &c.MemberList })),
		used(kindString, "mirror-prefixes", "", "For a gateway: prefixes of keys, with commas between, that it keeps in memory, so that lists of them ask no member.", setMirrorPrefixes),
		used(kindString, "mirror-size", "1GiB", "For a gateway: what the keys and values of mirrors may take, at least 1MiB: bytes, or a number with KiB, MiB or GiB. What does not fit is not mirrored.",
			setMirrorSize),
		used(kindString, "mirror-auto-size", "10%",
			"For a gateway: what ranges may take in memory that are listed often, beside --mirror-prefixes and within --mirror-size (0: none): bytes, a number with KiB, MiB or GiB, or a "+
				"share, with %, of what the process may use (GOMEMLIMIT, its container's limit, the machine's).", setMirrorAutoSize),
		used(kindDuration, "mirror-history", "1m15s", "For a gateway: for how long mirrors remember what there was, for the pages of a list at one revision.",
			duration(func(c *Config) *time.Duration { return &c.MirrorHistory })),
		used(kindDuration, "mirror-audit-interval", "10m0s", "For a gateway: how often mirrors are compared with replicas (0: never).",
			duration(func(c *Config) *time.Duration { return &c.MirrorAuditInterval })),
	}
}

// ofMembers are the flags that say something of what a gateway does not have. What has no effect there, but does no harm either, is not among them: one
// file of settings may serve all processes.
var ofMembers = []string{
	"initial-cluster", "initial-cluster-state", "initial-cluster-token", "initial-advertise-peer-urls", "initial-ranges",
	"initial-split-keys", "wal-dir", "discovery-token", "discovery-endpoints", "discovery-srv",
}

// upstreamsMax bounds the gateways that one has feeds from.
const upstreamsMax = 8

// setMirrorPrefixes takes prefixes; one that is empty would be everything, and is left out.
func setMirrorPrefixes(c *Config, v string) error {
	c.MirrorPrefixes = slices.DeleteFunc(unique(strings.Split(v, ",")), func(p string) bool { return p == "" })
	return nil
}

// mirrorSizeMin is less than what anybody means.
const mirrorSizeMin = 1 << 20

func setMirrorSize(c *Config, v string) error {
	n, err := parseBytes(v)
	if err == nil && n < mirrorSizeMin {
		err = fmt.Errorf("%q is too little: mirrors have 1MiB at least", v)
	}
	c.MirrorSize = n
	return err
}

func setMirrorAutoSize(c *Config, v string) (err error) {
	c.MirrorAutoSize, err = parseMemory(v)
	return err
}

// checkRole refuses flags of the other role.
func checkRole(c *Config) error {
	if c.OrphanStreams < 0 {
		return fmt.Errorf("--orphan-streams must not be negative (set to %v)", c.OrphanStreams)
	}
	if !IsGateway(c) {
		if !c.Explicit("orphan-streams") {
			c.OrphanStreams = 0
		}
		for _, name := range []string{"join", "upstream", "member-list", "mirror-prefixes", "mirror-size", "mirror-auto-size", "mirror-history", "mirror-audit-interval"} {
			if c.Explicit(name) {
				if name != "join" {
					return fmt.Errorf("--%s is for --role=%s", name, RoleGateway)
				}
				return fmt.Errorf("--%s is for --role=%s: a member joins a cluster with --initial-cluster and --initial-cluster-state=%s", name, RoleGateway, ClusterExisting)
			}
		}
		return nil
	}
	if !c.Explicit("listen-peer-urls") {
		c.ListenPeerURLs = nil // nobody is to be served there
	}
	if len(c.UpstreamURLs) > upstreamsMax {
		return fmt.Errorf("--upstream names %d URLs: %d are the most", len(c.UpstreamURLs), upstreamsMax)
	}
	if len(c.JoinURLs) == 0 {
		return errors.New("--role=gateway needs --join: peer URLs of some members of the cluster")
	}
	for _, name := range ofMembers {
		if c.Explicit(name) {
			return fmt.Errorf("--%s is for members: a gateway holds nothing, and is told of the cluster by those that --join names", name)
		}
	}
	return nil
}
