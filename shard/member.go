package shard

// Member is one node of the cluster as clients see it: an etcd member. Values are immutable
// once shared.
type Member struct {
	ID         NodeID
	Name       string
	PeerURLs   []string
	ClientURLs []string // empty until the member has published them
	Learner    bool
	Formats    uint32 // the newest version of the formats that it announces; 0: the first
	Locality   string // failure domain, such as "zone=a,rack=3"; empty when none is stated
}
