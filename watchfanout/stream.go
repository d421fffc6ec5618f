package watchfanout

import (
	"fmt"
	"slices"
	"sync"

	"pontoon/shard"
)

// pollMergeEventsMax is how many events of one watcher Poll joins into one delivery.
const pollMergeEventsMax = 1024

// Stream groups watchers whose deliveries one goroutine reads: wait for Ready, then Poll until
// it returns nothing. Methods may be called by any goroutine; Poll by one at a time.
type Stream struct {
	h    *Hub
	d    *dispatcher
	opts StreamOptions
	wake chan struct{} // nil with opts.Notify

	// Owned by the dispatcher.
	newest   *watch // in d.roster; the others by prev
	place    int    // in d.roster
	requests progressRequests
	blocker  *watch // was in the way of requests[0]
	heard    uint64 // msgWatch heard: for how many watches of mu.added a marker speaks
	ready    bool   // in d.ready
	answered bool   // a marker was queued while d.progress answered, with a hold on

	mu struct {
		sync.Mutex
		closed  bool
		watches map[int64]*watch
		out     sendQueue
		load    load
		parked  []*watch // with readerAskedRoom
		added   uint64   // watches for which msgWatch was posted
	}
}

// entry is one thing to deliver: events, a marker, or the end of a watcher.
type entry struct {
	w       *watch // nil: a marker for the whole stream
	evs     []*shard.Event
	weight  int
	rev     int64
	compact int64
	heard   uint64 // of a marker for the whole stream
	since   int64  // of events: as in budget
}

// NewStream opens a stream; Close ends it.
func (h *Hub) NewStream(o StreamOptions) *Stream {
	s := &Stream{
		h:    h,
		d:    h.dispatchers[h.nextStream.Add(1)%uint64(len(h.dispatchers))],
		opts: o.withDefaults().within(h.cfg.DeliveryBytes),
	}
	if o.Notify == nil {
		s.wake = make(chan struct{}, 1)
	}
	s.mu.watches = make(map[int64]*watch)
	h.stats.streams.Add(1)
	s.opts.Group.join(s)
	return s
}

// Watch adds a watcher. Its deliveries may be polled from now on: a caller that has to say
// something first says it before the next Poll.
func (s *Stream) Watch(r WatchRequest) error {
	if r.Span.Empty() || r.Start <= 0 {
		return fmt.Errorf("watch of nothing or from revision %d: %w", r.Start, shard.ErrInvalid)
	}
	if err := s.h.admit(); err != nil {
		return err
	}
	w := &watch{st: s, id: r.ID, filter: filterOf(&r), unchecked: !r.FromNow}
	w.pos.Store(r.Start - 1)
	if err := s.insert(w); err != nil {
		s.h.stats.watchers.Add(-1)
		return err
	}
	return nil
}

// insert takes w in and tells the dispatcher, before Close or Cancel can tell it of the end.
func (s *Stream) insert(w *watch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return shard.ErrStopped
	}
	if s.mu.watches[w.id] != nil {
		return ErrWatcherExists
	}
	s.mu.watches[w.id] = w
	s.mu.added++
	s.d.in.post(message{kind: msgWatch, w: w})
	return nil
}

// Cancel removes a watcher: once it returns, Poll delivers nothing of it any more. It reports
// whether there was one.
func (s *Stream) Cancel(id int64) bool {
	s.mu.Lock()
	w := s.mu.watches[id]
	if w != nil {
		parked := w.reader == readerAskedRoom
		s.forgetLocked(w)
		if parked {
			s.mu.parked = slices.DeleteFunc(s.mu.parked, func(p *watch) bool { return p == w })
		}
		s.mu.load.tell(&s.opts)
	}
	s.mu.Unlock()
	if w == nil {
		return false
	}
	s.d.in.post(message{kind: msgUnwatch, w: w})
	return true
}

// forgetLocked takes w off the books; what is queued of it is skipped by Poll.
func (s *Stream) forgetLocked(w *watch) {
	delete(s.mu.watches, w.id)
	w.reader = readerGone
	s.emptyLocked(w)
	s.h.stats.watchers.Add(-1)
}

// emptyLocked says that nothing of w is to be delivered of what is queued.
func (s *Stream) emptyLocked(w *watch) {
	s.mu.load.add(-int(w.queued), -int(w.queuedBytes))
	s.h.stats.taken.Add(int64(w.queued))
	w.queued, w.queuedBytes = 0, 0
}

// Close removes all watchers.
func (s *Stream) Close() {
	s.mu.Lock()
	was := s.mu.closed
	s.mu.closed = true
	for _, w := range s.mu.watches {
		s.forgetLocked(w)
	}
	s.h.budget.left(s.mu.out.releaseAll())
	s.mu.out, s.mu.parked = sendQueue{}, nil
	s.mu.load.tell(&s.opts)
	s.mu.Unlock()
	if was {
		return
	}
	s.opts.Group.leave(s)
	s.h.stats.streams.Add(-1)
	s.d.in.post(message{kind: msgUnwatch, stream: s})
	s.signal()
}

// Ready receives when there may be something to Poll; never where StreamOptions.Notify is called in its place.
func (s *Stream) Ready() <-chan struct{} { return s.wake }

func (s *Stream) signal() {
	if s.opts.Notify != nil {
		s.opts.Notify()
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// RequestProgress asks for a marker (Delivery.ID StreamWide, Revision >= rev) as soon as every
// watcher of the stream has been handed everything at or below rev, which must not be above
// the current revision. Ready and Poll deliver it behind the events it speaks of. One marker
// may answer several requests. A watcher that starts in the future holds it back until then;
// one that is added before the marker was polled is waited for, too.
func (s *Stream) RequestProgress(rev int64) {
	s.d.in.post(message{kind: msgProgress, stream: s, rev: rev})
}

// RequestWatcherProgress is the same for one watcher; the marker carries its ID.
func (s *Stream) RequestWatcherProgress(id, rev int64) {
	s.mu.Lock()
	w := s.mu.watches[id]
	s.mu.Unlock()
	if w != nil {
		s.d.in.post(message{kind: msgProgress, w: w, rev: rev})
	}
}

// Spans returns what its watchers watch. The slices are shared and must not be written.
func (s *Stream) Spans() []shard.Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	spans := make([]shard.Span, 0, len(s.mu.watches))
	for _, w := range s.mu.watches {
		spans = append(spans, w.span())
	}
	return spans
}

// Watched lists its watchers, by id, with what they watch. The spans are shared and must not be written.
func (s *Stream) Watched() map[int64]shard.Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[int64]shard.Span, len(s.mu.watches))
	for id, w := range s.mu.watches {
		out[id] = w.span()
	}
	return out
}

// Progress returns the revision at or below which Poll has handed out everything, over all
// watchers (0 without watchers), and whether all of them are on the live path. A watcher that
// starts in the future counts with the revision before its start.
func (s *Stream) Progress() (rev int64, synced bool) {
	s.mu.Lock()
	watches := make([]*watch, 0, len(s.mu.watches))
	for _, w := range s.mu.watches {
		watches = append(watches, w)
	}
	s.mu.Unlock()
	low := unknown
	synced = true
	for _, w := range watches {
		got, live := s.polledTo(w)
		low = min(low, got)
		synced = synced && live
	}
	if low == unknown {
		return 0, synced
	}
	return low, synced
}

// polledTo is Progress for one watch. What the dispatcher has handed out is read before the
// queue: what it names is in the queue by then, or has been polled. That the watch is still on
// the live path afterwards proves that the lane's revision was the watch's too.
func (s *Stream) polledTo(w *watch) (rev int64, live bool) {
	handed := w.pos.Load()
	if l := w.lane.Load(); l != nil && w.live.Load() {
		if released := l.released.Load(); w.live.Load() && w.lane.Load() == l {
			handed, live = max(handed, released), true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.queued > 0 {
		return w.polled, live
	}
	if !w.live.Load() {
		handed = min(handed, w.pos.Load()) // what was handed out may have been taken back, unread
	}
	return max(w.polled, handed), live
}

// push queues events regardless of the bounds; the caller has asked for room.
func (s *Stream) push(w *watch, evs []*shard.Event, weight int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.reader != readerGone {
		s.pushLocked(w, evs, weight)
		s.d.shedding.pushedLocked(s, evs, 1)
	}
}

// pushLocked is followed by shedding.pushedLocked before the lock is given back.
func (s *Stream) pushLocked(w *watch, evs []*shard.Event, weight int) {
	n := len(evs)
	s.mu.load.add(n, weight)
	w.backlog.add(n, weight)
	s.d.ready.events += int64(n)
	s.d.shedding.entries += int64(s.mu.out.push(entry{w: w, evs: evs[:n:n], weight: weight, rev: evs[n-1].Rev(), since: s.d.shedding.now}))
}

// room reports whether the watch may queue more.
func (s *Stream) room(w *watch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return w.reader == readerGone || !s.mu.load.full(&s.opts, &w.backlog)
}

// askRoom has msgRoom sent when the queue is low; false if it is already.
func (s *Stream) askRoom(w *watch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.reader == readerGone {
		return true // msgUnwatch is on its way
	}
	if s.mu.load.low(&s.opts, &w.backlog) {
		return false
	}
	if w.reader == readerTakes {
		w.reader = readerAskedRoom
		s.mu.parked = append(s.mu.parked, w)
	}
	return true
}

// enqueueMarker queues a marker for w, or for all if w is nil. Markers in a row become one.
func (s *Stream) enqueueMarker(w *watch, rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return
	}
	s.mu.out.enqueueMarker(entry{w: w, rev: rev, heard: s.heard})
}

// finish queues the end of w.
func (s *Stream) finish(w *watch, compact int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.out.push(entry{w: w, compact: compact})
}
