package sim

import (
	"fmt"
	"time"

	"pontoon/internal/link"
	"pontoon/shard"
)

// narrows say of which keys feeds are wanted that come by links. They belong to the loop.
type narrows struct {
	x     *links
	whole map[shard.RangeID]*link.Whole // as a feed is for all but the hub
}

func (n *narrows) init(x *links) { n.x, n.whole = x, map[shard.RangeID]*link.Whole{} }

// spans are those of the keys that the hub wants, or none, where others want all, and now and then.
func (n *narrows) spans(id shard.RangeID) []shard.Span {
	f := n.x.f
	if f.wants(id) != ofHub || n.x.world().roll(0.1) {
		return nil
	}
	return f.hub.Wanted(id)
}

// begin are those that a feed is first subscribed to for: at times fewer than the hub wants, which has to notice.
func (n *narrows) begin(id shard.RangeID) []shard.Span {
	spans := n.spans(id)
	if len(spans) > 0 && n.x.world().roll(0.5) {
		return []shard.Span{shard.Point(append([]byte{}, spans[0].Start...))}
	}
	return spans
}

// widen is to bring more of a feed than comes, from whatever goroutine. At times it takes a while.
func (f *fans) widen(id shard.RangeID) {
	w := f.l.n.w
	w.post(fmt.Sprintf("widen %d/%d", f.l.n.id, id), 0, func() {
		if w.roll(0.5) {
			f.links.narrows.widen(id)
			return
		}
		w.after(w.scaled(time.Millisecond, 2*time.Second), fmt.Sprintf("widen %d/%d late", f.l.n.id, id), func() { f.links.narrows.widen(id) })
	})
}

func (n *narrows) widen(id shard.RangeID) {
	l := n.x.f.l
	lk := n.x.from[id]
	switch {
	case !l.alive || lk == nil:
		return // whatever brings it is told then
	case n.x.resumes.under[id] != nil:
		l.after(20*time.Millisecond, func() { n.x.f.widen(id) })
		return
	}
	if lk.sink.Widen(id, n.spans(id)) {
		n.x.world().stats.Widened++
		lk.ask()
	}
}

// take is an item as all but the hub have it; false: they do not.
func (n *narrows) take(id shard.RangeID, item shard.FeedItem) (shard.FeedItem, bool) {
	if n.whole[id] == nil {
		n.whole[id] = &link.Whole{}
	}
	out, says := n.whole[id].Take(item)
	if !says {
		if fan := n.x.served[id]; fan != nil {
			fan.Forget()
		}
	}
	return out, says
}
