package config

import (
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"pontoon/shard"
)

// clusterMap is InitialCluster by name.
type clusterMap map[string][]url.URL

// parseCluster reads "a=http://1.2.3.4:2380,b=…"; a name may come more than once.
func parseCluster(text string) (clusterMap, error) {
	m := clusterMap{}
	for _, part := range strings.Split(text, ",") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		u, err := parseURL(value)
		if err != nil {
			return nil, err
		}
		m[name] = append(m[name], *u)
	}
	return m, nil
}

// String renders the map sorted, as it is written on the command line.
func (m clusterMap) String() string {
	var pairs []string
	for name, us := range m {
		for i := range us {
			pairs = append(pairs, name+"="+us[i].String())
		}
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

func (m clusterMap) hasDuplicateURL() bool {
	seen := map[string]bool{}
	for _, us := range m {
		for i := range us {
			if seen[us[i].String()] {
				return true
			}
			seen[us[i].String()] = true
		}
	}
	return false
}

// members derives ids as etcd does, so that tools that compute them agree: a member's from its
// sorted peer URLs and the token, the cluster's from all members' in ascending order.
func (m clusterMap) members(token string) (ms []shard.Member, cluster uint64) {
	for name, us := range m {
		urls := slices.Sorted(slices.Values(URLStrings(us)))
		ms = append(ms, shard.Member{ID: shard.NewMemberID(urls, token, time.Time{}), Name: name, PeerURLs: urls})
	}
	slices.SortFunc(ms, func(a, b shard.Member) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	var ids []byte
	for i := range ms {
		ids = binary.BigEndian.AppendUint64(ids, uint64(ms[i].ID))
	}
	sum := sha1.Sum(ids)
	return ms, binary.BigEndian.Uint64(sum[:8])
}

// resolveCluster checks InitialCluster against the rest and fills Members, NodeID and ClusterID.
func (c *Config) resolveCluster(lookup resolver) error {
	m, err := parseCluster(c.InitialCluster)
	if err != nil {
		return fmt.Errorf("error setting up initial cluster: %w", err)
	}
	own, ok := m[c.Name]
	if !ok {
		return fmt.Errorf("couldn't find local name %q in the initial cluster configuration", c.Name)
	}
	if c.IsNewCluster() {
		if err := c.advertiseMatches(own, lookup); err != nil {
			return err
		}
	}
	if m.hasDuplicateURL() {
		return fmt.Errorf("initial cluster %s has duplicate url", m)
	}
	for name, us := range m {
		if err := checkPlain("initial-cluster", us); err != nil {
			return fmt.Errorf("member %s: %w", name, err)
		}
	}
	c.Members, c.ClusterID = m.members(c.InitialClusterToken)
	for i := range c.Members {
		if c.Members[i].Name == c.Name {
			c.NodeID = c.Members[i].ID
		}
	}
	return nil
}

func (c *Config) advertiseMatches(own []url.URL, lookup resolver) error {
	initial, advertised := URLStrings(own), URLStrings(c.AdvertisePeerURLs)
	cause := sameURLs(advertised, initial, lookup)
	if cause == nil {
		return nil
	}
	if missing := without(initial, advertised); len(missing) > 0 {
		return fmt.Errorf("--initial-cluster has %s=%s but missing from --initial-advertise-peer-urls=%s (%w)",
			c.Name, strings.Join(missing, ","+c.Name+"="), strings.Join(advertised, ","), cause)
	}
	missing := without(advertised, initial)
	return fmt.Errorf("--initial-advertise-peer-urls has %s but missing from --initial-cluster=%s",
		strings.Join(missing, ","), clusterMap{c.Name: own})
}

func without(all, known []string) []string {
	var out []string
	for _, s := range all {
		if !slices.Contains(known, s) {
			out = append(out, s)
		}
	}
	return out
}
