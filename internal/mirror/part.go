package mirror

import (
	"bytes"
	"errors"
	"slices"
	"sort"
	"time"

	"pontoon/internal/mirror/runs"
	"pontoon/internal/mutate"
	"pontoon/internal/patience"
	"pontoon/shard"
)

// What waits for a part that is being built is bounded; beyond, the build begins again.
const (
	queueEventsMax = 1 << 16
	queueBytesMax  = 64 << 20
)

// eventBytes is what an event takes beside its keys and values.
const eventBytes = 160

// part is what a range has of a span that is mirrored. The Set's lock guards it.
type part struct {
	span shard.Span
	id   shard.RangeID
	gen  shard.Generation
	auto bool // it is mirrored by itself
	room int  // bytes that what its range has of such parts may have while it is read

	state  *runs.State // nil: there is none, or it is being built
	closed int64       // nothing changes any more up to here
	marks  []mark      // what was closed when, for as long as history is kept
	told   int64       // the highest revision at which clients were answered

	build   *build    // nil: nobody builds it
	due     time.Time // not before is it built
	pause   time.Duration
	odd     time.Time // since when the map says something else of its range; 0: it does not
	size    int       // bytes, as was known last
	waiting []*wait   // lists that wait for this part to be closed
}

// mark says that at was closed at a time.
type mark struct {
	when time.Time
	at   int64
}

// build is a part that is being built: what its feed has told since it began.
type build struct {
	turn   int // times that the feed has begun anew
	events []*shard.Event
	bytes  int
	closed int64
	err    error         // it cannot go on
	wake   chan struct{} // something of this has changed
}

var (
	errMoved    = errors.New("the range has changed")
	errGap      = errors.New("its feed has a gap")
	errTooMuch  = errors.New("more has changed than is kept during a build")
	errTooLarge = errors.New("there is no room for it")
	errUnwanted = errors.New("it is not to be mirrored any more")
)

// parts are those of a Set, and where they are. The Set's lock guards them.
type parts struct {
	all  []*part // by span; disjoint
	byID map[shard.RangeID][]*part
}

func (ps *parts) insert(p *part) {
	i := sort.Search(len(ps.all), func(i int) bool { return bytes.Compare(ps.all[i].span.Start, p.span.Start) >= 0 })
	ps.all = slices.Insert(ps.all, i, p)
	ps.byID[p.id] = append(ps.byID[p.id], p)
}

func (ps *parts) remove(p *part) {
	if i := slices.Index(ps.all, p); i >= 0 {
		ps.all = slices.Delete(ps.all, i, i+1)
	}
	of := slices.DeleteFunc(ps.byID[p.id], func(o *part) bool { return o == p })
	if ps.byID[p.id] = of; len(of) == 0 {
		delete(ps.byID, p.id)
	}
}

// over lists the parts that overlap a span, in order; whole: they tile it.
func (ps *parts) over(span shard.Span) (over []*part, whole bool) {
	i := sort.Search(len(ps.all), func(i int) bool { return endsBehind(ps.all[i].span, span.Start) })
	next := span.Start
	whole = true
	for _, p := range ps.all[i:] {
		if !p.span.Overlaps(span) {
			break
		}
		whole = whole && bytes.Compare(p.span.Start, next) <= 0
		next = p.span.End
		over = append(over, p)
		if p.span.Unbounded() {
			return over, whole
		}
	}
	return over, whole && len(over) > 0 && !span.Unbounded() && shard.CompareEnd(next, span.End) >= 0
}

// closed is the lowest closed revision of a span.
func (ps *parts) closed(span shard.Span) (rev int64) {
	over, _ := ps.over(span)
	for i, p := range over {
		if i == 0 || p.closed < rev {
			rev = p.closed
		}
	}
	return rev
}

// endsBehind reports whether a span has keys from one on.
func endsBehind(s shard.Span, key []byte) bool {
	return s.Unbounded() || bytes.Compare(s.End, key) > 0
}

// took is what became of an item.
type took struct {
	closed bool  // more is closed
	void   error // the part is to be given up
	newer  bool  // the map is to be fetched
}

// take takes the next item of the range's feed.
func (p *part) take(item *shard.FeedItem) took {
	switch {
	case p.build != nil:
		return p.build.take(p, item)
	case p.state == nil:
		return took{}
	case item.Gap && !mutate.On(mutate.MirrorKeeps):
		return took{void: errGap}
	case item.Generation == p.gen+1 || mutate.On(mutate.MirrorGeneration):
		p.gen = item.Generation // without a border before it, and no gap: the keys are the same
	case item.Generation != p.gen:
		return took{void: errMoved, newer: true}
	}
	for _, ev := range item.Events {
		if !p.span.Contains(ev.KV.Key) {
			continue
		}
		if ev.Rev() <= p.closed {
			return took{void: errors.New("a change came after its revision had been closed")}
		}
		if err := p.state.Apply(ev); err != nil {
			return took{void: err}
		}
	}
	if item.Closed <= p.closed {
		return took{}
	}
	p.closed = item.Closed
	return took{closed: true}
}

func (b *build) take(p *part, item *shard.FeedItem) took {
	var out took
	if item.Gap || item.Generation < p.gen {
		b.turn++
		b.events, b.bytes, b.closed = nil, 0, 0
	}
	switch {
	case item.Generation > p.gen:
		b.err, out.newer = errMoved, true
	case item.Border != nil:
		b.err, out.newer = errMoved, true
	case item.Generation == p.gen:
		for _, ev := range item.Events {
			if p.span.Contains(ev.KV.Key) {
				b.events = append(b.events, ev)
				b.bytes += eventBytes + ev.DataBytes()
			}
		}
		if len(b.events) > queueEventsMax || b.bytes > queueBytesMax {
			b.err = errTooMuch
		}
		if item.Closed > b.closed {
			b.closed = item.Closed
		}
	}
	patience.Wake(b.wake)
	return out
}

// forget gives up states that are older than history goes back.
func (p *part) forget(now time.Time, history time.Duration) {
	p.marks = append(p.marks, mark{now, p.closed})
	n := 0
	for n < len(p.marks) && now.Sub(p.marks[n].when) > history {
		n++
	}
	if n > 0 {
		p.state.Forget(p.marks[n-1].at)
		p.marks = slices.Delete(p.marks, 0, n)
	}
}
