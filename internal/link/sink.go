package link

import (
	"errors"
	"maps"
	"slices"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Interval is how often a source says something, and a sink looks whether it has.
const Interval = time.Second

const (
	// silentMax is how many intervals in silence end a link.
	silentMax = 3
	// heirTicks is for how many intervals a child's feed that came behind a border waits for somebody who wants it.
	heirTicks = 10
)

// errNumber ends a link whose source does not number its attachments upwards.
var errNumber = errors.New("link: the number of an attachment does not rise")

// Taker has what a sink makes of frames. Neither method may call the sink.
type Taker interface {
	// Publish takes the next item of a feed, which is its own.
	Publish(id shard.RangeID, item shard.FeedItem)
	// Inherit says whether the feed of a child is to be had from here: that of its parent has come to their border, and the child's
	// follows. Otherwise it has been begun elsewhere.
	Inherit(parent, child shard.RangeID) bool
}

// Sink is the end of a link that wants feeds. It is not safe for concurrent use.
type Sink struct {
	feeds    map[shard.RangeID]*inFeed
	byNumber map[uint64]*inFeed
	attached []uint64 // ascending; some are over
	last     uint64
	unsub    map[shard.RangeID]struct{}
	sub      map[shard.RangeID]struct{}
	heirs    int    // feeds that nobody has asked for yet
	serial   uint64 // of the last subscription that was told which keys it is of; 0: none was
	spans    int    // what the bounds of the spans take of all feeds
	silent   int
	counts   Counts
}

// inFeed is a feed of a Sink.
type inFeed struct {
	id         shard.RangeID
	number     uint64 // 0: it is not attached
	asked      asked
	cover      *shard.Cover // what the attachment brings; nil: every key
	generation shard.Generation
	closed     int64
	behind     uint64 // the attachment behind whose border it is to begin; 0: none
	heir       bool   // it comes behind a border, and nobody has asked for it yet
	age        int    // ticks that it has been so
}

// NewSink makes one.
func NewSink() *Sink {
	return &Sink{feeds: map[shard.RangeID]*inFeed{}, byNumber: map[uint64]*inFeed{}, unsub: map[shard.RangeID]struct{}{}, sub: map[shard.RangeID]struct{}{}}
}

// sinkSpansMax bounds what the bounds of spans take that a Sink names: feeds beyond are of every key.
const sinkSpansMax = 4 << 20

// Subscribe wants a range's feed, if it does not yet: of the keys of some spans, which are those of a shard.Cover, or, if there are none, of every key.
func (k *Sink) Subscribe(id shard.RangeID, spans ...shard.Span) {
	if k.Confirm(id) {
		return
	}
	if len(spans) == 0 || shard.CheckSpans(spans) != nil || k.spans+shard.SpanBytes(spans) > sinkSpansMax {
		spans = nil
	}
	a := asked{spans: spans}
	if spans != nil || k.serial > 0 { // the answer to an earlier one is not to be taken for that to this one
		k.serial++
		a.serial = k.serial
	}
	k.add(&inFeed{id: id, asked: a})
	k.sub[id] = struct{}{}
}

func (k *Sink) add(f *inFeed) {
	k.feeds[f.id] = f
	k.spans += shard.SpanBytes(f.asked.spans)
}

// Widen wants a feed of other spans, all keys if there are none, by subscribing to it anew. false: it is of them, or will be when it comes, or it is not wanted.
func (k *Sink) Widen(id shard.RangeID, spans []shard.Span) bool {
	f := k.feeds[id]
	if k.Confirm(id); f == nil || coverOf(f.asked.spans).Covers(coverOf(spans)) || f.number != 0 && f.cover == nil {
		return false
	}
	k.Unsubscribe(id)
	k.Subscribe(id, spans...)
	return true
}

// Cover is which keys a feed brings that is attached; nil: every key.
func (k *Sink) Cover(id shard.RangeID) *shard.Cover {
	if f := k.feeds[id]; f != nil {
		return f.cover
	}
	return nil
}

// Reached is how far a feed has come; false: it has not been attached.
func (k *Sink) Reached(id shard.RangeID) (generation shard.Generation, closed int64, attached bool) {
	f := k.feeds[id]
	if f == nil || f.number == 0 {
		return 0, 0, false
	}
	return f.generation, f.closed, true
}

// Confirm wants a range's feed that comes behind a border, and reports whether it does.
func (k *Sink) Confirm(id shard.RangeID) bool {
	f := k.feeds[id]
	if f != nil && f.heir {
		f.heir = false
		k.heirs--
	}
	return f != nil
}

// Unsubscribe wants it no more: nothing of it is delivered from here on.
func (k *Sink) Unsubscribe(id shard.RangeID) {
	if f := k.feeds[id]; f != nil {
		k.forget(f)
		k.unsub[id] = struct{}{}
		delete(k.sub, id)
	}
}

func (k *Sink) forget(f *inFeed) {
	k.void(f)
	delete(k.feeds, f.id)
	k.spans -= shard.SpanBytes(f.asked.spans)
	if f.heir {
		k.heirs--
	}
}

// void ends an attachment.
func (k *Sink) void(f *inFeed) {
	delete(k.byNumber, f.number)
	f.number = 0
}

// Wanted are those whose feeds are wanted, or come behind a border, in order.
func (k *Sink) Wanted() []shard.RangeID { return slices.Sorted(maps.Keys(k.feeds)) }

// Feeds is how many those are.
func (k *Sink) Feeds() int { return len(k.feeds) }

// Ask is what is to be said to the source; nil: nothing.
func (k *Sink) Ask() *pb.LinkRequest {
	if len(k.unsub)+len(k.sub) == 0 {
		return nil
	}
	req := &pb.LinkRequest{Unsubscribe: pb.FromRangeIDs(slices.Sorted(maps.Keys(k.unsub))), Subscribe: pb.FromRangeIDs(slices.Sorted(maps.Keys(k.sub)))}
	for _, id := range req.Subscribe {
		if f := k.feeds[shard.RangeID(id)]; f.asked.serial > 0 {
			req.Spans = append(req.Spans, &pb.LinkSpans{RangeId: id, Serial: f.asked.serial, Spans: pb.FromSpans(f.asked.spans)})
		}
	}
	clear(k.unsub)
	clear(k.sub)
	return req
}

// Tick is called every Interval. gone are children's feeds that nobody has wanted. dead: the source has been silent for too long, and the link is to
// be ended.
func (k *Sink) Tick() (gone []shard.RangeID, dead bool) {
	if k.heirs > 0 {
		for _, id := range k.Wanted() {
			f := k.feeds[id]
			if !f.heir {
				continue
			}
			if f.age++; f.age > heirTicks {
				k.Unsubscribe(id)
				gone = append(gone, id)
			}
		}
	}
	k.silent++
	return gone, k.silent > silentMax && !mutate.On(mutate.LinkSilent)
}

// Take takes a frame. gone are the ranges whose feeds are not to be had here any more: they are not wanted from here on. An error is the frame's, and ends
// the link.
func (k *Sink) Take(fr *pb.LinkFrame, to Taker) (gone []shard.RangeID, err error) {
	k.silent = 0
	for _, m := range fr.Messages {
		switch {
		case m.Attached != nil:
			err = k.attach(m.Attached, to)
		case m.Item != nil:
			err = k.item(m.Item, to)
		case m.Closed != nil:
			k.closed(m.Closed, to)
		case m.Lost != 0:
			if f := k.byNumber[m.Lost]; f != nil {
				k.counts.Lost++
				k.void(f)
			}
		case m.Ended != 0:
			id := shard.RangeID(m.Ended)
			if k.feeds[id] != nil {
				k.Unsubscribe(id)
				gone = append(gone, id)
			}
		}
		if err != nil {
			return gone, err
		}
	}
	return gone, nil
}

func (k *Sink) attach(a *pb.LinkAttached, to Taker) error {
	if a.Number <= k.last {
		return errNumber
	}
	k.last = a.Number
	f := k.feeds[shard.RangeID(a.RangeId)]
	switch {
	case f == nil:
		if a.Parent != 0 { // nobody has heard of the border, for the parent's attachment was over here
			k.unsub[shard.RangeID(a.RangeId)] = struct{}{}
		}
		return nil // it is not wanted any more
	case a.Serial != 0 && a.Serial != f.asked.serial && !mutate.On(mutate.NarrowStale):
		return nil // of a subscription that is over
	}
	gap := a.Gap || f.number == 0 && (a.Parent == 0 || a.Parent != f.behind)
	f.behind = 0
	k.void(f)
	f.number, f.generation, f.cover = a.Number, shard.Generation(a.Generation), nil
	if a.Serial != 0 {
		f.cover = coverOf(f.asked.spans)
	}
	f.closed = a.Closed
	k.byNumber[a.Number] = f
	k.attached = append(k.attached, a.Number)
	if len(k.attached) > 2*len(k.feeds)+16 {
		k.attached = slices.DeleteFunc(k.attached, func(n uint64) bool { return k.byNumber[n] == nil })
	}
	if mutate.On(mutate.LinkBeginsWhole) {
		gap = false
	}
	if gap {
		k.counts.Gap++
	} else {
		k.counts.Whole++
	}
	if gap || a.Closed > 0 {
		to.Publish(f.id, shard.FeedItem{Closed: a.Closed, Epoch: shard.Epoch(a.Epoch), Index: a.Index, Generation: f.generation, Gap: gap, Cover: f.cover})
	}
	return nil
}

func (k *Sink) item(m *pb.LinkItem, to Taker) error {
	k.counts.Bytes += uint64(len(m.Body))
	f := k.byNumber[m.Number]
	if f == nil {
		return nil
	}
	item, err := decode(m.Body, m.Closed, f.generation)
	if err != nil {
		return err
	}
	item.Cover = f.cover
	f.closed = max(f.closed, m.Closed)
	if b := item.Border; b != nil && k.feeds[b.Child] == nil {
		k.inherit(f, b.Child, to)
	}
	to.Publish(f.id, item)
	return nil
}

// inherit expects the feed of a child behind a border that an attachment has come to, or wants it no more.
func (k *Sink) inherit(parent *inFeed, child shard.RangeID, to Taker) {
	if !to.Inherit(parent.id, child) {
		k.unsub[child] = struct{}{}
		return
	}
	k.add(&inFeed{id: child, asked: parent.asked, cover: parent.cover, behind: parent.number, heir: true})
	k.heirs++
}

// closed publishes what is closed of the feeds that a mark speaks for: attachments that are there, and no others.
func (k *Sink) closed(m *pb.LinkClosed, to Taker) {
	numbers, without := sums(m.List), []uint64(nil)
	if m.AllTo > 0 {
		numbers, without = k.attached, sums(m.Except)
	}
	for _, n := range numbers {
		if m.AllTo > 0 && n > m.AllTo {
			break
		}
		for len(without) > 0 && without[0] < n {
			without = without[1:]
		}
		if len(without) > 0 && without[0] == n {
			continue
		}
		if f := k.byNumber[n]; f != nil && m.Revision > f.closed {
			f.closed = m.Revision
			to.Publish(f.id, shard.FeedItem{Closed: m.Revision, Epoch: shard.Epoch(m.Epoch), Generation: f.generation, Cover: f.cover})
		}
	}
}

// sums are numbers that were told by their differences.
func sums(differences []uint64) []uint64 {
	out, last := make([]uint64, len(differences)), uint64(0)
	for i, d := range differences {
		last += d
		out[i] = last
	}
	return out
}
