package shard

// Granted is what the revision oracle remembers of whom it gave its latest revisions to, as an answer brings it. It lets the replicas of ranges that got
// none become final without a fence: see Final.
type Granted struct {
	Revision int64 // the highest that had been given out when the oracle answered
	// Floor is the revision above which the oracle knows, and tells here, who got what. Up to it, somebody may have got any.
	Floor int64
	// Last is the highest revision above Floor that each range was given. A range that is not in it was given none.
	Last map[RangeID]int64
}

// Final reports whether a replica of a range that was found final up to closed, after the answer, is final up to g.Revision: whatever the range, or one
// that holds keys of it now, was given since is at or below closed. It holds for any replica, however far behind: Floor is at or above the first
// revision that was given after borders had changed, and a replica that has not seen them is final below that.
func (g *Granted) Final(id RangeID, closed int64) bool {
	return closed >= g.Floor && g.Last[id] <= closed
}
