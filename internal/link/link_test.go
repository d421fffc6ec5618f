package link

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// taker notes what comes.
type taker struct {
	t       *testing.T
	got     []string
	refuses bool
}

func (k *taker) Publish(id shard.RangeID, it shard.FeedItem) {
	s := fmt.Sprintf("%d@%d", id, it.Generation)
	for _, e := range it.Events {
		s += fmt.Sprintf(" e%d", e.Rev())
	}
	if it.Gap {
		s += " gap"
	}
	if it.Border != nil {
		s += fmt.Sprintf(" border of %d", it.Border.Child)
	}
	if it.Closed > 0 {
		s += fmt.Sprintf(" c%d", it.Closed)
	}
	k.got = append(k.got, s)
}

func (k *taker) Inherit(_, _ shard.RangeID) bool { return !k.refuses }

// both are the two ends of a link, with the wire between.
type both struct {
	*taker
	source *Source
	sink   *Sink
}

func newBoth(t *testing.T, l Limits) *both {
	return &both{&taker{t: t}, NewSource(l), NewSink()}
}

// carry takes a frame over; false: there is none.
func (b *both) carry() (gone []shard.RangeID, more bool) {
	b.t.Helper()
	fr, err := b.source.Next()
	if err != nil {
		b.t.Fatal(err)
	}
	if fr == nil {
		return nil, false
	}
	if gone, err = b.sink.Take(wired(b.t, fr), b); err != nil {
		b.t.Fatal(err)
	}
	return gone, true
}

// wired is a frame as it arrives.
func wired(t *testing.T, fr *pb.LinkFrame) *pb.LinkFrame {
	t.Helper()
	buf, err := fr.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	out := &pb.LinkFrame{}
	if err := out.UnmarshalVT(buf); err != nil {
		t.Fatal(err)
	}
	return out
}

// ask brings what the sink wants to the source, whose feeds begin closed at 1.
func (b *both) ask() {
	req := b.sink.Ask()
	for _, id := range req.GetUnsubscribe() {
		b.source.Detach(shard.RangeID(id))
	}
	for _, m := range req.GetSpans() {
		if err := b.source.Ask(m); err != nil {
			b.t.Fatal(err)
		}
	}
	for _, id := range req.GetSubscribe() {
		b.source.Attach(shard.RangeID(id), shard.FeedItem{Closed: 1, Generation: 1})
	}
}

func (b *both) want(what string, want ...string) {
	b.t.Helper()
	for _, more := b.carry(); more; {
		_, more = b.carry()
	}
	byFeed := func(x, y string) int { return cmp.Compare(x[0], y[0]) } // those of different feeds may come in any order
	slices.SortStableFunc(b.got, byFeed)
	slices.SortStableFunc(want, byFeed)
	if !slices.Equal(b.got, want) {
		b.t.Errorf("%s: got %q, want %q", what, b.got, want)
	}
	b.got = nil
}

func (b *both) publish(id shard.RangeID, item shard.FeedItem) { b.source.Publish(id, NewItem(item)) }

func events(size int, revs ...int64) (evs []*shard.Event) {
	for _, r := range revs {
		evs = append(evs, &shard.Event{KV: shard.KeyValue{Key: []byte("k"), Value: make([]byte, size), ModRevision: r}})
	}
	return evs
}

// TestMarks: those of feeds of which nothing waits share a message, those of others come with their events, and a feed that is not
// closed at the revision is excepted.
func TestMarks(t *testing.T) {
	b := newBoth(t, Limits{})
	for id := shard.RangeID(2); id <= 6; id++ {
		b.sink.Subscribe(id)
	}
	b.ask()
	b.want("attached", "2@1 gap c1", "3@1 gap c1", "4@1 gap c1", "5@1 gap c1", "6@1 gap c1")
	for id := shard.RangeID(2); id <= 5; id++ {
		b.publish(id, shard.FeedItem{Closed: 4, Generation: 1})
		b.publish(id, shard.FeedItem{Closed: 5, Generation: 1})
	}
	b.publish(3, shard.FeedItem{Events: events(1, 6), Generation: 1, Closed: 5})
	b.publish(3, shard.FeedItem{Closed: 7, Generation: 1})
	b.publish(3, shard.FeedItem{Events: events(1, 8), Generation: 1, Closed: 7})
	fr, err := b.source.Next()
	if err != nil || len(fr.Messages) != 3 || fr.Messages[2].Closed.GetAllTo() != 5 || len(fr.Messages[2].Closed.Except) != 2 {
		t.Errorf("%v, %v", fr, err)
	}
	if size := fr.Messages[2].SizeVT(); size > 20 {
		t.Errorf("a mark of many feeds takes %d bytes", size)
	}
	if _, err := b.sink.Take(wired(t, fr), b); err != nil {
		t.Fatal(err)
	}
	b.want("closed", "3@1 e6 c7", "3@1 e8 c7", "2@1 c5", "4@1 c5", "5@1 c5")
	b.publish(2, shard.FeedItem{Closed: 9, Generation: 1})
	b.want("one of many", "2@1 c9")
}

// TestGenerations: a feed is attached again when its range changes generation, what was closed before is told before, and
// what is closed in the new one comes with its first item and not sooner: it may be less.
func TestGenerations(t *testing.T) {
	b := newBoth(t, Limits{})
	b.sink.Subscribe(2)
	b.ask()
	b.want("attached", "2@1 gap c1")
	b.publish(2, shard.FeedItem{Closed: 9, Generation: 1})
	b.publish(2, shard.FeedItem{Closed: 3, Generation: 2, Gap: true})
	b.publish(2, shard.FeedItem{Closed: 4, Generation: 2})
	b.publish(2, shard.FeedItem{Closed: 5, Generation: 3})
	b.publish(2, shard.FeedItem{Closed: 6, Generation: 3})
	b.want("two changes", "2@1 c9", "2@2 gap c4", "2@3 c6")
	b.publish(2, shard.FeedItem{Closed: 7, Generation: 4})
	b.publish(2, shard.FeedItem{Events: events(1, 9), Closed: 7, Generation: 4})
	b.want("and one with events behind it", "2@4 c7", "2@4 e9 c7")
}

// TestAHogLosesItsOwn: where too much waits, the feed of which most does is the one that loses it. It says so, nothing of it is
// closed meanwhile, and it is attached again, closed where its range is, though nothing follows.
func TestAHogLosesItsOwn(t *testing.T) {
	b := newBoth(t, Limits{Bytes: 100 << 10})
	b.sink.Subscribe(2)
	b.sink.Subscribe(3)
	b.ask()
	b.want("attached", "2@1 gap c1", "3@1 gap c1")
	for rev := int64(2); rev < 50; rev++ {
		b.publish(2, shard.FeedItem{Events: events(2<<10, rev), Closed: rev - 1, Generation: 1})
		if rev < 40 {
			continue
		}
		b.publish(3, shard.FeedItem{Events: events(1, rev), Closed: rev, Generation: 1})
	}
	b.publish(2, shard.FeedItem{Closed: 60, Generation: 1})
	if n := b.source.Drops(); n < 40 || n > 48 {
		t.Errorf("%d items were dropped", n)
	}
	fr, err := b.source.Next()
	if err != nil || fr.Messages[0].Lost != 1 {
		t.Fatalf("%v, %v", fr, err)
	}
	if _, err := b.sink.Take(fr, b); err != nil {
		t.Fatal(err)
	}
	var want []string
	for rev := 40; rev < 50; rev++ {
		want = append(want, fmt.Sprintf("3@1 e%d c%d", rev, rev))
	}
	b.want("what is left", append(want, "2@1 gap c60")...)
	b.publish(2, shard.FeedItem{Events: events(1, 61), Closed: 60, Generation: 1})
	b.want("and it goes on", "2@1 e61 c60")
	b.publish(2, shard.FeedItem{Events: events(200<<10, 62), Closed: 60, Generation: 1})
	b.want("one of any size may wait", "2@1 e62 c60")
}

// TestALostFeedIsNotClosed: as long as there is no room for it, what is closed of it is not told, though that of all others is.
func TestALostFeedIsNotClosed(t *testing.T) {
	b := newBoth(t, Limits{Bytes: 10 << 10, Turn: 1, Frame: 1})
	for id := shard.RangeID(2); id <= 5; id++ {
		b.sink.Subscribe(id)
	}
	b.ask()
	b.want("attached", "2@1 gap c1", "3@1 gap c1", "4@1 gap c1", "5@1 gap c1")
	b.publish(3, shard.FeedItem{Events: events(4<<10, 3), Closed: 1, Generation: 1})
	b.publish(3, shard.FeedItem{Events: events(3<<10, 4), Closed: 1, Generation: 1})
	b.publish(4, shard.FeedItem{Events: events(6<<10, 2), Closed: 1, Generation: 1})
	b.publish(5, shard.FeedItem{Closed: 9, Generation: 1})
	b.publish(4, shard.FeedItem{Closed: 9, Generation: 1})
	b.publish(3, shard.FeedItem{Closed: 9, Generation: 1})
	b.publish(2, shard.FeedItem{Closed: 9, Generation: 1})
	b.carry()
	if want := []string{"4@1 e2 c9", "2@1 c9", "5@1 c9"}; !slices.Equal(slices.Sorted(slices.Values(b.got)), slices.Sorted(slices.Values(want))) {
		t.Errorf("got %q", b.got)
	}
	b.got = nil
	if at := b.sink.Position(); at != (Position{Attached: 3, Closed: 9}) {
		t.Errorf("while one is lost: %+v", at)
	}
	b.want("then", "3@1 gap c9")
	if at := b.sink.Position(); at != (Position{Attached: 4, Closed: 9}) {
		t.Errorf("in the end: %+v", at)
	}
	if c := b.sink.Counts(); c.Gap != 5 || c.Lost != 1 || c.Whole != 0 || c.Bytes == 0 || b.sink.Counts() != (Counts{}) {
		t.Errorf("%+v", c)
	}
}

// TestPositionIsTheLowest: the feed that is furthest behind counts, and none that is not wanted.
func TestPositionIsTheLowest(t *testing.T) {
	b := newBoth(t, Limits{})
	b.sink.Subscribe(2)
	b.sink.Subscribe(3)
	if at := b.sink.Position(); at != (Position{}) {
		t.Errorf("before anything came: %+v", at)
	}
	b.ask()
	b.want("attached", "2@1 gap c1", "3@1 gap c1")
	b.publish(2, shard.FeedItem{Closed: 7, Generation: 1})
	b.want("one", "2@1 c7")
	if at := b.sink.Position(); at != (Position{Attached: 2, Closed: 1}) {
		t.Errorf("%+v", at)
	}
	b.sink.Unsubscribe(3)
	if at := b.sink.Position(); at != (Position{Attached: 1, Closed: 7}) {
		t.Errorf("%+v", at)
	}
}

// TestAHogTakesTurns: a feed of which much waits does not hold up others.
func TestAHogTakesTurns(t *testing.T) {
	b := newBoth(t, Limits{})
	b.sink.Subscribe(2)
	b.sink.Subscribe(3)
	b.ask()
	b.want("attached", "2@1 gap c1", "3@1 gap c1")
	for rev := int64(2); rev < 1000; rev++ {
		b.publish(2, shard.FeedItem{Events: events(1<<10, rev), Closed: rev - 1, Generation: 1})
	}
	b.publish(3, shard.FeedItem{Events: events(1, 2000), Closed: 1000, Generation: 1})
	b.carry()
	if n := len(b.got); n > 100 || !slices.Contains(b.got, "3@1 e2000 c1000") {
		t.Errorf("%d items in the first frame: %q", n, b.got)
	}
}

func cut(closed int64, child shard.RangeID) shard.FeedItem {
	return shard.FeedItem{Closed: closed, Generation: 1, Border: &shard.Border{At: []byte("m"), Child: child, Generation: 2}}
}

// TestAChildFollowsItsBorder: without being asked for, closed where the border is, and without a gap; however much waits before the
// border, and across two of them.
func TestAChildFollowsItsBorder(t *testing.T) {
	b := newBoth(t, Limits{Turn: 1, Frame: 1})
	b.sink.Subscribe(2)
	b.ask()
	b.publish(2, shard.FeedItem{Events: events(1, 5), Closed: 4, Generation: 1})
	if !b.source.PublishBorder(2, NewItem(cut(9, 3))) {
		t.Error("the child is not attached")
	}
	b.publish(3, shard.FeedItem{Events: events(1, 11), Closed: 9, Generation: 2})
	b.publish(3, shard.FeedItem{Closed: 12, Generation: 2})
	at := cut(13, 4)
	at.Generation, at.Border.Generation = 2, 3
	if !b.source.PublishBorder(3, NewItem(at)) {
		t.Error("the child's child is not attached")
	}
	b.publish(4, shard.FeedItem{Closed: 15, Generation: 3})
	b.publish(2, shard.FeedItem{Closed: 10, Generation: 2})
	b.want("", "2@1 gap c1", "2@1 e5 c4", "2@1 border of 3 c9", "2@2 c10", "3@2 c9", "3@2 e11 c12", "3@2 border of 4 c13", "4@3 c15")
	b.sink.Subscribe(3)
	if req := b.sink.Ask(); req != nil {
		t.Errorf("asked for what comes: %v", req)
	}
	b.publish(3, shard.FeedItem{Closed: 20, Generation: 3})
	for range heirTicks + 1 {
		gone, _ := b.sink.Tick()
		if len(gone) > 0 && (len(gone) != 1 || gone[0] != 4) {
			t.Errorf("gone: %v", gone)
		}
	}
	if req := b.sink.Ask(); len(req.GetUnsubscribe()) != 1 || req.Unsubscribe[0] != 4 {
		t.Errorf("asked %v, when nobody has wanted 4", req)
	}
	b.want("3 goes on", "3@3 c20")
}

// TestAChildElsewhere: one that has been begun elsewhere does not come, nor one whose border found no room, which is told as a loss of
// the parent's.
func TestAChildElsewhere(t *testing.T) {
	b := newBoth(t, Limits{})
	b.sink.Subscribe(2)
	b.ask()
	b.want("attached", "2@1 gap c1")
	b.refuses = true
	b.source.PublishBorder(2, NewItem(cut(9, 3)))
	b.publish(3, shard.FeedItem{Closed: 12, Generation: 2})
	b.want("", "2@1 border of 3 c9")
	if req := b.sink.Ask(); len(req.GetUnsubscribe()) != 1 || req.Unsubscribe[0] != 3 {
		t.Errorf("asked %v", req)
	}

	b = newBoth(t, Limits{Bytes: 10 << 10})
	b.sink.Subscribe(2)
	b.ask()
	b.want("attached", "2@1 gap c1")
	b.publish(2, shard.FeedItem{Events: events(9<<10, 2), Generation: 1})
	b.source.PublishBorder(2, NewItem(cut(9, 3)))
	if !b.source.Has(3) {
		t.Fatal("the child is not attached")
	}
	b.publish(2, shard.FeedItem{Events: events(1<<10, 10), Closed: 9, Generation: 2})
	if b.source.Has(3) {
		t.Error("the child of a border that was dropped is attached")
	}
	b.want("", "2@2 gap c9")
}

// TestAChildThatDoesNotCome: whoever expects a child behind its border hears at once that its feed is to be had elsewhere.
func TestAChildThatDoesNotCome(t *testing.T) {
	b := newBoth(t, Limits{})
	b.sink.Subscribe(2)
	b.ask()
	b.want("attached", "2@1 gap c1")
	b.publish(2, cut(9, 3)) // the source has the child in another way
	gone, _ := b.carry()
	if len(gone) != 1 || gone[0] != 3 {
		t.Errorf("gone: %v", gone)
	}
	b.want("the border", "2@1 border of 3 c9")
	b.sink.Subscribe(3)
	b.ask()
	b.want("asked for, it comes", "3@1 gap c1")
}

// TestWhatIsOver: nothing comes of a feed that is not wanted any more, of one that has been subscribed to again nothing before it is
// attached again, and whose range is elsewhere that is told.
func TestWhatIsOver(t *testing.T) {
	b := newBoth(t, Limits{Frame: 1, Turn: 1})
	for id := shard.RangeID(2); id <= 4; id++ {
		b.sink.Subscribe(id)
	}
	b.ask()
	b.want("attached", "2@1 gap c1", "3@1 gap c1", "4@1 gap c1")
	b.publish(2, shard.FeedItem{Events: events(1, 3), Closed: 2, Generation: 1})
	b.sink.Unsubscribe(2)
	b.want("unsubscribed")
	b.ask()
	b.sink.Unsubscribe(3)
	b.sink.Subscribe(3)
	b.sink.Subscribe(2)
	b.source.Attach(3, shard.FeedItem{Closed: 5, Generation: 1}) // as it is when the sink still has the former
	b.publish(4, shard.FeedItem{Closed: 9, Generation: 1})
	b.ask()
	b.want("subscribed again", "4@1 c9", "2@1 gap c1", "3@1 gap c1")
	b.source.End(3)
	gone, _ := b.carry()
	if len(gone) != 1 || gone[0] != 3 {
		t.Errorf("gone: %v", gone)
	}
	b.ask()
	b.sink.Subscribe(3)
	b.source.End(3) // of what was asked before
	b.ask()
	b.want("and back", "3@1 gap c1")
}

// TestAnAttachmentThatIsOverIsTold: the source begins a feed anew, and closes all others before there is room to say so. That is not
// taken to be about the former attachment.
func TestAnAttachmentThatIsOverIsTold(t *testing.T) {
	b := newBoth(t, Limits{Frame: 1, Turn: 1})
	for id := shard.RangeID(2); id <= 6; id++ {
		b.sink.Subscribe(id)
	}
	b.ask()
	b.want("attached", "2@1 gap c1", "3@1 gap c1", "4@1 gap c1", "5@1 gap c1", "6@1 gap c1")
	b.publish(2, shard.FeedItem{Events: events(1, 3), Closed: 2, Generation: 1})
	b.publish(3, shard.FeedItem{Events: events(1, 3), Closed: 2, Generation: 1})
	b.source.Attach(3, shard.FeedItem{Closed: 3, Generation: 1})
	for _, id := range []shard.RangeID{2, 4, 5, 6} {
		b.publish(id, shard.FeedItem{Closed: 9, Generation: 1})
	}
	b.carry()
	if slices.Contains(b.got, "3@1 c9") || !slices.Contains(b.got, "4@1 c9") {
		t.Errorf("got %q", b.got)
	}
	b.want("all", "2@1 e3 c9", "4@1 c9", "5@1 c9", "6@1 c9", "3@1 gap c3")
}

// TestSilence: three intervals without a word end a link.
func TestSilence(t *testing.T) {
	k := NewSink()
	for range 2 {
		for i := range silentMax + 1 {
			if _, dead := k.Tick(); dead != (i == silentMax) {
				t.Errorf("after %d intervals: dead %v", i+1, dead)
			}
		}
		if _, err := k.Take(&pb.LinkFrame{}, &taker{t: t}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWhatASourceTakes: there is an end of what the other side may ask for.
func TestWhatASourceTakes(t *testing.T) {
	s := NewSource(Limits{Feeds: 3})
	ok := true
	for id := shard.RangeID(2); id < 5; id++ {
		ok = ok && s.Attach(id, shard.FeedItem{})
	}
	if !ok || s.Attach(5, shard.FeedItem{}) {
		t.Error("three feeds are taken, and no fourth")
	}
	s = NewSource(Limits{Feeds: 3})
	for id := shard.RangeID(2); id < 5; id++ {
		ok = ok && s.End(id)
	}
	if !ok || s.End(5) {
		t.Error("three may be asked for in vain, and no fourth")
	}
}

// TestAFrameThatLies: one whose attachments are not in order, and one that is damaged, end the link.
func TestAFrameThatLies(t *testing.T) {
	b := newBoth(t, Limits{})
	b.sink.Subscribe(2)
	b.ask()
	b.want("attached", "2@1 gap c1")
	for _, m := range []*pb.LinkMessage{
		{Attached: &pb.LinkAttached{RangeId: 2, Number: 1}},
		{Item: &pb.LinkItem{Number: 1, Body: []byte{0x0a, 0x7f}}},
	} {
		if _, err := b.sink.Take(&pb.LinkFrame{Messages: []*pb.LinkMessage{m}}, b); err == nil {
			t.Errorf("%v is taken", m)
		}
	}
}

// TestRank: the listeners of a range spread over its nodes, and the ranges of a listener; one that is gone moves what it had alone.
func TestRank(t *testing.T) {
	first := map[shard.NodeID]int{}
	for id := shard.RangeID(1); id <= 3000; id++ {
		nodes := []shard.NodeID{1, 2, 3}
		Rank(9, id, nodes)
		first[nodes[0]]++
		rest := slices.DeleteFunc([]shard.NodeID{3, 2, 1}, func(n shard.NodeID) bool { return n == nodes[1] })
		if Rank(9, id, rest); rest[0] != nodes[0] {
			t.Fatalf("range %v moves from %v to %v when %v goes", id, nodes[0], rest[0], nodes[1])
		}
	}
	for n, c := range first {
		if c < 900 || c > 1100 {
			t.Errorf("node %v is asked for %d of 3000 ranges", n, c)
		}
	}
}

// TestMutants: each rule that is taken out is noticed.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.LinkNames(), time.Minute, mutatetest.NoticedBy, "-test.run=^Test[^M]")
}
