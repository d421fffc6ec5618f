package host

import (
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/shard"
	"pontoon/shard/replica"
)

// follower notes the items of each range, and whether it was told that they come from here.
type follower struct {
	mu    sync.Mutex
	items map[shard.RangeID][]shard.FeedItem
	held  map[shard.RangeID]bool
}

func newFollower() *follower {
	return &follower{items: map[shard.RangeID][]shard.FeedItem{}, held: map[shard.RangeID]bool{}}
}

func (l *follower) Publish(id shard.RangeID, item shard.FeedItem) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.items[id] = append(l.items[id], item)
}

func (l *follower) Held(id shard.RangeID, held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[id] = held
}

// of is what it was told of a range.
func (l *follower) of(id shard.RangeID) []shard.FeedItem {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.items[id])
}

// isHeld is what it was told last.
func (l *follower) isHeld(id shard.RangeID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[id]
}

// atBorder returns feeds in which range 2 is about to be cut: a hub of this process and a link to another one listen to it.
func atBorder(t *testing.T) (f *feeds, rs *ranges, l *follower, o far, cut shard.FeedItem) {
	rs = newRanges(1, nil, nil, slog.New(slog.DiscardHandler), "", 0, rangesEnv{})
	f = newFeeds(rs)
	l = newFollower()
	f.Subscribe(2, l)
	rs.byID.Put(2, new(replica.Replica))
	fan := f.fan(2, false)
	fan.held = true // as tell does with a replica
	f.Publish(2, shard.FeedItem{Closed: 8, Generation: 1})
	delete(l.items, 2)
	o, _ = serveFar(t, f)
	o.Want(2)
	return f, rs, l, o, shard.FeedItem{Closed: 9, Generation: 1, Border: &shard.Border{At: []byte("m"), Child: 3, Generation: 2}}
}

// childItem is one of the child's first.
func childItem(rev int64) shard.FeedItem {
	item := put(rev, 1)
	item.Closed, item.Generation = rev, 2
	return item
}

// TestWhoListensToAParentListensToItsChild: what comes of a child before its listeners have asked for its feed reaches
// them, here and in another process, and nothing is missing.
func TestWhoListensToAParentListensToItsChild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, rs, l, o, cut := atBorder(t)
		f.Publish(2, cut)
		f.born(3)
		f.Publish(3, childItem(10))
		rs.byID.Put(3, new(replica.Replica))
		f.replicaChanged(3)
		f.Subscribe(3, l)
		f.replicaChanged(3)
		f.Publish(3, childItem(11))
		if got := l.of(3); len(got) != 2 || got[0].Gap || got[1].Gap || !l.isHeld(3) {
			t.Errorf("the hub here has %+v, held %v", got, l.isHeld(3))
		}
		if b := l.of(2)[0].Border; b != cut.Border {
			t.Errorf("the border came as %+v", b)
		}

		synctest.Wait() // the border has come
		o.Want(3)
		f.Publish(3, childItem(12))
		<-time.After(2 * heirPatience)
		synctest.Wait()
		f.Publish(3, childItem(13))
		synctest.Wait()
		got := o.got.of(3)
		if len(got) != 5 || got[0].Gap || got[0].Closed != 9 || got[0].Generation != 2 {
			t.Fatalf("the other hub has %+v", got)
		}
		for i, it := range got[1:] {
			if it.Gap || len(it.Events) != 1 || it.Closed != int64(10+i) {
				t.Errorf("item %d: %+v", i, it)
			}
		}
		f.Publish(3, shard.FeedItem{Closed: 14, Generation: 2, Border: &shard.Border{At: []byte("t"), Child: 4, Generation: 3}})
		synctest.Wait()
		if got := o.got.of(4); len(got) != 1 || got[0].Gap || got[0].Closed != 14 {
			t.Errorf("of the child's child the other hub has %+v", got)
		}
		o.Leave(3)
		if n := listening(f, 3); n != 0 {
			t.Errorf("%d links listen to the child", n)
		}
		rs.byID.Delete(3)
		f.replicaChanged(3)
		if l.isHeld(3) {
			t.Error("the child has left, and nobody was told")
		}
	})
}

// TestAChildOfAnotherOrigin: a replica of the child that was not made of its parent's at the border begins its feed with a gap,
// and one that is here before the border is none of its business.
func TestAChildOfAnotherOrigin(t *testing.T) {
	scenario := func(what string, run func(t *testing.T)) {
		t.Run(what, func(t *testing.T) { synctest.Test(t, run) })
	}
	scenario("opened in another state", func(t *testing.T) {
		f, _, l, o, cut := atBorder(t)
		f.Publish(2, cut)
		f.Publish(3, childItem(20))
		f.Publish(3, childItem(21))
		synctest.Wait()
		if got := l.of(3); len(got) != 2 || !got[0].Gap || got[1].Gap {
			t.Errorf("the hub has %+v", got)
		}
		if got := o.got.of(3); len(got) != 3 || got[0].Gap || !got[1].Gap || got[2].Gap {
			t.Errorf("the other hub has %+v", got)
		}
	})
	scenario("here before", func(t *testing.T) {
		f, rs, l, o, cut := atBorder(t)
		rs.byID.Put(3, new(replica.Replica))
		f.Publish(2, cut)
		f.born(3)
		f.Publish(3, childItem(20))
		synctest.Wait()
		if len(l.of(3)) != 0 || len(o.got.of(3)) != 0 {
			t.Errorf("the hub has %+v, the other one %+v", l.of(3), o.got.of(3))
		}
		if !slices.Equal(o.Gone(), []shard.RangeID{3}) {
			t.Errorf("the other hub waits for the child: elsewhere are %v", o.Gone())
		}
		if len(l.of(2)) != 1 || !slices.ContainsFunc(o.got.of(2), func(it shard.FeedItem) bool { return it.Border != nil }) {
			t.Error("the border has not come")
		}
	})
	scenario("subscribed before", func(t *testing.T) {
		f, _, l, _, cut := atBorder(t)
		f.Subscribe(3, l)
		f.Publish(2, cut)
		f.born(3)
		f.Publish(3, childItem(20))
		if l.isHeld(3) || len(l.of(3)) != 0 {
			t.Errorf("the hub was told that nothing is here, and has %+v", l.of(3))
		}
	})
	scenario("never opened", func(t *testing.T) {
		f, _, l, o, cut := atBorder(t)
		f.Publish(2, cut)
		f.Subscribe(3, l)
		if !l.isHeld(3) {
			t.Error("the child is expected here")
		}
		<-time.After(2 * heirPatience)
		synctest.Wait()
		if !slices.Equal(o.Gone(), []shard.RangeID{3}) || l.isHeld(3) {
			t.Errorf("to be had elsewhere: %v, held %v", o.Gone(), l.isHeld(3))
		}
	})
}
