package watchfanout

import (
	"context"
	"errors"
	"slices"

	"pontoon/shard"
)

// readShareBytesMin is the least that one range of several is asked for in a step.
const readShareBytesMin = 16 << 10

// catchup brings watches that are not on the live path back to it: it has their starts checked, reads
// history for them, and waits for their lanes and their readers.
type catchup struct {
	d *dispatcher
}

// readResult is what one step of reading history has brought.
type readResult struct {
	evs    []*shard.Event
	from   int64
	next   int64 // everything below it is in evs or was before
	noRoom bool  // nothing was read: the reader of the stream is too slow
	err    error
}

// decide does the next step of a watch that is not on the live path. The watch's lane is not
// in the middle of a delivery.
func (c *catchup) decide(w *watch) {
	l, p := w.lane.Load(), w.position()
	room, state := w.st.room(w), l.state(w.span())
	for p.next(state, room) == stepPark {
		w.setMode(modeParked)
		if w.st.askRoom(w) {
			return
		}
		room = true // there is, meanwhile
	}
	switch p.next(state, room) {
	case stepCheck:
		w.setMode(modeChecking)
		c.d.h.current.checkStart(w)
	case stepJoin:
		l.join(w)
	case stepRead:
		c.read(w)
	case stepWait:
		w.setMode(modeWaiting)
		l.waiting.add(w)
		if state.horizon == unknown {
			c.d.closing.require(l, 1) // a feed that has said nothing, or does not bring what is watched: any item of it will do
		} else {
			c.d.closing.require(l, state.horizon)
		}
	}
}

// onChecked goes on with a watch whose start has been asked for.
func (c *catchup) onChecked(m *message) {
	w := m.w
	if w.mode != modeChecking {
		return // cancelled, or checked before
	}
	p := w.position()
	if p.pos+1 < m.rev {
		c.end(w, m.rev)
		return
	}
	p.unchecked = false
	w.move(p)
	c.decide(w)
}

// read starts a step of reading history up to what the lane has released.
func (c *catchup) read(w *watch) {
	d := c.d
	w.setMode(modeReading)
	w.token++
	token, parts, from, to := w.token, partsOf(d.lanes.rangeMap, w.span()), w.pos.Load()+1, w.lane.Load().m.released
	d.h.readers.add(task{w: w, run: func() {
		res := &readResult{from: from, next: from}
		if w.st.room(w) {
			ctx, cancel := context.WithTimeout(d.h.ctx, readTimeout)
			res.evs, res.next, res.err = readStep(ctx, remembered{d.h}, parts, from, to, d.h.cfg.ReadBytes)
			cancel()
		} else {
			res.noRoom = true
		}
		d.in.post(message{kind: msgRead, w: w, token: token, more: res})
	}})
}

// remembered is history, which is read from the ring of the range's feed if that has all of it.
type remembered struct{ h *Hub }

var _ History = remembered{}

// Read implements History.
func (r remembered) Read(ctx context.Context, id shard.RangeID, spans []shard.Span, from, to int64, maxBytes int) ([]*shard.Event, int64, error) {
	if f := r.h.feeds.find(id); f != nil {
		if evs, next, ok := f.rings.read(&f.ring, spans, from, to, maxBytes); ok {
			r.h.stats.spared.Add(1)
			return evs, next, nil
		}
	}
	r.h.stats.reads.Add(1)
	return r.h.cfg.History.Read(ctx, id, spans, from, to, maxBytes)
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
func (c *catchup) onRead(m *message) {
	w, res := m.w, m.more.(*readResult)
	if w.mode != modeReading || w.token != m.token {
		return // another lane now, or cancelled
	}
	var compacted *shard.CompactedError
	if errors.As(res.err, &compacted) {
		c.end(w, compacted.Revision)
		return
	}
	if res.err != nil {
		c.d.h.cfg.Logger.Debug("reading history for a watcher failed, will try again",
			"from", res.from, "err", res.err)
	}
	if !res.noRoom && res.next <= res.from {
		c.pause(w)
		return
	}
	if evs := w.missing(res.evs); len(evs) > 0 {
		w.st.push(w, evs, weigh(evs))
		c.d.ready.add(w.st)
	}
	if !res.noRoom {
		p := w.position()
		p.read(res.next)
		w.move(p)
	}
	c.decide(w)
}

// pause lets the watch decide again after a while.
func (c *catchup) pause(w *watch) {
	token := w.token
	c.d.h.cfg.AfterFunc(c.d.h.cfg.RetryDelay, func() {
		c.d.in.post(message{kind: msgAgain, w: w, token: token})
	})
}

// end tells a watch's reader that its next revision is compacted away, and forgets the watch.
func (c *catchup) end(w *watch, compacted int64) {
	w.st.finish(w, max(compacted, c.d.h.current.compacted.Load()))
	c.d.ready.add(w.st)
	c.d.remove(w)
}
