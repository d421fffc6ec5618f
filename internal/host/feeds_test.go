package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/internal/link"
	"pontoon/internal/link/linktest"
	"pontoon/shard"
	"pontoon/shard/replica"
)

func put(rev int64, bytes int) shard.FeedItem {
	return shard.FeedItem{Closed: rev - 1, Index: uint64(rev), Events: []*shard.Event{{KV: shard.KeyValue{Key: []byte("k"), Value: make([]byte, bytes), ModRevision: rev}}}}
}

// Inherit implements link.Taker.
func (l *follower) Inherit(_, _ shard.RangeID) bool { return true }

// far is the other end of a link, and what came there.
type far struct {
	*linktest.End
	got *follower
}

// serveFar has a link served until the test ends, or end is called.
func serveFar(t *testing.T, f *feeds) (l far, end func() error) {
	t.Helper()
	l.got = newFollower()
	l.End, end = linktest.Serve(t, f.outlets.Serve, l.got)
	return l, end
}

// listening is how many links listen to a range.
func listening(f *feeds, id shard.RangeID) int {
	fan := f.fan(id, false)
	fan.mu.Lock()
	defer fan.mu.Unlock()
	return fan.links.Len()
}

// TestALinkServesFeeds: whoever begins to listen hears how far a feed has come, and nobody else does; a range that is not here, or leaves, is
// to be had elsewhere; a link that says nothing says that; and when it ends nobody listens any more.
func TestALinkServesFeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := newRanges(1, nil, nil, slog.New(slog.DiscardHandler), "", 0, rangesEnv{})
		f := newFeeds(rs)
		h := newFollower()
		f.Subscribe(2, h)
		rs.byID.Put(2, new(replica.Replica))
		f.fan(2, false).held = true // as tell does with a replica
		f.Publish(2, put(5, 1))
		l, end := serveFar(t, f)
		l.Want(2, 3)
		f.Publish(2, put(6, 1))
		synctest.Wait()
		if got := l.got.of(2); len(got) != 2 || !got[0].Gap || got[0].Closed != 4 || got[1].Gap || len(got[1].Events) != 1 {
			t.Errorf("the other end has %+v", got)
		}
		if got := h.of(2); len(got) != 2 || got[1].Gap {
			t.Errorf("the hub here has %+v", got)
		}
		if !slices.Equal(l.Gone(), []shard.RangeID{3}) {
			t.Errorf("to be had elsewhere: %v", l.Gone())
		}
		<-time.After(10 * link.Interval)
		synctest.Wait()
		if n := l.Idle(); n < 8 || n > 10 {
			t.Errorf("%d words in ten intervals of silence", n)
		}
		l.Leave(2)
		f.Publish(2, put(7, 1))
		l.Want(2)
		f.Publish(2, put(8, 1))
		synctest.Wait()
		if got := l.got.of(2); len(got) != 4 || !got[2].Gap || got[2].Closed != 6 || got[3].Closed != 7 {
			t.Errorf("subscribed again, the other end has %+v", got)
		}
		rs.byID.Delete(2)
		f.replicaChanged(2)
		synctest.Wait()
		if !slices.Equal(l.Gone(), []shard.RangeID{3, 2}) || listening(f, 2) != 0 {
			t.Errorf("to be had elsewhere: %v", l.Gone())
		}
		rs.byID.Put(2, new(replica.Replica))
		f.Publish(2, put(9, 1))
		l.Want(2)
		if n := f.outlets.Links(); n != 1 || listening(f, 2) != 1 {
			t.Errorf("%d links are open", n)
		}
		if err := end(); !errors.Is(err, context.Canceled) || f.outlets.Links() != 0 || listening(f, 2) != 0 {
			t.Errorf("ended with %v, %d open", err, f.outlets.Links())
		}
	})
}

// TestASlowLinkIsToldWhatItLost: a process that takes its time loses items, and hears of that though nothing follows.
func TestASlowLinkIsToldWhatItLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := newRanges(1, nil, nil, slog.New(slog.DiscardHandler), "", 0, rangesEnv{})
		f := newFeeds(rs)
		rs.byID.Put(2, new(replica.Replica))
		f.fan(2, true)
		f.Publish(2, put(1, 1))
		l, end := serveFar(t, f)
		l.Want(2)
		let := l.Hold()
		last := int64(60)
		for rev := int64(2); rev <= last; rev++ {
			f.Publish(2, put(rev, 1<<20))
			synctest.Wait()
		}
		f.Publish(2, shard.FeedItem{Closed: last})
		if n := f.outlets.Drops(); n < 20 {
			t.Errorf("%d items were dropped", n)
		}
		let()
		synctest.Wait()
		got := l.got.of(2)
		if end := got[len(got)-1]; end.Closed != last || len(got) > 40 {
			t.Errorf("%d items came, the last is %+v", len(got), end)
		}
		if !slices.ContainsFunc(got[1:], func(it shard.FeedItem) bool { return it.Gap }) {
			t.Error("nothing was told of a loss")
		}
		if err := end(); !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}

// listener notes what a subscriber is told.
type listener struct{ told []string }

func (l *listener) Publish(_ shard.RangeID, item shard.FeedItem) {
	l.told = append(l.told, fmt.Sprintf("%d events, gap %v", len(item.Events), item.Gap))
}
func (l *listener) Held(_ shard.RangeID, held bool) {
	l.told = append(l.told, fmt.Sprint("held ", held))
}

// TestASubscriberFollowsARange: it hears first whether the range is here, has items only then, and the first of
// them with a gap.
func TestASubscriberFollowsARange(t *testing.T) {
	rs := newRanges(1, nil, nil, slog.New(slog.DiscardHandler), "", 0, rangesEnv{})
	f := newFeeds(rs)
	l := &listener{}
	f.Publish(2, put(1, 1)) // nobody listens
	f.Subscribe(2, l)
	f.Publish(2, put(2, 1)) // of a replica that is just being opened
	if want := []string{"held false"}; !slices.Equal(l.told, want) {
		t.Errorf("told %q, want %q", l.told, want)
	}
	fan := f.fan(2, false)
	fan.held, fan.begin = true, true // as tell does with a replica
	f.Publish(2, put(3, 1))
	f.Publish(2, put(4, 1))
	f.replicaChanged(2)
	f.Publish(2, put(5, 1))
	if want := []string{"held false", "1 events, gap true", "1 events, gap false", "held false"}; !slices.Equal(l.told, want) {
		t.Errorf("told %q, want %q", l.told, want)
	}
	f.Unsubscribe(2)
	f.replicaChanged(2)
	f.Unsubscribe(3)
	if n := len(l.told); n != 4 {
		t.Errorf("told %q after it had unsubscribed", l.told[4:])
	}
}

// hub keeps what it is told.
type hub struct{ items []shard.FeedItem }

func (h *hub) Publish(_ shard.RangeID, item shard.FeedItem) { h.items = append(h.items, item) }
func (h *hub) Held(shard.RangeID, bool)                     {}

// TestAFeedCopiesNothing: a hub of this process has the very events that were applied, with what was encoded of
// them, and so has whoever else listens here.
func TestAFeedCopiesNothing(t *testing.T) {
	f := newFeeds(newRanges(1, nil, nil, slog.New(slog.DiscardHandler), "", 0, rangesEnv{}))
	h := &hub{items: make([]shard.FeedItem, 0, 1<<10)}
	f.Subscribe(2, h)
	f.fan(2, false).held = true // as tell does with a replica
	item := put(3, 1)
	f.Publish(2, item)
	if len(h.items) != 1 || len(h.items[0].Events) != 1 || h.items[0].Events[0] != item.Events[0] {
		t.Fatalf("the hub was told %+v", h.items)
	}
	if n := testing.AllocsPerRun(100, func() { f.Publish(2, item) }); n != 0 {
		t.Errorf("%v allocations for each item of a hub of this process", n)
	}
}
