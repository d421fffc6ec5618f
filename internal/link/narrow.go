package link

import (
	"errors"
	"fmt"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// errSpansMany ends a link whose other end names more spans than a Source keeps.
var errSpansMany = errors.New("link: so many spans are named that their bounds do not fit; name none, and every key comes")

// asked is what a subscription wants. The zero value is one of every key, as it is without a word.
type asked struct {
	serial uint64
	spans  []shard.Span // nil: every key
}

// narrowed are the subscriptions that have said of which keys they are.
type narrowed struct {
	byID  map[shard.RangeID]asked
	bytes int
}

func (n *narrowed) ask(m *pb.LinkSpans, l *Limits) error {
	a := asked{serial: m.Serial}
	if len(m.Spans) > 0 {
		if len(m.Spans) > shard.CoverSpansMax { // before anything is made of them
			return fmt.Errorf("link: range %d: %d spans are named for one feed, which takes %d", m.RangeId, len(m.Spans), shard.CoverSpansMax)
		}
		a.spans = pb.ToSpans(m.Spans)
		if err := shard.CheckSpans(a.spans); err != nil {
			return fmt.Errorf("link: range %d: %w", m.RangeId, err)
		}
	}
	n.set(shard.RangeID(m.RangeId), a)
	if n.bytes > l.Spans || len(n.byID) > l.Feeds {
		return errSpansMany
	}
	return nil
}

func (n *narrowed) set(id shard.RangeID, a asked) {
	n.forget(id)
	n.byID[id] = a
	n.bytes += shard.SpanBytes(a.spans)
}

func (n *narrowed) forget(id shard.RangeID) {
	n.bytes -= shard.SpanBytes(n.byID[id].spans)
	delete(n.byID, id)
}

// bequeath lets a child's feed be of the keys of which that of its parent is.
func (n *narrowed) bequeath(parent, child shard.RangeID) {
	a, there := n.byID[parent]
	if _, own := n.byID[child]; own || !there {
		return // it was asked for, and has not begun
	}
	if mutate.On(mutate.NarrowHeir) {
		a.serial = 0
	}
	n.set(child, a)
}

// unknown is the revision from which on an attachment brings spans that have not come before: whoever has the feed finds out.
const unknown = 1<<63 - 1

// coverOf is the cover of what is asked for.
func coverOf(spans []shard.Span) *shard.Cover {
	if len(spans) == 0 {
		return nil
	}
	return &shard.Cover{Spans: spans, From: unknown}
}
