package backend

import (
	"sync"
	"time"

	"pontoon/shard"
)

// AskedFor is how long a question to close a revision counts for every hub. It must be less than
// the time after which hubs ask again.
const AskedFor = 50 * time.Millisecond

// askedRangesMax bounds the ranges of which it is remembered what was asked for; beyond it all are forgotten, and asked for again.
const askedRangesMax = 1 << 14

// Asked notes at which revision ranges were asked to be closed, by this process or another. All hubs that watch a write want the same at
// nearly the same time: one question will do, for a while, because a question may be lost.
type Asked struct {
	mu     sync.Mutex
	all    askedAt
	ranges map[shard.RangeID]askedAt
}

type askedAt struct {
	rev  int64
	when time.Time
}

// covers reports whether nobody need ask for rev.
func (a askedAt) covers(rev int64, now time.Time) bool {
	return rev <= a.rev && now.Sub(a.when) < AskedFor
}

// Due returns which of some ranges, nil: of all, are to be asked to close at a revision, and notes it. due is false where none is.
func (a *Asked) Due(rev int64, ranges []shard.RangeID) (left []shard.RangeID, due bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if a.all.covers(rev, now) {
		return nil, false
	}
	if ranges == nil {
		a.all = askedAt{max(rev, a.all.rev), now}
		return nil, true
	}
	if a.ranges == nil || len(a.ranges)+len(ranges) > askedRangesMax {
		a.ranges = make(map[shard.RangeID]askedAt, len(ranges))
	}
	for _, id := range ranges {
		if at := a.ranges[id]; !at.covers(rev, now) {
			a.ranges[id] = askedAt{max(rev, at.rev), now}
			left = append(left, id)
		}
	}
	return left, len(left) > 0
}
