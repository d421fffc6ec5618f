package watchfanout

import (
	"sync/atomic"

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

// slow reports whether a watch of that mode is behind the live path.
func (m mode) slow() bool {
	return m == modeChecking || m == modeWaiting || m == modeReading || m == modeParked
}

// watch is one watcher inside the hub, and its own place in the index and in all lists: a node may
// hold a million of them, so each is one object of 160 bytes beside its keys, and what few need is
// in more. Its dispatcher owns it; reader and backlog are guarded by st.mu, and what is atomic is
// written by the dispatcher and read by anybody.
type watch struct {
	st *Stream
	id int64
	filter
	more       *more
	indexLinks        // in its lane's index, while it is live
	prev, next *watch // in its dispatcher's roster: of the same stream

	token              uint32 // tells answers to this state of the watch from old ones
	mode               mode
	unchecked, started bool // as in position
	reader             readerState

	live atomic.Bool // on the lane's live path
	at   uint32      // 1 + where in lane.collected its span's events are
	lane atomic.Pointer[lane]
	pos  atomic.Int64 // as in position, stored once the queue holds what it names
	backlog
}

// abandoned reports whether nobody reads it any more.
func (w *watch) abandoned() bool {
	w.st.mu.Lock()
	defer w.st.mu.Unlock()
	return w.reader == readerGone
}

// more is what few watches need.
type more struct {
	requests progressRequests
}

// missing returns the part of evs, which match the watch's span or lie in the lane's recent
// events, that the watch is still to get.
func (w *watch) missing(evs []*shard.Event) []*shard.Event {
	keep := make([]*shard.Event, 0, len(evs))
	for _, e := range evs {
		if e.Rev() > w.pos.Load() && w.passes(e) && w.covers(e.KV.Key) {
			keep = append(keep, e)
		}
	}
	return keep
}

func (w *watch) setMode(m mode) {
	stats := &w.st.h.stats
	recount(&stats.slow, w.mode.slow(), m.slow())
	recount(&stats.parked, w.mode == modeParked, m == modeParked)
	w.mode = m
}

// recount keeps the number of those that are something, of which one was and is, or not.
func recount(n *atomic.Int64, was, is bool) {
	switch {
	case is && !was:
		n.Add(1)
	case was && !is:
		n.Add(-1)
	}
}

func (w *watch) position() position {
	return position{pos: w.pos.Load(), unchecked: w.unchecked, started: w.started}
}

// move notes where the watch stands, once its queue holds what that names.
func (w *watch) move(p position) {
	w.unchecked, w.started = p.unchecked, p.started
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
	w.started = p.started
	return rev, ok
}

// requests are the progress requests that the watch keeps open.
func (w *watch) requests() progressRequests {
	if w.more == nil {
		return nil
	}
	return w.more.requests
}

func (w *watch) setRequests(rs progressRequests) {
	switch {
	case len(rs) == 0:
		w.more = nil
	case w.more == nil:
		w.more = &more{requests: rs}
	default:
		w.more.requests = rs
	}
}

// readerState is how a watch stands with the reader of its stream.
type readerState uint8

const (
	readerTakes     readerState = iota
	readerAskedRoom             // the dispatcher is told when there is room again
	readerGone                  // nothing more may be polled
)

// backlog counts what of a watch waits for the reader of its stream.
type backlog struct {
	queued      uint32 // events
	joined      uint32 // 1 + where in the Poll under way its events go
	queuedBytes int64
	polled      int64 // everything at or below it has left the queue
}

func (b *backlog) add(events, bytes int) {
	b.queued += uint32(events)
	b.queuedBytes += int64(bytes)
}

// take accounts for an entry that has left the queue.
func (b *backlog) take(e *entry) {
	b.polled = max(b.polled, e.rev)
	b.queued -= uint32(len(e.evs))
	b.queuedBytes -= int64(e.weight)
}
