package config

import (
	"errors"
	"fmt"
	"net/url"
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
		used(kindDuration, "orphan-streams", "30s",
			"For how long a watch stays open while nothing is heard of the cluster, before its client is to look for it elsewhere (0: for ever, as in etcd, and as members do "+
				"that are not told). Those that require a leader end sooner.",
			duration(func(c *Config) *time.Duration { return &c.OrphanStreams })),
		used(kindString, "member-list", ListGateways, "For a gateway: whether clients that ask for members are told of the 'gateways', or of the 'members'.",
			oneOf("member-list", []string{ListGateways, ListMembers}, func(c *Config) *string { return &c.MemberList })),
	}
}

// ofMembers are the flags that say something of what a gateway does not have. What has no effect there, but does no harm either, is not among them: one
// file of settings may serve all processes.
var ofMembers = []string{
	"initial-cluster", "initial-cluster-state", "initial-cluster-token", "initial-advertise-peer-urls", "listen-peer-urls", "initial-ranges",
	"initial-split-keys", "wal-dir", "discovery-token", "discovery-endpoints", "discovery-srv",
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
		for _, name := range []string{"join", "member-list"} {
			if c.Explicit(name) {
				return fmt.Errorf("--%s is for --role=%s: a member joins a cluster with --initial-cluster and --initial-cluster-state=%s", name, RoleGateway, ClusterExisting)
			}
		}
		return nil
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
