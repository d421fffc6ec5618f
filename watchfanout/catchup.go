package watchfanout

import (
	"context"
	"slices"

	"pontoon/shard"
)

// readShareBytesMin is the least that one range of several is asked for in a step.
const readShareBytesMin = 16 << 10

// readResult is what one step of reading history has brought.
type readResult struct {
	evs    []*shard.Event
	from   int64
	next   int64 // everything below it is in evs or was before
	noRoom bool  // nothing was read: the reader of the stream is too slow
	err    error
}

// read starts a step of reading history up to what the lane has released.
func (d *dispatcher) read(w *watch) {
	w.setMode(modeReading)
	w.token++
	token, parts, from, to := w.token, partsOf(d.rangeMap, w.span()), w.pos.Load()+1, w.lane.Load().m.released
	d.h.readers.add(task{w: w, run: func() {
		res := &readResult{from: from, next: from}
		if w.st.room(w) {
			d.h.stats.reads.Add(int64(len(parts)))
			ctx, cancel := context.WithTimeout(d.h.ctx, readTimeout)
			res.evs, res.next, res.err = readStep(ctx, d.h.cfg.History, parts, from, to, d.h.cfg.ReadBytes)
			cancel()
		} else {
			res.noRoom = true
		}
		d.in.post(message{kind: msgRead, w: w, token: token, more: res})
	}})
}

// readStep reads the parts range by range, each no further than the one before could say, and
// returns whole revisions in order. Everything below next is in the answer.
func readStep(ctx context.Context, h History, parts []part, from, to int64, maxBytes int) (evs []*shard.Event, next int64, err error) {
	next = to + 1
	share := max(maxBytes/len(parts), min(maxBytes, readShareBytesMin))
	for _, p := range parts {
		got, n, err := h.Read(ctx, p.id, []shard.Span{p.span}, from, next-1, share)
		if err != nil {
			return nil, from, err
		}
		evs = append(evs, got...)
		if next = min(next, n); next <= from {
			return nil, from, nil
		}
	}
	evs = slices.DeleteFunc(evs, func(e *shard.Event) bool { return e.Rev() >= next })
	if len(parts) > 1 {
		slices.SortFunc(evs, (*shard.Event).Compare)
	}
	return evs, next, nil
}

// onRead takes what a step has brought.
func (d *dispatcher) onRead(m *message) {
	w, res := m.w, m.more.(*readResult)
	if w.mode != modeReading || w.token != m.token {
		return // another lane now, or cancelled
	}
	if c := asCompacted(res.err); c != nil {
		d.end(w, c.Revision)
		return
	}
	if res.err != nil {
		d.h.cfg.Logger.Debug("reading history for a watcher failed, will try again",
			"from", res.from, "err", res.err)
	}
	if !res.noRoom && res.next <= res.from {
		d.pause(w)
		return
	}
	if evs := w.wanted(res.evs); len(evs) > 0 {
		w.st.push(w, evs, weigh(evs))
		d.touch(w.st)
	}
	if !res.noRoom {
		p := w.position()
		p.read(res.next)
		w.move(p)
	}
	d.decide(w)
}

// pause lets the watch decide again after a while.
func (d *dispatcher) pause(w *watch) {
	token := w.token
	d.h.cfg.AfterFunc(d.h.cfg.RetryDelay, func() {
		d.in.post(message{kind: msgAgain, w: w, token: token})
	})
}
