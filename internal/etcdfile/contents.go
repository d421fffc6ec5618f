package etcdfile

// Contents is what a file holds beside keys.
type Contents struct {
	// ConsistentIndex and Term are of the last entry of the log that is in the file. Neither is 0.
	ConsistentIndex, Term uint64
	// Voters are the members that vote, by id.
	Voters []uint64
	// Compact is the revision up to which history is forgotten: the higher of the two marks in a file that was read. 0: never.
	Compact int64
	// StorageVersion is "3.7.0" in what is written; in what is read it may be empty.
	StorageVersion string
	Leases         []Lease // ascending
	Auth           Auth
	Members        []Member // ascending
	Removed        []uint64
}

// Lease is a lease. Remaining is what was left of it when it was last noted, 0: its whole time. Both in seconds.
type Lease struct{ ID, TTL, Remaining int64 }

// Member is one of the cluster, in the form that it has in the file.
type Member struct {
	ID         uint64   `json:"id"`
	PeerURLs   []string `json:"peerURLs"`
	IsLearner  bool     `json:"isLearner,omitempty"`
	Name       string   `json:"name,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
}

// Auth is who may do what. Users and Roles are authpb.User and authpb.Role as bytes, by name.
type Auth struct {
	Enabled      bool
	Revision     uint64
	Users, Roles []Named
}

// Named is something with a name.
type Named struct {
	Name string
	Data []byte
}

// Version is the API's and the storage's version that files say which are written.
const Version = "3.7.0"

// The buckets.
const (
	bucketKey            = "key"
	bucketMeta           = "meta"
	bucketLease          = "lease"
	bucketAuth           = "auth"
	bucketAuthUsers      = "authUsers"
	bucketAuthRoles      = "authRoles"
	bucketAlarm          = "alarm"
	bucketCluster        = "cluster"
	bucketMembers        = "members"
	bucketMembersRemoved = "members_removed"
	bucketTest           = "test" // etcd's own tests leave it
)

// buckets are those that a file must have.
var buckets = []string{bucketKey, bucketMeta, bucketLease, bucketAuth, bucketAuthUsers, bucketAuthRoles, bucketAlarm, bucketCluster, bucketMembers, bucketMembersRemoved}

// Keys of the meta, auth and cluster buckets.
const (
	keyIndex            = "consistent_index"
	keyTerm             = "term"
	keyConfState        = "confState"
	keyStorageVersion   = "storageVersion"
	keyScheduledCompact = "scheduledCompactRev"
	keyFinishedCompact  = "finishedCompactRev"
	keyAuthEnabled      = "authEnabled"
	keyAuthRevision     = "authRevision"
	keyClusterVersion   = "clusterVersion"
	keyDowngrade        = "downgrade"
)

const noDowngrade = `{"target-version":"","enabled":false}`
