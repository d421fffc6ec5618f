package link

import (
	"fmt"
	"maps"
	"slices"

	"pontoon/internal/fifo"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Limits bound what a Source keeps. Zero values take the defaults.
type Limits struct {
	// Bytes is how much may wait. One item of any size may. Default 32 MiB.
	Bytes int
	// Frame is how large a frame grows before it ends, if it is not one item. Default 64 KiB.
	Frame int
	// Turn is how much of one feed goes before the next has its turn. Default 16 KiB.
	Turn int
	// Feeds is how many feeds there may be. Default 131,072.
	Feeds int
	// Spans is how much the bounds of the spans may take that the other end has named for all of them. Default 8 MiB.
	Spans int
}

func (l *Limits) setDefaults() {
	orDefault(&l.Bytes, 32<<20)
	orDefault(&l.Frame, 64<<10)
	orDefault(&l.Turn, 16<<10)
	orDefault(&l.Feeds, 1<<17)
	orDefault(&l.Spans, 8<<20)
}

func orDefault(v *int, def int) {
	if *v <= 0 {
		*v = def
	}
}

// Source is the end of a link that has feeds. It is not safe for concurrent use.
type Source struct {
	limits Limits
	feeds  map[shard.RangeID]*outFeed
	asked  narrowed
	busy   fifo.Queue[*outFeed] // those of which more waits than a mark, each once
	marked []*outFeed           // those of which a mark alone waits, each once; some have got more since
	voided []uint64             // attachments that are over and not told of yet
	ended  map[shard.RangeID]struct{}
	number uint64 // of the last attachment
	bytes  int    // of all that waits
	items  int    // how many items that are
	lost   int    // feeds of which something was dropped, and that are not attached again yet
	drops  int64
}

// outFeed is a feed of a Source.
type outFeed struct {
	id         shard.RangeID
	number     uint64           // its attachment; 0: it is not attached
	parent     uint64           // an heir's: the attachment whose border it is behind
	generation shard.Generation // of its attachment
	asked      asked
	head       Head
	waiting    []entry
	bytes      int
	lost       bool     // of what comes nothing is kept, for now
	behind     *outFeed // the parent whose border is to go first; nil: none is
	listed     bool     // in busy
	noted      bool     // in marked
	over       bool     // it is not in feeds any more
}

// entry is something that waits. The last one of a feed takes in what is closed after it.
type entry struct {
	item       *Item // nil: nothing but what is closed
	attach     attachment
	closed     int64
	epoch      shard.Epoch
	index      uint64
	generation shard.Generation
}

// attachment is how an entry begins a feed.
type attachment uint8

const (
	goesOn attachment = iota
	anew              // what was published before is not known
	heir              // behind the border of its parent
)

// NewSource makes one.
func NewSource(l Limits) *Source {
	l.setDefaults()
	return &Source{limits: l, feeds: map[shard.RangeID]*outFeed{}, asked: narrowed{byID: map[shard.RangeID]asked{}}, ended: map[shard.RangeID]struct{}{}}
}

// Ask says of which keys a feed is wanted that is about to be attached. An error is for the other end, and ends the link.
func (s *Source) Ask(m *pb.LinkSpans) error { return s.asked.ask(m, &s.limits) }

// Attach begins a feed with an item that has a gap, and begins it anew if there is one. false: there are too many feeds, and the link
// is to be ended.
func (s *Source) Attach(id shard.RangeID, begin shard.FeedItem) bool {
	s.detach(id)
	delete(s.ended, id)
	if len(s.feeds) >= s.limits.Feeds || len(s.voided) > s.limits.Feeds {
		return false
	}
	f := s.add(id)
	f.head.Take(&begin)
	s.begin(f)
	return true
}

func (s *Source) add(id shard.RangeID) *outFeed {
	f := &outFeed{id: id, asked: s.asked.byID[id]}
	s.feeds[id] = f
	return f
}

// begin lets a feed begin anew from its head.
func (s *Source) begin(f *outFeed) {
	item, _ := f.head.Begin()
	s.wait(f, entry{attach: anew, closed: item.Closed, epoch: item.Epoch, index: item.Index, generation: item.Generation})
}

// Detach ends a feed of which nobody is to hear more.
func (s *Source) Detach(id shard.RangeID) {
	s.detach(id)
	s.asked.forget(id)
}

func (s *Source) detach(id shard.RangeID) {
	if f := s.feeds[id]; f != nil {
		s.clear(f)
		s.void(f)
		s.remove(f)
	}
}

// void ends an attachment, which is told before anything else: what speaks of all attachments is not to mean this one.
func (s *Source) void(f *outFeed) {
	if f.number != 0 && !mutate.On(mutate.LinkVoidUntold) {
		s.voided = append(s.voided, f.number)
		f.number = 0
	}
}

// End says that a range's feed is not to be had here, or not any more. false: so much was asked for in vain that the link is to be ended.
func (s *Source) End(id shard.RangeID) bool {
	s.Detach(id)
	s.ended[id] = struct{}{}
	return len(s.ended) <= s.limits.Feeds && len(s.voided) <= s.limits.Feeds
}

func (s *Source) remove(f *outFeed) {
	f.over = true
	delete(s.feeds, f.id)
	if f.lost {
		s.lost--
	}
}

// Has reports whether there is a feed.
func (s *Source) Has(id shard.RangeID) bool { return s.feeds[id] != nil }

// Feeds is how many there are, and Drops how many items were dropped.
func (s *Source) Feeds() int { return len(s.feeds) }

// Drops is how many items were dropped so far.
func (s *Source) Drops() int64 { return s.drops }

// Publish takes the next item of a feed, if there is that feed.
func (s *Source) Publish(id shard.RangeID, it *Item) {
	f := s.feeds[id]
	if f == nil {
		return
	}
	was := f.head.generation
	f.head.Take(&it.feed)
	it = it.of(f.asked.spans)
	item := &it.feed
	e := entry{closed: item.Closed, epoch: item.Epoch, index: item.Index, generation: item.Generation}
	if len(item.Events) > 0 || item.Gap || item.Border != nil || item.Generation != was {
		e.item = it
	}
	switch {
	case !f.lost:
		s.wait(f, e)
	case e.item != nil:
		s.drops++
	}
}

// PublishBorder is Publish for an item with a border, behind which the child's feed is attached, unless there is one, or the item finds no
// room. It reports whether it is: what the child publishes is to be published here from its first item on.
func (s *Source) PublishBorder(id shard.RangeID, it *Item) (inherits bool) {
	s.Publish(id, it)
	parent, item := s.feeds[id], &it.feed
	if parent == nil || parent.lost || s.Has(item.Border.Child) || len(s.feeds) >= s.limits.Feeds || mutate.On(mutate.LinkNoHeirs) {
		return false
	}
	s.asked.bequeath(id, item.Border.Child)
	f := s.add(item.Border.Child)
	f.head, f.behind = Behind(item), parent
	s.wait(f, entry{attach: heir, closed: f.head.closed, epoch: item.Epoch, generation: f.head.generation})
	return true
}

// wait puts an entry behind those of its feed. What it closes is told with the last that waits, if that is of the same
// generation, and nothing is to come between.
func (s *Source) wait(f *outFeed, e entry) {
	n := len(f.waiting)
	if n > 0 {
		last := &f.waiting[n-1]
		same := last.generation == e.generation && (last.item == nil || last.item.feed.Border == nil)
		switch {
		case same && e.item == nil && e.attach == goesOn:
			if e.closed > last.closed {
				last.closed, last.epoch = e.closed, e.epoch
			}
			return
		case same && last.item == nil && last.attach == goesOn:
			e.closed = max(e.closed, last.closed)
			f.waiting = f.waiting[:n-1]
		}
	}
	f.waiting = append(f.waiting, e)
	if e.item != nil {
		f.bytes += e.item.bytes
		s.bytes += e.item.bytes
		s.items++
	}
	s.list(f)
	for s.bytes > s.limits.Bytes && s.items > 1 {
		s.drop(s.largest(f))
	}
}

// list notes that something waits of a feed.
func (s *Source) list(f *outFeed) {
	switch {
	case len(f.waiting) == 0 || f.behind != nil && !mutate.On(mutate.LinkHeirAhead):
	case len(f.waiting) == 1 && f.waiting[0].mark(f) && !f.listed:
		if !f.noted {
			f.noted = true
			s.marked = append(s.marked, f)
		}
	case !f.listed:
		f.listed = true
		s.busy.Push(f)
	}
}

// mark reports whether an entry says nothing but what is closed, for an attachment that is there.
func (e *entry) mark(f *outFeed) bool {
	return e.item == nil && e.attach == goesOn && f.number != 0 && (e.generation == f.generation || mutate.On(mutate.LinkOldGeneration))
}

// largest is the feed of which most waits.
func (s *Source) largest(last *outFeed) *outFeed {
	if mutate.On(mutate.LinkDropsLast) {
		return last
	}
	var most *outFeed
	for _, f := range s.feeds {
		if most == nil || f.bytes > most.bytes || f.bytes == most.bytes && f.id < most.id {
			most = f
		}
	}
	return most
}

// drop drops what waits of a feed. It is attached again when there is room.
func (s *Source) drop(f *outFeed) {
	s.drops += int64(s.clear(f))
	if mutate.On(mutate.LinkLostCloses) {
		return
	}
	f.lost = true
	s.lost++
	s.void(f)
}

// clear lets nothing wait of a feed, nor of those of its children of which the other end has not heard, and returns how many items did.
func (s *Source) clear(f *outFeed) (items int) {
	s.bytes -= f.bytes
	waiting := f.waiting
	f.waiting, f.bytes = nil, 0
	for i := range waiting {
		it := waiting[i].item
		if it == nil {
			continue
		}
		items++
		s.items--
		if b := it.feed.Border; b != nil {
			if child := s.feeds[b.Child]; child != nil && child.behind == f {
				items += s.clear(child)
				s.remove(child)
				s.asked.forget(b.Child)
			}
		}
	}
	return items
}

// Next cuts the next frame. nil: there is nothing to say. What is in it is not the source's any more.
func (s *Source) Next() (*pb.LinkFrame, error) {
	c := cutting{s: s, left: s.limits.Frame}
	c.tellOver()
	s.restore()
	for c.left > 0 && s.busy.Len() > 0 {
		f, _ := s.busy.Pop()
		if err := c.turn(f); err != nil {
			return nil, err
		}
	}
	c.tellMarks()
	if len(c.messages) == 0 {
		return nil, nil
	}
	return &pb.LinkFrame{Messages: c.messages}, nil
}

// restore attaches the feeds again of which something was dropped, once half the room is free.
func (s *Source) restore() {
	if s.lost == 0 || s.bytes > s.limits.Bytes/2 {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(s.feeds)) {
		if f := s.feeds[id]; f.lost {
			f.lost = false
			s.lost--
			s.begin(f)
		}
	}
}

// cutting is a frame that is being cut.
type cutting struct {
	s        *Source
	messages []*pb.LinkMessage
	left     int // bytes until it ends
}

func (c *cutting) say(m *pb.LinkMessage) { c.messages = append(c.messages, m) }

// tellOver tells which attachments and feeds are over: before anything of those that follow them.
func (c *cutting) tellOver() {
	for _, n := range c.s.voided {
		c.say(&pb.LinkMessage{Lost: n})
	}
	c.s.voided = nil
	for _, id := range slices.Sorted(maps.Keys(c.s.ended)) {
		c.say(&pb.LinkMessage{Ended: uint64(id)})
	}
	clear(c.s.ended)
}

// turn tells what waits of a feed, up to so much that others have theirs.
func (c *cutting) turn(f *outFeed) error {
	f.listed = false
	for left := c.s.limits.Turn; len(f.waiting) > 0 && left > 0 && c.left > 0; {
		if len(f.waiting) == 1 && f.waiting[0].mark(f) {
			break // together with those of others
		}
		e := f.waiting[0]
		f.waiting[0] = entry{}
		if f.waiting = f.waiting[1:]; len(f.waiting) == 0 {
			f.waiting = nil
		}
		n, err := c.tell(f, &e)
		if err != nil {
			return fmt.Errorf("range %v: %w", f.id, err)
		}
		left, c.left = left-n, c.left-n
	}
	c.s.list(f)
	return nil
}

// tell tells one entry, and returns how many bytes that takes, about.
func (c *cutting) tell(f *outFeed, e *entry) (int, error) {
	fresh := f.number == 0 || e.attach != goesOn || e.generation != f.generation && !mutate.On(mutate.LinkOldGeneration)
	if fresh {
		c.attach(f, e)
	}
	if e.item == nil {
		if !fresh { // something is behind it that it is not told with
			c.say(&pb.LinkMessage{Closed: &pb.LinkClosed{Revision: e.closed, Epoch: uint64(e.epoch), List: []uint64{f.number}}})
		}
		return itemBytes, nil
	}
	f.bytes -= e.item.bytes
	c.s.bytes -= e.item.bytes
	c.s.items--
	body, err := e.item.Body()
	if err != nil {
		return 0, err
	}
	closed := e.closed
	if mutate.On(mutate.LinkOvertakes) {
		closed = f.head.closed
	}
	c.say(&pb.LinkMessage{Item: &pb.LinkItem{Number: f.number, Closed: closed, Body: body}})
	if b := e.item.feed.Border; b != nil {
		switch child := c.s.feeds[b.Child]; {
		case child == nil && !mutate.On(mutate.LinkHeirInVain): // the other end would wait for it
			c.say(&pb.LinkMessage{Ended: uint64(b.Child)})
		case child != nil && child.behind == f:
			child.behind, child.parent = nil, f.number
			c.s.list(child)
		}
	}
	return len(body) + itemBytes, nil
}

// attach begins an attachment. What an item closes is told with the item.
func (c *cutting) attach(f *outFeed, e *entry) {
	c.s.number++
	f.number, f.generation = c.s.number, e.generation
	a := &pb.LinkAttached{RangeId: uint64(f.id), Number: f.number, Generation: uint64(f.generation), Epoch: uint64(e.epoch), Index: e.index, Gap: e.attach == anew, Serial: f.asked.serial}
	if e.item == nil {
		a.Closed = e.closed
	}
	if e.attach == heir {
		a.Parent = f.parent
	}
	c.say(&pb.LinkMessage{Attached: a})
}

// tellMarks tells what is closed of the feeds of which nothing else waits, as few messages as there are revisions.
func (c *cutting) tellMarks() {
	s := c.s
	type mark struct {
		rev   int64
		epoch shard.Epoch
	}
	groups := map[mark][]uint64{}
	var order []mark
	for _, f := range s.marked {
		f.noted = false
		if f.over || len(f.waiting) != 1 || !f.waiting[0].mark(f) {
			continue // more has come since, or the feed has gone
		}
		e := f.waiting[0]
		f.waiting = nil
		m := mark{e.closed, e.epoch}
		if groups[m] == nil {
			order = append(order, m)
		}
		groups[m] = append(groups[m], f.number)
	}
	clear(s.marked)
	s.marked = s.marked[:0]
	for _, m := range order {
		numbers := groups[m]
		slices.Sort(numbers)
		closed := &pb.LinkClosed{Revision: m.rev, Epoch: uint64(m.epoch)}
		if 2*len(numbers) > len(s.feeds) {
			closed.AllTo, closed.Except = s.number, differences(s.others(numbers))
		} else {
			closed.List = differences(numbers)
		}
		c.say(&pb.LinkMessage{Closed: closed})
	}
}

// others are the attachments besides some, in order.
func (s *Source) others(numbers []uint64) (rest []uint64) {
	if mutate.On(mutate.LinkClosesAll) {
		return nil
	}
	for _, f := range s.feeds {
		if _, there := slices.BinarySearch(numbers, f.number); !there && f.number != 0 {
			rest = append(rest, f.number)
		}
	}
	slices.Sort(rest)
	return rest
}

// differences tells numbers, which ascend, by how much each is above the one before it.
func differences(numbers []uint64) []uint64 {
	out, last := make([]uint64, len(numbers)), uint64(0)
	for i, n := range numbers {
		out[i], last = n-last, n
	}
	return out
}
