package mutate

// The mutations, each a way to get the protocol wrong.
const (
	OracleReissue   = "oracle-reissues-after-failover"
	FenceInFlight   = "fence-ignores-requests-in-flight"
	FollowerNoFence = "follower-read-without-fence"
	MergerNoWait    = "merger-does-not-wait"
	UnsyncedLog     = "unsynced-log-acknowledged"
	SnapshotShort   = "snapshot-without-last-batch"
	ProgressHigh    = "progress-one-too-high"
	ResolveTwice    = "resolve-applied-twice"
	LockLost        = "lock-lost-at-leader-change"
	AnchorNoIndex   = "anchor-read-before-its-fence"
)

// The mutations of what happens when configurations change, which package raftgroup tries itself.
const (
	CommitNotSaved     = "commit-index-not-written-with-entries"
	SnapshotOverAgreed = "snapshot-replaces-entries-that-agree"
	StateOverAgreed    = "state-replaces-entries-that-agree"
	LeaseOverChange    = "lease-counts-after-a-configuration"
	ConfBehindState    = "configuration-older-than-the-state"
	ConfBehindSnapshot = "configuration-older-than-its-snapshot"
	ChangeFromAnywhere = "change-starts-from-any-configuration"
	TombstoneIgnored   = "replica-id-used-again"
	OneHalf            = "proof-by-one-half-of-a-joint-configuration"
)

// GroupNames lists those of the groups' configurations.
func GroupNames() []string {
	return []string{CommitNotSaved, SnapshotOverAgreed, StateOverAgreed, LeaseOverChange, OneHalf, ConfBehindState, ConfBehindSnapshot, ChangeFromAnywhere, TombstoneIgnored}
}

// Names lists those that the simulation of whole clusters tries.
func Names() []string {
	return []string{OracleReissue, FenceInFlight, FollowerNoFence, MergerNoWait, UnsyncedLog, SnapshotShort, ProgressHigh, ResolveTwice, LockLost, AnchorNoIndex}
}
