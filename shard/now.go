package shard

// Now is an answer of the revision oracle.
type Now struct {
	Revision        int64 // the current revision, or the first of those allocated
	Epoch           Epoch
	CompactRevision int64
	AuthRevision    uint64
	RangesVersion   uint64
}
