package host

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// follower notes the items of each range, and whether it was told that they come from here.
type follower struct {
	items map[shard.RangeID][]shard.FeedItem
	held  map[shard.RangeID]bool
}

func newFollower() *follower {
	return &follower{items: map[shard.RangeID][]shard.FeedItem{}, held: map[shard.RangeID]bool{}}
}

func (l *follower) Publish(id shard.RangeID, item shard.FeedItem) {
	l.items[id] = append(l.items[id], item)
}
func (l *follower) Held(id shard.RangeID, held bool) { l.held[id] = held }

// atBorder returns feeds in which range 2 is about to be cut: a hub of this process and one of another node, which calls
// the feed 77, listen to it.
func atBorder() (f *feeds, rs *ranges, l *follower, cut shard.FeedItem) {
	rs = newRanges(1, nil, nil, slog.New(slog.DiscardHandler), "", 0, rangesEnv{})
	f = newFeeds(rs)
	l = newFollower()
	f.Subscribe(2, l)
	fan := f.fan(2, false)
	fan.held = true // as tell does with a replica
	st := newFeedStream()
	st.name = 77
	fan.streams[st] = struct{}{}
	return f, rs, l, shard.FeedItem{Closed: 9, Generation: 1, Border: &shard.Border{At: []byte("m"), Child: 3, Generation: 2}}
}

// childItem is one of the child's first.
func childItem(rev int64) shard.FeedItem {
	item := put(rev, 1)
	item.Closed, item.Generation = rev, 2
	return item
}

// followChild asks for what was kept and collects the frames until ctx ends.
func followChild(ctx context.Context, f *feeds, frames *[]*pb.FeedFrame) error {
	return f.serve(ctx, &pb.FeedRequest{RangeId: 3, Parent: 77, Name: 78}, func(fr *pb.FeedFrame) error {
		*frames = append(*frames, fr)
		return nil
	})
}

// TestWhoListensToAParentListensToItsChild: what comes of a child before its listeners have asked for its feed reaches
// them, here and on another node, and nothing is missing.
func TestWhoListensToAParentListensToItsChild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, rs, l, cut := atBorder()
		f.Publish(2, cut)
		f.born(3)
		f.Publish(3, childItem(10))
		rs.byID.Put(3, new(replica.Replica))
		f.replicaChanged(3)
		f.Subscribe(3, l)
		f.replicaChanged(3)
		f.Publish(3, childItem(11))
		if got := l.items[3]; len(got) != 2 || got[0].Gap || got[1].Gap || !l.held[3] {
			t.Errorf("the hub here has %+v, held %v", got, l.held[3])
		}
		if b := l.items[2][0].Border; b != cut.Border {
			t.Errorf("the border came as %+v", b)
		}

		ctx, cancel := context.WithCancel(t.Context())
		var frames []*pb.FeedFrame
		ended := make(chan error, 1)
		go func() { ended <- followChild(ctx, f, &frames) }()
		synctest.Wait()
		f.Publish(3, childItem(12))
		<-time.After(2 * heirPatience)
		synctest.Wait()
		f.Publish(3, childItem(13))
		synctest.Wait()
		if len(frames) != 5 || frames[0].Base != 9 || frames[0].Closed != 9 || frames[0].Generation != 2 {
			t.Fatalf("the other hub has %v", frames)
		}
		for i, fr := range frames[1:] {
			if fr.Gap || fr.Base != 0 || len(fr.Events) != 1 || fr.Closed != int64(10+i) {
				t.Errorf("frame %d: %v", i, fr)
			}
		}
		// A cut of the child is told on under the name that the other hub gave its feed.
		f.Publish(3, shard.FeedItem{Closed: 14, Generation: 2, Border: &shard.Border{At: []byte("t"), Child: 4, Generation: 3}})
		if st := f.heirs.take(heirKey{parent: 78, child: 4}); st == nil {
			t.Error("nothing is kept of the child's child")
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
		<-time.After(2 * heirPatience)
		synctest.Wait()
		if n := len(f.fan(3, false).streams); n != 0 {
			t.Errorf("%d streams are left", n)
		}
		rs.byID.Delete(3)
		f.replicaChanged(3)
		if l.held[3] {
			t.Error("the child has left, and nobody was told")
		}
	})
}

// TestAChildOfAnotherOrigin: a replica of the child that was not made of its parent's at the border begins its feed with a gap,
// and one that is here before the border is none of its business.
func TestAChildOfAnotherOrigin(t *testing.T) {
	t.Run("opened in another state", func(t *testing.T) {
		f, _, l, cut := atBorder()
		f.Publish(2, cut)
		f.Publish(3, childItem(20))
		f.Publish(3, childItem(21))
		if got := l.items[3]; len(got) != 2 || !got[0].Gap || got[1].Gap {
			t.Errorf("the hub has %+v", got)
		}
		st := f.heirs.take(heirKey{parent: 77, child: 3})
		if item, ok := st.next(); !ok || !item.Gap {
			t.Errorf("the other hub has %+v", item)
		}
	})
	t.Run("here before", func(t *testing.T) {
		f, rs, l, cut := atBorder()
		rs.byID.Put(3, new(replica.Replica))
		f.Publish(2, cut)
		f.born(3)
		f.Publish(3, childItem(20))
		if len(l.items[3]) != 0 || f.heirs.take(heirKey{parent: 77, child: 3}) != nil {
			t.Errorf("the hub has %+v", l.items[3])
		}
	})
	t.Run("subscribed before", func(t *testing.T) {
		f, _, l, cut := atBorder()
		f.Subscribe(3, l)
		f.Publish(2, cut)
		f.born(3)
		f.Publish(3, childItem(20))
		if l.held[3] || len(l.items[3]) != 0 {
			t.Errorf("the hub was told that nothing is here, and has %+v", l.items[3])
		}
	})
	t.Run("never opened", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f, _, l, cut := atBorder()
			f.Publish(2, cut)
			f.Subscribe(3, l)
			if !l.held[3] {
				t.Error("the child is expected here")
			}
			var frames []*pb.FeedFrame
			ended := make(chan error, 1)
			go func() { ended <- followChild(t.Context(), f, &frames) }()
			<-time.After(2 * heirPatience)
			synctest.Wait()
			if err := <-ended; !errors.Is(err, errNoReplica) || l.held[3] {
				t.Errorf("ended with %v, held %v", err, l.held[3])
			}
		})
	})
	t.Run("never asked for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f, rs, _, cut := atBorder()
			f.Publish(2, cut)
			rs.byID.Put(3, new(replica.Replica))
			<-time.After(2 * heirPatience)
			synctest.Wait()
			var frames []*pb.FeedFrame
			kept, err := f.serveHeir(t.Context(), &pb.FeedRequest{RangeId: 3, Parent: 77}, nil)
			if kept || err != nil || len(frames) != 0 || len(f.fan(3, false).streams) != 0 {
				t.Errorf("kept %v, %v", kept, err)
			}
		})
	})
}

// TestWhatIsKeptIsBounded: a hub of another node that takes its time hears of a gap.
func TestWhatIsKeptIsBounded(t *testing.T) {
	f, _, _, cut := atBorder()
	f.Publish(2, cut)
	f.born(3)
	for rev := int64(10); rev < 20+heirQueueItems; rev++ {
		f.Publish(3, childItem(rev))
	}
	st := f.heirs.take(heirKey{parent: 77, child: 3})
	if n := len(st.queue); n != heirQueueItems {
		t.Errorf("%d items are kept", n)
	}
	st.widen()
	f.Publish(3, childItem(1000))
	var last shard.FeedItem
	for item, ok := st.next(); ok; item, ok = st.next() {
		last = item
	}
	if !last.Gap || last.Closed != 1000 {
		t.Errorf("the last is %+v", last)
	}
	for i := range uint64(heirsMax + 10) {
		f.heirs.put(heirKey{parent: i}, st)
	}
	if n := len(f.heirs.byKey); n != heirsMax {
		t.Errorf("%d feeds are kept", n)
	}
}

// TestALossOverABorder: what an item that was dropped had closed does not count for the next generation.
func TestALossOverABorder(t *testing.T) {
	st := newFeedStream()
	st.itemsMax = 1
	st.offer(shard.FeedItem{Closed: 1, Generation: 1})
	st.offer(shard.FeedItem{Closed: 9, Generation: 1})
	st.offer(shard.FeedItem{Closed: 4, Generation: 2})
	st.next()
	if item, _ := st.next(); !item.Gap || item.Closed != 4 || item.Generation != 2 {
		t.Errorf("%+v", item)
	}
}
