package front

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/patience"
	"pontoon/shard"
)

const (
	// widenMax is how often a feed is widened before it brings every key: each time costs a question to the oracle and a read of history.
	widenMax = 4
	// widenPause lies between two looks whether a feed can be widened that is moving, or goes on by history.
	widenPause = 20 * time.Millisecond
)

// narrows says of which keys the feeds are wanted that come by links: of those that are watched here, where they are few and nobody needs the whole range. A feed that brings less
// than is watched is subscribed to anew, which is to it as if its source had broken: see replays. So it goes on without a gap, and what is new of it counts from where it goes on.
type narrows struct {
	f      *feeds
	wanted func(id shard.RangeID) []shard.Span // as a shard.Cover has them; nil: every key
	wake   chan struct{}

	widened atomic.Uint64

	mu    sync.Mutex
	due   map[shard.RangeID]struct{} // to be widened; of feeds that are subscribed to, as what follows
	times map[shard.RangeID]int      // how often they were
}

func newNarrows(f *feeds) *narrows {
	return &narrows{
		f: f, wanted: func(shard.RangeID) []shard.Span { return nil }, wake: make(chan struct{}, 1),
		due: map[shard.RangeID]struct{}{}, times: map[shard.RangeID]int{},
	}
}

// end forgets a feed.
func (n *narrows) end(id shard.RangeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.due, id)
	delete(n.times, id)
}

// spans are those that a feed is to be subscribed to for; nil: for every key.
func (n *narrows) spans(id shard.RangeID) []shard.Span {
	n.mu.Lock()
	often := n.times[id] >= widenMax
	n.mu.Unlock()
	if often {
		return nil
	}
	spans := n.wanted(id)
	if d, ok := n.f.backend.Cluster.Range(id); ok {
		if len(d.Span.Start) == 0 { // which no key is, and watches of all keys begin behind it
			d.Span.Start = []byte{0}
		}
		if shard.SpansCover(spans, d.Span) {
			return nil
		}
	}
	return spans
}

// widen hears that more is wanted of a feed than was. It does not block.
func (n *narrows) widen(id shard.RangeID) {
	n.mu.Lock()
	n.due[id] = struct{}{}
	n.mu.Unlock()
	patience.Wake(n.wake)
}

// run widens feeds until ctx ends.
func (n *narrows) run(ctx context.Context) {
	for ctx.Err() == nil {
		var again <-chan time.Time
		if n.look() {
			again = time.After(widenPause)
		}
		select {
		case <-ctx.Done():
		case <-n.wake:
		case <-again:
		}
	}
}

// look widens what can be, and reports whether something is left.
func (n *narrows) look() bool {
	n.mu.Lock()
	due := make([]shard.RangeID, 0, len(n.due))
	for id := range n.due {
		due = append(due, id)
	}
	clear(n.due)
	n.mu.Unlock()
	left := false
	for _, id := range due {
		from, later := n.source(id)
		switch {
		case later:
			left = true
			n.mu.Lock()
			n.due[id] = struct{}{}
			n.mu.Unlock()
		case from != nil && from.widen(id, n.spans(id)):
			n.widened.Add(1)
			n.mu.Lock()
			n.times[id]++
			n.mu.Unlock()
		}
	}
	return left
}

// source is the link that brings a feed; nil: none does, and whatever will is told of all that is wanted. later: it is not the moment.
func (n *narrows) source(id shard.RangeID) (from *inlet, later bool) {
	if n.f.moves.get(id) != nil {
		return nil, true
	}
	n.f.mu.Lock()
	defer n.f.mu.Unlock()
	r := n.f.remote[id]
	if r == nil {
		return nil, false
	}
	return r.from, r.heir
}

// narrow is how many feeds come that do not bring every key.
func (n *narrows) narrow() (sum int) {
	n.f.mu.Lock()
	inlets := make([]*inlet, 0, len(n.f.inlets))
	for _, in := range n.f.inlets {
		inlets = append(inlets, in)
	}
	n.f.mu.Unlock()
	for _, in := range inlets {
		in.mu.Lock()
		sum += in.sink.Position().Narrow
		in.mu.Unlock()
	}
	return sum
}

// register tells how they fare.
func (n *narrows) register(gauge, counter func(name, help string, fn func() float64)) {
	gauge("pontoon_feeds_narrow", "Feeds that come by links and bring the keys that are watched here alone, because these are few.", func() float64 { return float64(n.narrow()) })
	counter("pontoon_feeds_widened_total", "Times that a feed was subscribed to anew because other keys of its range were watched than it brought.", func() float64 { return float64(n.widened.Load()) })
	counter("pontoon_link_item_bytes_total", "Bytes of the events that have come by links.", func() float64 { return float64(n.f.flow.total().Bytes) })
}
