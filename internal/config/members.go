package config

import (
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"pontoon/internal/mutate"
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

// FirstMember finds out who a member of a new cluster is, by what etcd's flags of the same names say: the members, the cluster's id and the member's.
func FirstMember(name, initialCluster, token, peerURLs string) (members []shard.Member, cluster uint64, node shard.NodeID, err error) {
	urls, err := parseURLs(peerURLs)
	if err != nil {
		return nil, 0, 0, err
	}
	c := &Config{Name: name, InitialCluster: initialCluster, InitialClusterToken: token, AdvertisePeerURLs: urls, InitialClusterState: ClusterNew}
	if err := c.resolveCluster(net.LookupHost); err != nil {
		return nil, 0, 0, err
	}
	return c.Members, c.ClusterID, c.NodeID, nil
}

// resolveCluster checks InitialCluster against the rest and fills Members, NodeID and ClusterID.
func (c *Config) resolveCluster(lookup resolver) error {
	m, err := parseCluster(c.InitialCluster)
	if err != nil {
		return fmt.Errorf("error setting up initial cluster: %w", err)
	}
	own, ok := m[c.Name]
	if !ok {
		return fmt.Errorf("couldn't find local name %q in the initial cluster configuration: --initial-cluster must have an entry for the name that --name gives", c.Name)
	}
	if c.IsNewCluster() {
		if err := c.advertiseMatches(own, lookup); err != nil {
			return err
		}
	}
	if m.hasDuplicateURL() {
		return fmt.Errorf("initial cluster %s has duplicate url", m)
	}
	c.Members, c.ClusterID = m.members(c.InitialClusterToken)
	for i := range c.Members {
		if c.Members[i].Name == c.Name {
			c.NodeID = c.Members[i].ID
		}
	}
	return nil
}

// Others are the peer URLs of the members that InitialCluster names, but this node's, sorted: who may be asked about the cluster.
func (c *Config) Others() []string {
	var out []string
	for _, m := range c.Members {
		if m.Name != c.Name {
			out = append(out, m.PeerURLs...)
		}
	}
	slices.Sort(out)
	return out
}

// Join makes the node a member of a cluster that is there: InitialCluster must name exactly its members, and this node is the one with its
// URLs, as in etcd. It must not have started before: then it had data, which it has no more.
func (c *Config) Join(cluster uint64, existing []shard.Member) error {
	if err := c.join(cluster, existing, net.LookupHost); err != nil {
		return fmt.Errorf("error validating peerURLs %s: %w", membersText(existing), err)
	}
	return nil
}

func (c *Config) join(cluster uint64, existing []shard.Member, lookup resolver) error {
	if len(existing) != len(c.Members) {
		return fmt.Errorf("member count is unequal: the cluster has %d members, and --initial-cluster names %d (%s); add this node with `etcdctl member add` first, and start it with what that prints",
			len(existing), len(c.Members), membersText(c.Members))
	}
	own := -1
	for i, e := range existing {
		j, cause := -1, error(nil)
		for k := range c.Members {
			if cause = sameURLs(e.PeerURLs, c.Members[k].PeerURLs, lookup); cause == nil {
				j = k
				break
			}
		}
		if j < 0 {
			return fmt.Errorf("PeerURLs: no match found for existing member (%v, %v), last resolver error (%w): --initial-cluster must name every member by its peer URLs",
				e.ID, e.PeerURLs, cause)
		}
		if c.Members[j].Name == c.Name {
			own = i
		}
	}
	if own < 0 {
		return fmt.Errorf("no member of the cluster has the peer URLs that --initial-cluster has for %q", c.Name)
	}
	if m := &existing[own]; m.HasStarted() && !mutate.On(mutate.JoinWiped) {
		return bootstrapped(m.ID)
	}
	c.NodeID, c.ClusterID, c.Members = existing[own].ID, cluster, existing
	return nil
}

// MayBootstrap refuses the start of a node without data as one of the first members, where the others belong to another cluster, or theirs knows it: its data
// are gone then, and its votes with them. Members of another cluster that has none of ours, by any id, are at our addresses for the last time: a cluster is
// replaced in place, node by node, and those that have not been yet take nobody in.
func (c *Config) MayBootstrap(cluster uint64, existing []shard.Member) error {
	if mutate.On(mutate.JoinWiped) {
		return nil
	}
	if cluster != c.ClusterID && !slices.ContainsFunc(existing, func(m shard.Member) bool { return shard.FindMember(c.Members, m.ID) >= 0 }) {
		return nil
	}
	if cluster != c.ClusterID {
		return fmt.Errorf("the peers that --initial-cluster names belong to cluster %x, and the flags describe cluster %x: give this node the same --initial-cluster and --initial-cluster-token as the others had at their first start, or add it (`etcdctl member add`); a cluster that begins from a snapshot begins from it on every first member: restore the same one here, too, or add this member afterwards",
			cluster, c.ClusterID)
	}
	i := shard.FindMember(existing, c.NodeID)
	switch {
	case i < 0 || existing[i].State == shard.MemberLeaving:
		return fmt.Errorf("the member has been permanently removed from the cluster: to bring the node back use `etcdctl member add`, and start it with what that prints")
	case existing[i].HasStarted():
		return bootstrapped(c.NodeID)
	}
	return nil
}

func bootstrapped(id shard.NodeID) error {
	return fmt.Errorf("member %v has already been bootstrapped: its data directory is gone or another one was named; start it with its own, or replace it: `etcdctl member remove %v`, `etcdctl member add`", id, id)
}

// membersText names members as --initial-cluster does.
func membersText(ms []shard.Member) string {
	var out []string
	for _, m := range ms {
		for _, u := range m.PeerURLs {
			out = append(out, m.Name+"="+u)
		}
	}
	return strings.Join(out, ",")
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
