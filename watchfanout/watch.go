package watchfanout

import (
	"strings"
	"sync/atomic"
	"unsafe"

	"pontoon/shard"
)

type mode uint8

const (
	modeNew      mode = iota // not yet seen by its dispatcher
	modeChecking             // its start is being asked for
	modeLive                 // fed by its lane
	modeWaiting              // for its lane to move
	modeReading              // a read of history is under way, or a pause before the next
	modeParked               // for its reader
	modeEnded                // compacted away or cancelled
)

// watch is one watcher inside the hub, and its own place in the index and in all lists: a node may
// hold a million of them, so each is one object of 160 bytes beside its keys, and what few need is
// in more. Its dispatcher owns it; the groups at the end are the exceptions.
type watch struct {
	st   *Stream
	id   int64
	keys string // the start of its span, then the end, or what the end has beyond the start

	more             *more
	left, right, top *watch // in the index's tree, as first of its span; see index
	before, after    *watch // of the same span in the same lane
	prev, next       *watch // of the same stream
	cut              uint32 // where in keys the end begins
	token            uint32 // tells answers to this state of the watch from old ones
	kind             spanKind
	wish             wish
	tag              uint8
	mode             mode
	unchecked, begun bool // as in position

	// Guarded by st.mu.
	gone        bool   // nothing more may be polled
	asksRoom    bool   // tell the dispatcher when there is room
	queued      uint32 // events
	merge       uint32 // 1 + where in the Poll under way its events go
	queuedBytes int64
	polled      int64 // everything at or below it has left the queue

	// Written by the dispatcher, read by anybody.
	live atomic.Bool // on the lane's live path
	at   uint32      // read by nobody else: 1 + where in lane.collected its span's events are
	lane atomic.Pointer[lane]
	pos  atomic.Int64 // as in position, stored once the queue holds what it names
}

// over reports whether nobody reads it any more.
func (w *watch) over() bool {
	w.st.mu.Lock()
	defer w.st.mu.Unlock()
	return w.gone
}

// more is what few watches need.
type more struct {
	wants []int64 // progress asked for, ascending
}

// spanKind is what the end of a span is.
type spanKind uint8

const (
	spanBounded spanKind = iota
	spanPoint            // exactly the start
	spanOpen             // everything from the start on
)

// wish is what a watcher wants to get.
type wish uint8

const (
	wishNoPut wish = 1 << iota
	wishNoDelete
	wishPrev
)

// setSpan keeps a copy of the span, in one piece.
func (w *watch) setSpan(s shard.Span) {
	rest := s.End
	switch {
	case s.IsPoint():
		w.kind, rest = spanPoint, rest[len(s.Start):]
	case s.Unbounded():
		w.kind = spanOpen
	}
	var b strings.Builder // its String copies nothing
	b.Grow(len(s.Start) + len(rest))
	b.Write(s.Start)
	b.Write(rest)
	w.cut = uint32(len(s.Start))
	w.keys = b.String()
}

func (w *watch) start() string { return w.keys[:w.cut] }

// end is the first key behind the span, if there is one.
func (w *watch) end() string {
	if w.kind == spanPoint {
		return w.keys
	}
	return w.keys[w.cut:]
}

// span returns the span itself, not a copy.
func (w *watch) span() shard.Span {
	s := shard.Span{Start: bytesOf(w.start())}
	if w.kind != spanOpen {
		s.End = bytesOf(w.end())
	}
	return s
}

// bytesOf returns the bytes of a string, which must not be written.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// covers reports whether key lies in the span.
func (w *watch) covers(key []byte) bool {
	return string(key) >= w.start() && w.endsBehind(key)
}

func (w *watch) endsBehind(key []byte) bool { return w.kind == spanOpen || string(key) < w.end() }

// sameSpan reports whether both watch exactly the same.
func (w *watch) sameSpan(o *watch) bool {
	return w.kind == o.kind && w.cut == o.cut && w.keys == o.keys
}

// wanted returns the part of evs, which match the watch's span or lie in the lane's recent
// events, that the watch is to get.
func (w *watch) wanted(evs []*shard.Event) []*shard.Event {
	keep := make([]*shard.Event, 0, len(evs))
	for _, e := range evs {
		if e.Rev() > w.pos.Load() && w.passes(e) && w.covers(e.KV.Key) {
			keep = append(keep, e)
		}
	}
	return keep
}

func (w *watch) passes(e *shard.Event) bool {
	if e.Delete {
		return w.wish&wishNoDelete == 0
	}
	return w.wish&wishNoPut == 0
}

func (w *watch) setMode(m mode) {
	slow := func(m mode) bool { return m == modeChecking || m == modeWaiting || m == modeReading || m == modeParked }
	if a, b := slow(w.mode), slow(m); a != b {
		n := int64(1)
		if a {
			n = -1
		}
		w.st.h.stats.slow.Add(n)
	}
	w.mode = m
}

func (w *watch) position() position {
	return position{pos: w.pos.Load(), unchecked: w.unchecked, begun: w.begun}
}

// move notes where the watch stands, once its queue holds what that names.
func (w *watch) move(p position) {
	w.unchecked, w.begun = p.unchecked, p.begun
	w.pos.Store(p.pos)
}

// progress is position.progress as things stand.
func (w *watch) progress() (int64, bool) {
	l := w.lane.Load()
	if l == nil {
		return 0, false
	}
	p := w.position()
	rev, ok := p.progress(w.mode == modeLive, l.m.released)
	w.begun = p.begun
	return rev, ok
}

// wants are the progress requests that the watch keeps open.
func (w *watch) wants() []int64 {
	if w.more == nil {
		return nil
	}
	return w.more.wants
}

func (w *watch) setWants(wants []int64) {
	switch {
	case len(wants) == 0:
		w.more = nil
	case w.more == nil:
		w.more = &more{wants: wants}
	default:
		w.more.wants = wants
	}
}
