package watchfanout

import (
	"sync/atomic"

	"pontoon/shard"
)

type mode uint8

const (
	modeNew     mode = iota // not yet seen by its dispatcher
	modeLive                // fed by its lane
	modeWaiting             // for its lane to move
	modeReading             // a read of history is under way, or a pause before the next
	modeParked              // for its reader
	modeEnded               // compacted away or cancelled
)

// watch is one watcher inside the hub. Its dispatcher owns it; the groups at the end are the
// exceptions.
type watch struct {
	st              *Stream
	id              int64
	spans           []shard.Span // normalized
	noPut, noDelete bool
	prevKV          bool

	position
	mode   mode
	lane   *lane
	parts  []part
	places []place  // in lane.live
	out    []*Event // collected by the lane's delivery
	token  uint64   // tells answers to this state of the watch from old ones
	wants  []int64  // progress asked for, ascending

	// Read by anybody.
	live   atomic.Pointer[lane] // the lane while on the live path
	handed atomic.Int64         // pos, stored once the queue holds what it names

	// Guarded by st.mu.
	queued      int   // events
	queuedBytes int   //
	polled      int64 // everything at or below it has left the queue
	gone        bool  // nothing more may be polled
	asksRoom    bool  // tell the dispatcher when there is room
	merge       int   // 1 + where in the Poll under way its events go
	mergeRound  uint64
}

// wanted returns the part of evs, which match the watch's spans or lie in the lane's recent
// events, that the watch is to get.
func (w *watch) wanted(evs []*Event) []*Event {
	keep := make([]*Event, 0, len(evs))
	for _, e := range evs {
		if e.Rev() > w.pos && w.passes(e) && w.covers(e.KV.Key) {
			keep = append(keep, e)
		}
	}
	return keep
}

func (w *watch) passes(e *Event) bool {
	return !(e.Delete && w.noDelete || !e.Delete && w.noPut)
}

func (w *watch) covers(key []byte) bool {
	for i := range w.spans {
		if w.spans[i].Contains(key) {
			return true
		}
	}
	return false
}

func (w *watch) setMode(m mode) {
	slow := func(m mode) bool { return m == modeWaiting || m == modeReading || m == modeParked }
	if a, b := slow(w.mode), slow(m); a != b {
		n := int64(1)
		if a {
			n = -1
		}
		w.st.h.stats.slow.Add(n)
	}
	w.mode = m
}

// progress is position.progress as things stand.
func (w *watch) progress() (int64, bool) {
	if w.lane == nil {
		return 0, false
	}
	return w.position.progress(w.mode == modeLive, w.lane.m.released)
}
