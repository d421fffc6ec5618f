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

	byRange map[rangeRev][]change
	seen    map[rangeRev]time.Time // when it was first heard of
	closed  map[shard.RangeID]int64
	unsure  map[shard.RangeID]int64 // below it a replica that spoke of a gap has not published everything
	places  map[placeKey]*place
}

type rangeRev struct {
	id  shard.RangeID
	rev int64
}

type placeKey struct {
	l  *life
	id shard.RangeID
}

// place is how far the feed of one replica, in one life of its node, has come.
type place struct{ last, closed int64 }

func newOrders(w *world) *orders {
	return &orders{w: w, byRange: map[rangeRev][]change{}, seen: map[rangeRev]time.Time{}, closed: map[shard.RangeID]int64{}, unsure: map[shard.RangeID]int64{}, places: map[placeKey]*place{}}
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
		if err := o.noteLocked(l, id, rev, changes); err != nil {
			return err
		}
	}
	if item.Gap && item.Closed > o.closed[id] {
		if err := o.fillLocked(l, id, item.Closed); err != nil {
			return err
		}
	}
	if item.Closed > 0 {
		p.closed = max(p.closed, item.Closed)
		o.closed[id] = max(o.closed[id], item.Closed)
	}
	if b := item.Border; b != nil { // what the child has below was told under the parent's name
		o.closed[b.Child] = max(o.closed[b.Child], item.Closed)
	}
	return nil
}

// noteLocked takes the changes of one revision in one range.
func (o *orders) noteLocked(l *life, id shard.RangeID, rev int64, changes []change) error {
	k := rangeRev{id, rev}
	known, ok := o.byRange[k]
	switch {
	case ok && !slices.Equal(known, changes):
		return fmt.Errorf("replicas differ: %v at revision %d: %v here (node %d), %v elsewhere", id, rev, changes, l.n.id, known)
	case !ok && rev <= o.closed[id] && rev > o.unsure[id]:
		return fmt.Errorf("closed revision: node %d, %v: revision %d is new, but %d was closed", l.n.id, id, rev, o.closed[id])
	case !ok:
		o.byRange[k], o.seen[k] = changes, time.Now()
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
	evs, next, err := rep.History(&pb.HistoryRequest{Spans: pb.FromSpans([]shard.Span{rep.Desc().Span}), From: o.closed[id] + 1, To: to})
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
	ranges  []shard.RangeID
	seen    time.Time
}

// history puts the ranges together. Of a revision over several ranges, the changes come in the order of
// their numbers.
func (o *orders) history() []revision {
	o.mu.Lock()
	defer o.mu.Unlock()
	byRev := map[int64]*revision{}
	for k, changes := range o.byRange {
		r := byRev[k.rev]
		if r == nil {
			r = &revision{rev: k.rev, seen: o.seen[k]}
			byRev[k.rev] = r
		}
		r.changes = append(r.changes, changes...)
		r.ranges = append(r.ranges, k.id)
		if o.seen[k].Before(r.seen) {
			r.seen = o.seen[k]
		}
	}
	out := make([]revision, 0, len(byRev))
	for _, r := range byRev {
		slices.SortFunc(r.changes, func(a, b change) int { return cmp.Compare(a.subN, b.subN) })
		slices.Sort(r.ranges)
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b revision) int { return cmp.Compare(a.rev, b.rev) })
	return out
}
