package config

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/shard"
)

// joiner is a node that is told to join three others.
func joiner(t *testing.T, state string) *Config {
	t.Helper()
	c, _, err := parse(t, nil, "--name=n4", "--initial-advertise-peer-urls=http://10.0.0.4:2380", "--initial-cluster-state="+state,
		"--initial-cluster=n1=http://10.0.0.1:2380,n2=http://10.0.0.2:2380,n3=http://three:2380,n4=http://10.0.0.4:2380")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestJoin: who joins finds itself by its peer URLs among exactly the members that are there, and is refused otherwise with etcd's words and with
// what to do.
func TestJoin(t *testing.T) {
	mutate.Set(*mutatetest.Mutant)
	lookup := func(host string) ([]string, error) {
		if host == "three" {
			return []string{"10.0.0.3"}, nil
		}
		return nil, &net.DNSError{Name: host, Err: "no such host", IsNotFound: true}
	}
	there := func(edit func(ms []shard.Member) []shard.Member) []shard.Member {
		ms := []shard.Member{
			{ID: 1, Name: "n1", PeerURLs: []string{"http://10.0.0.1:2380"}, ClientURLs: []string{"http://c"}},
			{ID: 2, Name: "two", PeerURLs: []string{"http://10.0.0.2:2380"}, ClientURLs: []string{"http://c"}}, // names may differ
			{ID: 3, Name: "n3", PeerURLs: []string{"http://10.0.0.3:2380"}},
			{ID: 77, PeerURLs: []string{"http://10.0.0.4:2380"}},
		}
		if edit != nil {
			ms = edit(ms)
		}
		return ms
	}
	for _, tc := range []struct {
		what string
		edit func(ms []shard.Member) []shard.Member
		says string
	}{
		{"as it is", nil, ""},
		{"one more", func(ms []shard.Member) []shard.Member {
			return append(ms, shard.Member{ID: 5, PeerURLs: []string{"http://10.0.0.5:2380"}})
		}, "member count is unequal"},
		{"not added yet", func(ms []shard.Member) []shard.Member { return ms[:3] }, "etcdctl member add"},
		{"another address", func(ms []shard.Member) []shard.Member {
			ms[1].PeerURLs = []string{"http://10.0.0.22:2380"}
			return ms
		}, "PeerURLs: no match found for existing member (2, [http://10.0.0.22:2380])"},
		{"added with another address", func(ms []shard.Member) []shard.Member {
			ms[3].PeerURLs = []string{"http://10.0.0.44:2380"}
			return ms
		}, "no match found for existing member (4d"},
		{"a name that nobody resolves", func(ms []shard.Member) []shard.Member {
			ms[3].PeerURLs = []string{"http://elsewhere:2380"}
			return ms
		}, "no such host"},
		{"started before", func(ms []shard.Member) []shard.Member {
			ms[3].Formats = 1
			return ms
		}, "member 4d has already been bootstrapped"},
	} {
		c := joiner(t, ClusterExisting)
		ms := there(tc.edit)
		err := c.join(99, ms, lookup)
		switch {
		case tc.says == "" && (err != nil || c.NodeID != 77 || c.ClusterID != 99 || len(c.Members) != 4 || c.Members[1].Name != "two"):
			t.Errorf("%s: %v: %v", tc.what, err, c.Members)
		case tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)):
			t.Errorf("%s: %v", tc.what, err)
		}
	}
	c := joiner(t, ClusterExisting)
	if err := c.Join(99, c.Members[:2]); err == nil || !strings.HasPrefix(err.Error(), "error validating peerURLs n") {
		t.Error(err)
	}
	if got := fmt.Sprint(c.Others()); got != "[http://10.0.0.1:2380 http://10.0.0.2:2380 http://three:2380]" {
		t.Errorf("asks %v", got)
	}
}

// TestMayBootstrap: a node without data is no first member of a cluster that knows it as started, or knows it no more (hazard 63).
func TestMayBootstrap(t *testing.T) {
	mutate.Set(*mutatetest.Mutant)
	c := joiner(t, ClusterNew)
	with := func(edit func(m *shard.Member)) []shard.Member {
		ms := append([]shard.Member{}, c.Members...)
		edit(&ms[shard.FindMember(ms, c.NodeID)])
		return ms
	}
	for _, tc := range []struct {
		what    string
		cluster uint64
		ms      []shard.Member
		says    string
	}{
		{"late for the first time", c.ClusterID, c.Members, ""},
		{"another cluster", c.ClusterID + 1, with(func(m *shard.Member) { m.Formats = 2 }), "--initial-cluster-token"},
		{"another cluster, which has none of these members", c.ClusterID + 1, []shard.Member{{ID: 0xdead, PeerURLs: c.Members[0].PeerURLs, Formats: 2}}, ""},
		{"started", c.ClusterID, with(func(m *shard.Member) { m.ClientURLs = []string{"http://c"} }), "has already been bootstrapped"},
		{"removed", c.ClusterID, with(func(m *shard.Member) { m.ID = 5 }), "permanently removed"},
		{"being removed", c.ClusterID, with(func(m *shard.Member) { m.State = shard.MemberLeaving }), "permanently removed"},
	} {
		err := c.MayBootstrap(tc.cluster, tc.ms)
		if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", tc.what, err)
		}
	}
}

// TestMutants: a node without its data that joins is noticed.
func TestMutants(t *testing.T) {
	for _, test := range []string{"^TestJoin$", "^TestMayBootstrap$"} {
		mutatetest.Each(t, []string{mutate.JoinWiped}, time.Minute, mutatetest.NoticedBy, "-test.run="+test)
	}
}
