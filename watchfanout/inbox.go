package watchfanout

import (
	"slices"
	"sync"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// inboxKeptMax is for how many messages an inbox keeps memory that it has no use for now.
const inboxKeptMax = 1024

type msgKind uint8

const (
	msgItem     msgKind = iota // feed, turn, events, closed, gap
	msgLost                    // feed, turn, rev (events at or below were dropped), closed, gap
	msgWhole                   // feed, turn, rev
	msgWatch                   // w
	msgUnwatch                 // w
	msgChecked                 // w, rev: the compaction revision
	msgRead                    // w, token, more: history was read
	msgAgain                   // w, token: a pause is over
	msgRoom                    // w: its reader has taken something
	msgProgress                // w or stream, rev: progress is requested
	msgMap                     // more
	msgBorder                  // feed, more
	msgShed                    // stream or rev: what waits for it, or for who has let it wait since then, is given up
	msgTick                    // the pause between repeated asks is over
)

// message is what a dispatcher hears. Which fields count depends on the kind.
type message struct {
	kind   msgKind
	gap    bool
	token  uint32
	feed   *feed
	w      *watch
	stream *Stream
	turn   uint64
	rev    int64
	closed int64
	events []*shard.Event
	cover  *coverage // of an item, or of the last that was lost
	more   any       // of msgRead a *readResult, of msgMap a mapChange, of msgBorder a border
}

// mapChange is a new map. Changed has the ranges that have other keys now, or are no more; true: their feeds begin anew.
type mapChange struct {
	rangeMap *shard.Map
	changed  map[shard.RangeID]bool
}

// inbox is a dispatcher's mailbox. Events beyond its limits are dropped and summed up per
// feed; everything else is bounded by what there are of feeds, watches and streams.
type inbox struct {
	eventsMax, bytesMax int
	wake                chan struct{}

	mu struct {
		sync.Mutex
		msgs   []message
		events int
		bytes  int
		lost   map[*feed]*message // feeds that have lost events since the last take
		order  []*feed            // of lost
		after  []message          // msgWhole that speaks of a gap in lost
	}
}

func (b *inbox) init(eventsMax, bytesMax int) {
	b.eventsMax, b.bytesMax = eventsMax, bytesMax
	b.wake = make(chan struct{}, 1)
}

// post appends a message.
func (b *inbox) post(m message) {
	b.mu.Lock()
	if m.kind == msgBorder && !mutate.On(mutate.BorderLosses) {
		b.sumUpLocked(m.feed)
	}
	if m.kind == msgWhole && b.mu.lost[m.feed] != nil {
		b.mu.after = append(b.mu.after, m)
	} else {
		b.mu.msgs = append(b.mu.msgs, m)
	}
	b.mu.Unlock()
	b.signal()
}

// sumUpLocked puts what a feed has lost so far in its place: what comes behind a border speaks for other keys.
func (b *inbox) sumUpLocked(f *feed) {
	l := b.mu.lost[f]
	if l == nil {
		return
	}
	b.mu.msgs = append(b.mu.msgs, *l)
	delete(b.mu.lost, f)
	b.mu.order = slices.DeleteFunc(b.mu.order, func(o *feed) bool { return o == f })
	b.mu.after = slices.DeleteFunc(b.mu.after, func(m message) bool {
		if m.feed == f {
			b.mu.msgs = append(b.mu.msgs, m)
		}
		return m.feed == f
	})
}

// offer appends a feed's item, or sums it up if there is no room.
func (b *inbox) offer(f *feed, item shard.FeedItem, turn uint64, cover *coverage) {
	b.mu.Lock()
	weight := weigh(item.Events)
	if b.mu.lost[f] == nil && b.mu.events < b.eventsMax && b.mu.bytes < b.bytesMax {
		b.mu.events += max(len(item.Events), 1) // an item without events takes room too
		b.mu.bytes += weight
		b.mu.msgs = append(b.mu.msgs, message{
			kind: msgItem, feed: f, turn: turn, events: item.Events, closed: item.Closed, gap: item.Gap, cover: cover,
		})
	} else {
		b.loseLocked(f, item, turn)
		b.mu.lost[f].cover = cover
	}
	b.mu.Unlock()
	b.signal()
}

func (b *inbox) loseLocked(f *feed, item shard.FeedItem, turn uint64) {
	l := b.mu.lost[f]
	if l == nil {
		l = &message{kind: msgLost, feed: f}
		if b.mu.lost == nil {
			b.mu.lost = make(map[*feed]*message)
		}
		b.mu.lost[f] = l
		b.mu.order = append(b.mu.order, f)
	}
	if n := len(item.Events); n > 0 {
		l.rev = item.Events[n-1].Rev()
	}
	l.closed, l.gap = item.Closed, l.gap || item.Gap
	l.turn = turn
}

// take returns what has come, sums last, and leaves dst's memory for the next.
func (b *inbox) take(dst []message) []message {
	b.mu.Lock()
	defer b.mu.Unlock()
	got := b.mu.msgs
	for _, f := range b.mu.order {
		got = append(got, *b.mu.lost[f])
	}
	got = append(got, b.mu.after...)
	if cap(dst) > inboxKeptMax && cap(dst)/4 > len(got) {
		dst = nil
	}
	b.mu.msgs = dst[:0]
	b.mu.lost, b.mu.order, b.mu.after = nil, nil, nil
	b.mu.events, b.mu.bytes = 0, 0
	return got
}

func (b *inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}
