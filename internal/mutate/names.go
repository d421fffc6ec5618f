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

// Names lists them.
func Names() []string {
	return []string{OracleReissue, FenceInFlight, FollowerNoFence, MergerNoWait, UnsyncedLog, SnapshotShort, ProgressHigh, ResolveTwice, LockLost, AnchorNoIndex}
}
