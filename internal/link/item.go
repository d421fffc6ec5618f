package link

import (
	"fmt"
	"slices"
	"sync"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// eventBytes and itemBytes are what an event and an item take besides keys and values.
const (
	eventBytes = 128
	itemBytes  = 256
)

// Item is a feed's item on its way to any number of links, which share it: it is encoded once, by the first that comes to it. It
// may be used from several goroutines.
type Item struct {
	feed  shard.FeedItem
	bytes int

	encoding sync.Once
	body     []byte
	err      error
}

// NewItem makes one of what a range has published.
func NewItem(item shard.FeedItem) *Item {
	it := &Item{feed: item, bytes: itemBytes}
	for _, e := range item.Events {
		it.bytes += eventBytes + e.DataBytes()
	}
	return it
}

// of is the item as it goes to who wants some spans alone: itself, where it has nothing else.
func (it *Item) of(spans []shard.Span) *Item {
	if spans == nil {
		return it
	}
	n := 0
	for _, e := range it.feed.Events {
		if wanted(spans, e.KV.Key) {
			n++
		}
	}
	if n == len(it.feed.Events) {
		return it
	}
	item := it.feed
	item.Events = nil
	if n > 0 {
		item.Events = make([]*shard.Event, 0, n)
		for _, e := range it.feed.Events {
			if wanted(spans, e.KV.Key) {
				item.Events = append(item.Events, e)
			}
		}
	}
	return NewItem(item)
}

func wanted(spans []shard.Span, key []byte) bool {
	if mutate.On(mutate.NarrowBorder) && slices.ContainsFunc(spans, func(s shard.Span) bool { return string(s.Start) == string(key) }) {
		return false
	}
	return shard.SpansContain(spans, key)
}

// Body is the item but for what it closes. It is shared, and never written again.
func (it *Item) Body() ([]byte, error) {
	it.encoding.Do(func() {
		b := &pb.LinkBody{Events: pb.FromEvents(it.feed.Events), Epoch: uint64(it.feed.Epoch), Index: it.feed.Index, Gap: it.feed.Gap}
		if o := it.feed.Border; o != nil {
			b.Border = &pb.FeedBorder{At: o.At, Child: uint64(o.Child), Generation: uint64(o.Generation)}
		}
		if it.body, it.err = b.MarshalVT(); it.err != nil {
			it.err = fmt.Errorf("link: an item of generation %d: %w", it.feed.Generation, it.err)
		}
	})
	return it.body, it.err
}

// decode makes an item of a body, in the generation of its attachment.
func decode(body []byte, closed int64, generation shard.Generation) (shard.FeedItem, error) {
	b := &pb.LinkBody{}
	if err := b.UnmarshalVT(body); err != nil {
		return shard.FeedItem{}, fmt.Errorf("link: an item: %w", err)
	}
	item := shard.FeedItem{Events: pb.ToEvents(b.Events), Closed: closed, Epoch: shard.Epoch(b.Epoch), Index: b.Index, Generation: generation, Gap: b.Gap}
	if o := b.Border; o != nil {
		item.Border = &shard.Border{At: o.At, Child: shard.RangeID(o.Child), Generation: shard.Generation(o.Generation)}
	}
	return item, nil
}

// Head is how far a feed has come where it is published. The zero Head knows nothing.
type Head struct {
	known      bool
	closed     int64
	seen       int64 // the newest event
	epoch      shard.Epoch
	index      uint64 // where the log stood, up to which all has come, and nothing from beyond; 0: not known
	generation shard.Generation
	keys       shard.Span       // of the range
	keysOf     shard.Generation // in which it has them; 0: not known
	cover      *shard.Cover     // which keys have come; nil: all
}

// Take notes what has been published. Every item must come by.
func (h *Head) Take(item *shard.FeedItem) {
	h.takeKeys(item)
	if item.Cover != nil || item.Gap {
		h.cover = item.Cover
	}
	if item.Generation != h.generation || item.Closed > h.closed {
		h.closed = item.Closed
	}
	if item.Gap { // events of other keys may have been before it, and of a log that stood elsewhere
		h.index = 0
		if item.Generation != h.generation {
			h.seen = 0
		}
	}
	if n := len(item.Events); n > 0 {
		h.seen = max(h.seen, item.Events[n-1].Rev())
		if item.Index == 0 { // out of history
			h.index = 0
		}
	}
	h.index = max(h.index, item.Index) // a mark that came by a link does not tell
	h.known, h.epoch, h.generation = true, item.Epoch, item.Generation
}

// takeKeys notes which keys the range has: a change of them has an item of its own, with a border or with a gap.
func (h *Head) takeKeys(item *shard.FeedItem) {
	switch b := item.Border; {
	case item.Gap && item.Generation != h.keysOf:
		h.keysOf = 0
	case h.keysOf == 0:
	case b != nil:
		h.keys.End, h.keysOf = b.At, b.Generation
	case item.Generation == h.keysOf+1:
		h.keysOf++
	}
}

// LacksKeys reports whether it is not known which keys the range has in the generation of the last item, and Learn takes it from a map.
func (h *Head) LacksKeys() bool { return h.keysOf < h.generation }

// Learn takes a descriptor of the range.
func (h *Head) Learn(d *shard.Descriptor) {
	if d.Generation == h.generation {
		h.keys, h.keysOf = d.Span, d.Generation
	}
}

// Begin is the item with which the feed begins anew for who listens from here on. false: nothing is known of it, and whoever has the range is
// to publish an item.
func (h *Head) Begin() (shard.FeedItem, bool) {
	return shard.FeedItem{Closed: h.closed, Epoch: h.epoch, Index: h.index, Generation: h.generation, Gap: true, Cover: h.cover}, h.known
}

// Cover is which keys come; nil: all.
func (h *Head) Cover() *shard.Cover { return h.cover }

// Behind is the head of a child's feed, which begins behind a border of its parent's.
func Behind(border *shard.FeedItem) Head {
	return Head{known: true, closed: max(border.Closed, 1), epoch: border.Epoch, generation: border.Border.Generation, cover: border.Cover}
}
