package watchfanout

import (
	"bytes"

	"pontoon/shard"
)

// combine returns what a hub takes the map to be where base is the newest that it was told of, and known what it knew. That is
// base, with two exceptions. What is newer in known, because a feed has told of it first, stays. And a range that waits
// for its feed stays as it was, with what has become of it since: what its feed tells needs no history. Those are the
// second result. Pure.
func combine(known, base *shard.Map, waits func(o, now shard.Descriptor) bool) (*shard.Map, []shard.RangeID) {
	if known == nil {
		return base, nil
	}
	next := base
	ahead, _ := known.Changes(base)
	if m, err := base.Apply(ahead...); err == nil {
		next = m
	}
	var behind []shard.Descriptor
	var within, waiting []shard.RangeID
	changed, _ := next.Changes(known)
	for _, now := range changed {
		o, ok := known.Get(now.ID)
		if !ok || now.Generation <= o.Generation || !waits(o, now) {
			continue
		}
		if ids, ok := becomes(next, known, o); ok {
			behind, within, waiting = append(behind, o), append(within, ids...), append(waiting, o.ID)
		}
	}
	if len(behind) == 0 {
		return next, nil
	}
	m, err := next.Update(next.Version(), behind, within)
	if err != nil {
		return next, nil
	}
	return m, waiting
}

// becomes returns the other ranges of next that hold keys of o, if these are what became of it alone: it has kept its
// start, no range that was known has taken any of it, and none of them reaches beyond it.
func becomes(next, known *shard.Map, o shard.Descriptor) (others []shard.RangeID, ok bool) {
	var end []byte
	first := true
	for d := range next.Overlapping(o.Span) {
		switch _, was := known.Get(d.ID); {
		case first && (d.ID != o.ID || !bytes.Equal(d.Span.Start, o.Span.Start)), !first && was:
			return nil, false
		case !first:
			others = append(others, d.ID)
		}
		first, end = false, d.Span.End
	}
	return others, shard.CompareEnd(end, o.Span.End) == 0
}

// cutAt returns both parts of a range that is cut at a border, and whether that is the border of the range as it is.
func cutAt(d shard.Descriptor, b *shard.Border) (left, right shard.Descriptor, ok bool) {
	left, right = d.Cut(b.At, b.Child)
	return left, right, d.Span.PartedBy(b.At) && b.Generation == left.Generation && b.Child != 0
}
