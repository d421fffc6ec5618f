package link

import (
	"slices"
	"strings"
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// hop is a gateway in the middle: what comes to it by one link is handed on by others.
type hop struct {
	fans map[shard.RangeID]*Fan
}

// Publish implements Taker.
func (h *hop) Publish(id shard.RangeID, it shard.FeedItem) {
	f := h.fan(id)
	f.Take(&it)
	if b := it.Border; b != nil {
		f.HandBorder(id, it, h.fan(b.Child))
		return
	}
	f.Hand(id, it)
}

// Inherit implements Taker.
func (h *hop) Inherit(_, _ shard.RangeID) bool { return true }

func (h *hop) fan(id shard.RangeID) *Fan {
	if h.fans[id] == nil {
		h.fans[id] = &Fan{}
	}
	return h.fans[id]
}

// Attach, Publish, PublishBorder and End make both a Listener.
type listener struct{ *Source }

func (l listener) Attach(id shard.RangeID, begin shard.FeedItem) { l.Source.Attach(id, begin) }
func (l listener) PublishBorder(id shard.RangeID, it *Item) (heir bool) {
	return l.Source.PublishBorder(id, it)
}
func (l listener) End(id shard.RangeID) { l.Source.End(id) }

// TestWhatIsPassedOn: a gateway in the middle passes everything on as it came: events and marks in their order, generations, gaps, and children behind their
// borders; who comes later hears how far the feed is, and nobody else does.
func TestWhatIsPassedOn(t *testing.T) {
	up, down, late := newBoth(t, Limits{}), newBoth(t, Limits{}), newBoth(t, Limits{})
	mid := &hop{fans: map[shard.RangeID]*Fan{}}
	carry := func() {
		t.Helper()
		for {
			fr, err := up.source.Next()
			if err != nil {
				t.Fatal(err)
			}
			if fr == nil {
				return
			}
			if _, err := up.sink.Take(wired(t, fr), mid); err != nil {
				t.Fatal(err)
			}
		}
	}
	listen := func(b *both, id shard.RangeID) (known bool) {
		b.sink.Subscribe(id)
		b.sink.Ask()
		return mid.fan(id).Listen(id, listener{b.source})
	}
	if listen(down, 2) {
		t.Error("something is known of a feed that has not come")
	}
	up.sink.Subscribe(2)
	up.ask()
	carry()
	down.want("begun", "2@1 gap c1")
	up.publish(2, shard.FeedItem{Events: events(1, 5, 6), Closed: 4, Generation: 1})
	up.publish(2, shard.FeedItem{Closed: 6, Generation: 1})
	carry()
	down.want("events and their mark", "2@1 e5 e6 c6")
	if !listen(late, 2) {
		t.Error("nothing is known of a feed that has come")
	}
	down.want("nothing for who was there")
	late.want("for who comes late", "2@1 gap c6")
	up.publish(2, shard.FeedItem{Closed: 7, Generation: 1, Gap: true})
	carry()
	down.want("a gap", "2@1 gap c7")
	late.want("for all", "2@1 gap c7")
	up.source.Detach(2) // the feed is lost on its way to the gateway, and comes again
	up.source.Attach(2, shard.FeedItem{Closed: 9, Generation: 1})
	carry()
	down.want("a loss above is a gap", "2@1 gap c9")
	late.want("for all", "2@1 gap c9")
	if !up.source.PublishBorder(2, NewItem(cut(10, 3))) {
		t.Fatal("the child is not attached")
	}
	up.publish(3, shard.FeedItem{Events: events(1, 11), Closed: 10, Generation: 2})
	up.publish(2, shard.FeedItem{Closed: 12, Generation: 2})
	carry()
	want := []string{"2@1 border of 3 c10", "2@2 c12", "3@2 c10", "3@2 e11 c10"}
	down.want("a cut", slices.Clone(want)...)
	late.want("for all", want...)
	mid.fan(3).Leave(listener{late.source})
	late.source.Detach(3)
	up.publish(3, shard.FeedItem{Events: events(1, 14), Closed: 13, Generation: 2})
	carry()
	down.want("one is left", "3@2 e14 c13")
	late.want("it has left")
	mid.fan(3).End(3)
	if gone, _ := down.carry(); !slices.Equal(gone, []shard.RangeID{3}) || mid.fan(3).Len() != 0 {
		t.Errorf("gone: %v", gone)
	}
}

// TestWays: who is on the way of its own feeds is refused, and who would be the fifth; the way is that of all above, and one longer.
func TestWays(t *testing.T) {
	one := NewWay(1)
	two := NewWay(2, one, NewWay(9))
	if two.Level != 2 || !slices.Equal(two.Gateways, []uint64{1, 2, 9}) {
		t.Errorf("the way by two is %v", two)
	}
	four := NewWay(4, NewWay(3, two), one)
	for _, c := range []struct {
		self shard.NodeID
		way  *pb.LinkWay
		why  string
	}{
		{5, one, ""}, {5, NewWay(3, two), ""}, {1, one, "in a ring"}, {1, two, "in a ring"}, {5, four, "the last of 4 gateways"}, {2, four, "in a ring"},
	} {
		if err := CheckWay(c.self, c.way); (err == nil) != (c.why == "") || err != nil && !strings.Contains(err.Error(), c.why) {
			t.Errorf("gateway %d, by %v: %v", c.self, c.way, err)
		}
	}
	many := make([]*pb.LinkWay, wayMax+1)
	for i := range many {
		many[i] = NewWay(shard.NodeID(100 + i))
	}
	if CheckWay(1, NewWay(2, many...)) == nil {
		t.Error("any number of gateways on the way is taken")
	}
}
