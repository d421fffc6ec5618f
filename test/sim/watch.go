package sim

import (
	"fmt"
	"slices"
	"time"

	"pontoon/shard"
	"pontoon/watchfanout"
)

const watcherCount = 6

// watcher watches a span, and goes on at another node where its own one has died.
type watcher struct {
	w      *world
	id     int
	span   shard.Span
	life   *life // nil: between two nodes
	stream *watchfanout.Stream
	opened int
	polls  bool // a poll is due
	lazy   time.Duration
	pos    int64 // everything at or below it was delivered
	end    int64 // to be reached; 0: no end yet
	parts  []part
	rights rights
}

// part is what came between two compactions: everything above from, up to to.
type part struct {
	from, to int64
	got      []seen
}

type seen struct {
	rev     int64
	changes []change
}

func (w *world) beginWatchers() {
	for i := range watcherCount {
		x := &watcher{w: w, id: i, span: shard.All}
		if i%2 == 1 {
			c := &client{w: w}
			key, end := c.span(true)
			x.span = shard.FromEtcd(key, end)
		}
		x.drawRights()
		w.watches = append(w.watches, x)
		w.after(w.between(time.Second, 6*time.Second), fmt.Sprintf("watch %d", i), x.begin)
	}
}

func (x *watcher) at() shard.NodeID {
	if x.life == nil {
		return 0
	}
	return x.life.n.id
}

// begin starts anew, in the past or at what is current.
func (x *watcher) begin() {
	if len(x.parts) > 0 { // the end has come before
		return
	}
	from := max(0, x.w.hist.acked-int64(x.w.rng.IntN(40)))
	if x.w.roll(0.3) {
		from = 0
	}
	x.pos = from
	x.parts = append(x.parts, part{from: from, to: from})
	x.open()
}

// open watches from the present position on, at some node.
func (x *watcher) open() {
	w := x.w
	if len(x.parts) == 0 { // everybody is to reach the end, and this one has not begun
		x.begin()
		return
	}
	l := w.someLife()
	if l == nil || l.n.paused {
		w.after(100*time.Millisecond, fmt.Sprintf("watch %d", x.id), x.open)
		return
	}
	x.opened++
	x.life, x.polls, x.lazy, x.rights.held = l, false, 0, nil
	if w.roll(0.3) {
		x.lazy = w.scaled(time.Millisecond, 2*time.Second)
	}
	opened := x.opened
	o := watchfanout.StreamOptions{Notify: func() {
		w.post(fmt.Sprintf("notify %d", x.id), 0, func() { x.notified(opened) })
	}}
	if w.roll(0.3) {
		o.WatcherEvents = 2 + w.rng.IntN(10)
	}
	x.stream = l.fans.hub.NewStream(o)
	if err := x.stream.Watch(watchfanout.WatchRequest{ID: 1, Span: x.span, Start: x.pos + 1, PrevKV: w.roll(0.5)}); err != nil {
		x.stream.Close() // the node has only just started: it knows no ranges yet
		x.life = nil
		x.opened++
		w.after(w.between(time.Millisecond, 100*time.Millisecond), fmt.Sprintf("watch %d", x.id), x.open)
		return
	}
	if x.end > 0 {
		x.stream.RequestProgress(x.end)
	}
	w.after(w.scaled(100*time.Millisecond, 5*time.Second), fmt.Sprintf("progress %d", x.id), func() { x.ask(opened) })
	w.after(w.scaled(time.Second, 30*time.Second), fmt.Sprintf("move %d", x.id), func() { x.move(opened) })
}

// ask wants a progress notification.
func (x *watcher) ask(opened int) {
	if x.opened != opened || !x.lives() {
		return
	}
	if rev := x.w.hist.acked; rev > 0 {
		x.stream.RequestProgress(rev)
	}
	x.w.after(x.w.scaled(100*time.Millisecond, 5*time.Second), fmt.Sprintf("progress %d", x.id), func() { x.ask(opened) })
}

// move goes on at another node, as a client does whose connection broke.
func (x *watcher) move(opened int) {
	if x.opened == opened && x.end == 0 {
		x.stream.Close()
		x.opened++
		x.open()
	}
}

// lives is false once the node has died: then the watch goes on elsewhere.
func (x *watcher) lives() bool {
	if x.life != nil && x.life.alive {
		return true
	}
	x.opened++
	x.life = nil
	x.w.after(x.w.scaled(time.Millisecond, time.Second), fmt.Sprintf("watch %d", x.id), x.open)
	return false
}

func (x *watcher) notified(opened int) {
	if x.opened != opened || x.polls {
		return
	}
	x.polls = true
	x.w.after(x.w.between(0, 100*time.Microsecond+x.lazy), fmt.Sprintf("poll %d", x.id), func() {
		if x.opened == opened && x.life != nil && x.life.alive {
			x.polls = false
			if x.rights.held == nil { // else it goes on when the oracle has been asked
				x.poll()
			}
		}
	})
}

func (x *watcher) poll() {
	for x.w.err == nil {
		ds := x.stream.Poll(nil, 4)
		if len(ds) == 0 || !x.sure(ds) || !x.deliver(ds) {
			return
		}
	}
}

// deliver takes what was polled, if it may have it; false: the watch has ended, or begun anew.
func (x *watcher) deliver(ds []watchfanout.Delivery) bool {
	if !x.mayWatch() {
		return false
	}
	for i := range ds {
		if !x.take(&ds[i]) {
			return false
		}
	}
	return true
}

// take takes a delivery; false: the watch has ended, and begun anew.
func (x *watcher) take(d *watchfanout.Delivery) bool {
	w := x.w
	if d.CompactRevision > 0 {
		if d.CompactRevision <= x.pos+1 || d.CompactRevision > w.hist.compacted {
			w.failf("watcher %d at %d was ended by a compaction at %d; the highest is %d", x.id, x.pos, d.CompactRevision, w.hist.compacted)
		}
		x.stream.Close()
		x.pos = d.CompactRevision - 1
		x.parts = append(x.parts, part{from: x.pos, to: x.pos})
		x.opened++
		x.open()
		return false
	}
	p := &x.parts[len(x.parts)-1]
	last := x.pos
	for i := 0; i < len(d.Events); {
		rev := d.Events[i].Rev()
		s := seen{rev: rev}
		for ; i < len(d.Events) && d.Events[i].Rev() == rev; i++ {
			s.changes = append(s.changes, changeOf(d.Events[i]))
		}
		if rev <= last {
			w.failf("watch order: watcher %d was given revision %d after %d", x.id, rev, last)
			return false
		}
		if err := w.admin.facts.event(x.rights.who, rev); err != nil {
			w.failf("%w", err)
			return false
		}
		last = rev
		p.got = append(p.got, s)
		w.stats.WatchEvents += len(s.changes)
	}
	if len(d.Events) == 0 {
		w.stats.Progress++
	}
	w.note("watcher %d: %d events up to %d", x.id, len(d.Events), d.Revision)
	x.pos = max(last, d.Revision)
	p.to = x.pos
	return true
}

func (x *watcher) wantEnd(rev int64) {
	x.end = rev
	x.rights.who = nil
	if x.life != nil && x.life.alive {
		x.stream.RequestProgress(rev)
	} else {
		x.lives()
	}
}

// checkWatchers holds what was delivered against the history: everything in the span above where a part
// began and up to where it has come, and nothing else.
func (w *world) checkWatchers() error {
	history := w.orders.history()
	for _, x := range w.watches {
		for _, p := range x.parts {
			var want []seen
			for _, r := range history {
				if r.rev <= p.from || r.rev > p.to {
					continue
				}
				s := seen{rev: r.rev}
				for _, c := range r.changes {
					if x.span.Contains([]byte(c.key)) {
						s.changes = append(s.changes, c)
					}
				}
				if len(s.changes) > 0 {
					want = append(want, s)
				}
			}
			if err := sameEvents(x, want, p.got); err != nil {
				return err
			}
		}
	}
	return nil
}

func sameEvents(x *watcher, want, got []seen) error {
	for i := range max(len(want), len(got)) {
		switch {
		case i >= len(got):
			return fmt.Errorf("watch complete: watcher %d of %v has missed revision %d: %v", x.id, x.span, want[i].rev, want[i].changes)
		case i >= len(want):
			return fmt.Errorf("watch: watcher %d of %v was given revision %d, which did not happen: %v", x.id, x.span, got[i].rev, got[i].changes)
		case want[i].rev < got[i].rev:
			return fmt.Errorf("watch complete: watcher %d of %v has missed revision %d: %v", x.id, x.span, want[i].rev, want[i].changes)
		case want[i].rev > got[i].rev || !slices.Equal(want[i].changes, got[i].changes):
			return fmt.Errorf("watch: watcher %d of %v was given %v at revision %d, not %v", x.id, x.span, got[i].changes, got[i].rev, want[i])
		}
	}
	return nil
}
