package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// slowHub takes a frame when the test says so.
type slowHub struct {
	st     *feedStream
	take   chan struct{}
	frames []*pb.FeedFrame
}

func (h *slowHub) send(fr *pb.FeedFrame) error {
	<-h.take
	h.frames = append(h.frames, fr)
	return nil
}

func put(rev int64, bytes int) shard.FeedItem {
	return shard.FeedItem{Closed: rev - 1, Index: uint64(rev), Events: []*shard.Event{{KV: shard.KeyValue{Key: []byte("k"), Value: make([]byte, bytes), ModRevision: rev}}}}
}

// TestALostItemIsToldOf: a hub on another node that is slower than its range loses items, whether there are too
// many of them or too many bytes, and hears of that though nothing follows: nobody may write again for long.
func TestALostItemIsToldOf(t *testing.T) {
	for _, tt := range []struct {
		what  string
		bytes int
		fits  int
	}{
		{"items", 1, feedQueueItems},
		{"bytes", 1 << 20, (feedQueueBytes - eventBytes - 1<<20) >> 20},
	} {
		t.Run(tt.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hub := &slowHub{st: newFeedStream(), take: make(chan struct{})}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- hub.st.run(ctx, hub.send) }()
				hub.st.offer(put(1, tt.bytes)) // it is being sent
				synctest.Wait()
				last := int64(tt.fits + 20)
				for rev := int64(2); rev <= last; rev++ {
					hub.st.offer(put(rev, tt.bytes))
				}
				hub.st.offer(shard.FeedItem{Closed: last, Index: uint64(last)}) // nothing follows
				close(hub.take)
				synctest.Wait()
				n := len(hub.frames)
				if n < tt.fits || n > tt.fits+3 {
					t.Errorf("%d frames came, %d fit", n, tt.fits)
				}
				end := hub.frames[n-1]
				if !end.Gap || end.Closed != last || len(end.Events) != 0 {
					t.Errorf("the last frame has gap %v, closed %d, %d events; the range is closed at %d", end.Gap, end.Closed, len(end.Events), last)
				}
				for i, fr := range hub.frames[:n-1] {
					if fr.Gap || len(fr.Events) != 1 || fr.Events[0].Kv.ModRevision != int64(i+1) {
						t.Fatalf("frame %d: gap %v, %d events", i, fr.Gap, len(fr.Events))
					}
				}
				hub.st.offer(put(last+1, 1)) // and it goes on
				synctest.Wait()
				if fr := hub.frames[len(hub.frames)-1]; fr.Gap || len(fr.Events) != 1 {
					t.Errorf("after the loss: gap %v, %d events", fr.Gap, len(fr.Events))
				}
				cancel()
				if err := <-ended; !errors.Is(err, context.Canceled) {
					t.Errorf("ended with %v", err)
				}
			})
		})
	}
}

// TestALossIsToldWithTheNextItem: where there is room again before the loss was told, the next item tells it.
func TestALossIsToldWithTheNextItem(t *testing.T) {
	st := newFeedStream()
	for rev := int64(1); rev <= feedQueueItems+5; rev++ {
		st.offer(put(rev, 1))
	}
	if item, ok := st.next(); !ok || item.Gap {
		t.Fatalf("the first item: %v, gap %v", ok, item.Gap)
	}
	st.offer(shard.FeedItem{Events: put(feedQueueItems+6, 1).Events})
	var last shard.FeedItem
	for item, ok := st.next(); ok; item, ok = st.next() {
		last = item
	}
	if !last.Gap || len(last.Events) != 1 || last.Closed != feedQueueItems+4 {
		t.Errorf("the last item: gap %v, closed %d, %d events", last.Gap, last.Closed, len(last.Events))
	}
	if st.bytes != 0 {
		t.Errorf("%d bytes are counted in an empty queue", st.bytes)
	}
	huge := put(1, feedQueueBytes+1)
	if st.offer(huge); st.lost {
		t.Error("an item of any size is let in where nothing waits")
	}
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
// them with a gap; another node's hub is sent away when the range goes.
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
	st := newFeedStream()
	fan := f.fan(2, false)
	fan.streams[st] = struct{}{}
	fan.held, fan.begin = true, true // as tell does with a replica
	f.Publish(2, put(3, 1))
	f.Publish(2, put(4, 1))
	f.replicaChanged(2)
	f.Publish(2, put(5, 1))
	if want := []string{"held false", "1 events, gap true", "1 events, gap false", "held false"}; !slices.Equal(l.told, want) {
		t.Errorf("told %q, want %q", l.told, want)
	}
	if err := st.run(t.Context(), func(*pb.FeedFrame) error { return errNoReplica }); !errors.Is(err, errNoReplica) {
		t.Errorf("the stream of another node ends with %v", err)
	}
	f.Unsubscribe(2)
	f.replicaChanged(2)
	f.Unsubscribe(3)
	if n := len(l.told); n != 4 {
		t.Errorf("told %q after it had unsubscribed", l.told[4:])
	}
	if err := f.serve(t.Context(), &pb.FeedRequest{RangeId: 2}, nil); !errors.Is(err, errNoReplica) {
		t.Errorf("a range that is not here: %v", err)
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
