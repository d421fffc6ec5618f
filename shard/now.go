package shard

import "time"

// Now is an answer of the revision oracle.
type Now struct {
	Revision        int64 // the current revision, or the first of those allocated
	Epoch           Epoch
	CompactRevision int64
	AuthRevision    uint64
	RangesVersion   uint64
	SettingsVersion uint64        // 0: of a release that has none
	Refused         bool          // the condition of the question does not hold: nothing was allocated
	Lent            time.Duration // for so long from the question on the settings are lent to who asked
	Granted         *Granted      // nil: it was not asked for, or the oracle is of a release that does not tell
}

// Ask is a question to the revision oracle. The zero value asks for the current revision.
type Ask struct {
	Count       int64  // revisions to allocate; 0: the current one is asked for
	Conditional bool   // allocate only if what follows holds
	Settings    uint64 // these are the cluster's settings still
	Grows       bool   // no alarm forbids to make the store larger; false: none is made larger
	// Range is the only range that uses the revisions, with the borders that it has in Generation. 0: they may be used anywhere.
	Range      RangeID
	Generation Generation
	// Granted asks who was given revisions above Since.
	Granted bool
	Since   int64
}

// Checked says under which version of the settings a request was checked, and for whom. The zero value is of settings that nobody has told: whoever
// carries the request out checks it.
type Checked struct {
	Settings uint64
	Who      Who
}
