package sim

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// orders gathers what every replica says that it has applied: the feeds of all replicas of a range
// must tell the same, in order, and nothing new at or below a revision that was closed. Together they
// are the final history. It is told from any goroutine.
type orders struct {
	w  *world
	mu sync.Mutex

	sets   map[rangeRev][]change // what a feed has told of a revision in a range
	told   map[revSub]told
	closed map[shard.RangeID]int64
	filled map[shard.RangeID]int64 // below it everything has been told; where a merge has brought keys lower than what is closed
	unsure map[shard.RangeID]int64 // below it a replica that spoke of a gap has not published everything
	places map[placeKey]*place
}

// rangeRev is a revision in a range as it was at a generation.
type rangeRev struct {
	id  shard.RangeID
	gen shard.Generation
	rev int64
}

// revSub is one change of a revision, by its number in it.
type revSub struct{ rev, sub int64 }

// told is a change, and when it was first heard of. A range that has got the keys of another tells the changes of both.
type told struct {
	change
	seen time.Time
}

type placeKey struct {
	l  *life
	id shard.RangeID
}

// place is how far the feed of one replica, in one life of its node, has come.
type place struct{ last, closed int64 }

func newOrders(w *world) *orders {
	return &orders{w: w, sets: map[rangeRev][]change{}, told: map[revSub]told{}, closed: map[shard.RangeID]int64{}, filled: map[shard.RangeID]int64{},
		unsure: map[shard.RangeID]int64{}, places: map[placeKey]*place{}}
}

// left forgets a replica that was removed: another one may come to the node.
func (o *orders) left(l *life, id shard.RangeID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.places, placeKey{l, id})
}

func changeOf(e *shard.Event) change {
	c := change{key: string(e.KV.Key), del: e.Delete, subN: e.Sub}
	if !e.Delete {
		c.value, c.create, c.version, c.lease = string(e.KV.Value), e.KV.CreateRevision, e.KV.Version, e.KV.Lease
	}
	return c
}

// observe takes an item of a replica's feed.
func (o *orders) observe(l *life, id shard.RangeID, item *shard.FeedItem) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.observeLocked(l, id, item); err != nil {
		o.w.post("feed broken", 0, func() { o.w.failf("%w", err) })
	}
}

func (o *orders) observeLocked(l *life, id shard.RangeID, item *shard.FeedItem) error {
	p := o.places[placeKey{l, id}]
	if p == nil {
		p = &place{}
		o.places[placeKey{l, id}] = p
	}
	for i := 0; i < len(item.Events); {
		rev := item.Events[i].KV.ModRevision
		var changes []change
		for ; i < len(item.Events) && item.Events[i].KV.ModRevision == rev; i++ {
			changes = append(changes, changeOf(item.Events[i]))
		}
		if rev <= p.last || rev <= p.closed {
			return fmt.Errorf("feed order: node %d, %v: revision %d after %d, closed at %d", l.n.id, id, rev, p.last, p.closed)
		}
		p.last = rev
		if err := o.noteSetLocked(l, rangeRev{id, item.Generation, rev}, changes); err != nil {
			return err
		}
	}
	if item.Gap && item.Closed > o.filled[id] {
		if err := o.fillLocked(l, id, item.Closed); err != nil {
			return err
		}
	}
	if item.Closed > 0 {
		p.closed = max(p.closed, item.Closed)
		o.closed[id], o.filled[id] = max(o.closed[id], item.Closed), max(o.filled[id], item.Closed)
	}
	if b := item.Border; b != nil { // what the child has below was told under the parent's name
		o.closed[b.Child], o.filled[b.Child] = max(o.closed[b.Child], item.Closed), max(o.filled[b.Child], item.Closed)
	}
	return nil
}

// united is told that a range has got the keys of its right neighbour. What was final in either stays so, in both: whatever is new comes later.
func (o *orders) united(left, right shard.RangeID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed[left], o.unsure[left] = max(o.closed[left], o.closed[right]), max(o.unsure[left], o.unsure[right])
	o.filled[left] = min(o.filled[left], o.filled[right])
}

// noteSetLocked takes the changes of one revision as a feed has them: all that there are in its range.
func (o *orders) noteSetLocked(l *life, k rangeRev, changes []change) error {
	known, ok := o.sets[k]
	if ok && !slices.Equal(known, changes) {
		return fmt.Errorf("replicas differ: %v at revision %d: %v here (node %d), %v elsewhere", k.id, k.rev, changes, l.n.id, known)
	}
	o.sets[k] = changes
	return o.noteLocked(l, k.id, k.rev, changes)
}

// noteLocked takes the changes of one revision in one range.
func (o *orders) noteLocked(l *life, id shard.RangeID, rev int64, changes []change) error {
	for _, c := range changes {
		k := revSub{rev, c.subN}
		known, ok := o.told[k]
		switch {
		case ok && known.change != c:
			return fmt.Errorf("replicas differ: %v at revision %d: %v here (node %d), %v elsewhere", id, rev, c, l.n.id, known.change)
		case !ok && rev <= o.closed[id] && rev > o.unsure[id]:
			return fmt.Errorf("closed revision: node %d, %v: revision %d is new, but %d was closed", l.n.id, id, rev, o.closed[id])
		case !ok:
			o.told[k] = told{c, time.Now()}
		}
	}
	return nil
}

// fillLocked reads from the store of a replica what its feed says that it may have left out.
func (o *orders) fillLocked(l *life, id shard.RangeID, to int64) error {
	rep, here := l.reps.Get(id)
	if !here {
		o.unsure[id] = to // it is being opened
		return nil
	}
	evs, next, err := rep.History(&pb.HistoryRequest{Spans: pb.FromSpans([]shard.Span{rep.Desc().Span}), From: o.filled[id] + 1, To: to})
	if err != nil || next <= to {
		o.unsure[id] = to // compacted: whoever has it has told it, or will
		return nil
	}
	for i := 0; i < len(evs); {
		rev := evs[i].Rev()
		var changes []change
		for ; i < len(evs) && evs[i].Rev() == rev; i++ {
			changes = append(changes, changeOf(evs[i]))
		}
		if err := o.noteLocked(l, id, rev, changes); err != nil {
			return err
		}
	}
	return nil
}

// revision is one step of the history.
type revision struct {
	rev     int64
	changes []change
	seen    time.Time
}

// history puts the ranges together. Of a revision over several ranges, the changes come in the order of
// their numbers.
func (o *orders) history() []revision {
	o.mu.Lock()
	defer o.mu.Unlock()
	byRev := map[int64]*revision{}
	for k, c := range o.told {
		r := byRev[k.rev]
		if r == nil {
			r = &revision{rev: k.rev, seen: c.seen}
			byRev[k.rev] = r
		}
		r.changes = append(r.changes, c.change)
		if c.seen.Before(r.seen) {
			r.seen = c.seen
		}
	}
	out := make([]revision, 0, len(byRev))
	for _, r := range byRev {
		slices.SortFunc(r.changes, func(a, b change) int { return cmp.Compare(a.subN, b.subN) })
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b revision) int { return cmp.Compare(a.rev, b.rev) })
	return out
}
