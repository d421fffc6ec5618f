package granted

import (
	"container/list"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// rangesMax bounds the ranges that are remembered, in some 100 bytes each. What was given to the one that has got nothing for longest is forgotten first:
// up to there the floor rises.
const rangesMax = 1 << 15

// toldMax bounds the ranges in one answer.
const toldMax = 1 << 10

// Share is how many of the revisions of an answer a range gets, and in which generation it uses them. Range 0: they may go anywhere.
type Share struct {
	Range      shard.RangeID
	Generation shard.Generation
	Count      int64
}

// Table is the memory of one leadership. The zero value is of none.
type Table struct {
	floor  int64
	seen   *shard.Map // of the latest revisions; nil: none has been given
	byID   map[shard.RangeID]*list.Element
	recent list.List // of *grant, who got the highest revision last
}

type grant struct {
	id   shard.RangeID
	gen  shard.Generation
	last int64
}

// Lead begins a leadership: of the revisions up to last nobody knows any more whose they are.
func (t *Table) Lead(last int64) {
	floor := last
	if mutate.On(mutate.GrantsForgotten) {
		floor = 0
	}
	*t = Table{floor: floor, byID: map[shard.RangeID]*list.Element{}}
	t.recent.Init()
}

// Note is told of n revisions from first on, as they were given out, of whose they are, in order, and of the map that the group had then. What no share
// covers may be anybody's.
func (t *Table) Note(first, n int64, shares []Share, now *shard.Map) {
	next := first
	for _, s := range shares {
		if s.Range == 0 || s.Count <= 0 || s.Count > first+n-next {
			break
		}
		next += s.Count
		t.note(s, next-1, now)
	}
	unnamed := next < first+n && !mutate.On(mutate.GrantsUnnamed)
	changed := now != t.seen && !mutate.On(mutate.GrantsUnsettled) // whatever borders the map has are older than the next revision
	if t.seen = now; unnamed || changed {
		t.floor = max(t.floor, first+n-1)
	}
}

func (t *Table) note(s Share, last int64, now *shard.Map) {
	e, known := t.byID[s.Range]
	if known {
		t.recent.MoveToFront(e)
	} else {
		e = t.recent.PushFront(&grant{id: s.Range})
		t.byID[s.Range] = e
	}
	g := e.Value.(*grant)
	if (!known || g.gen != s.Generation) && !mutate.On(mutate.GrantsFirst) {
		if d, _ := now.Get(s.Range); d.Generation != s.Generation {
			t.floor = max(t.floor, last) // under borders of which the group has not heard yet, or does not hear any more
		}
	}
	g.gen, g.last = s.Generation, last
	if len(t.byID) > rangesMax {
		oldest := t.recent.Remove(t.recent.Back()).(*grant)
		delete(t.byID, oldest.id)
		t.floor = max(t.floor, oldest.last)
	}
}

// Since returns who was given revisions above since, with the highest that each was given, and the floor above which that is all of them: since, or a higher one, where it is not known, or where
// there are more than toldMax.
func (t *Table) Since(since int64) (floor int64, last map[shard.RangeID]int64) {
	floor, last = max(t.floor, since), map[shard.RangeID]int64{}
	for e := t.recent.Front(); e != nil; e = e.Next() {
		g := e.Value.(*grant)
		if g.last <= floor {
			break
		}
		if len(last) == toldMax {
			return g.last, last
		}
		last[g.id] = g.last
	}
	return floor, last
}
