package server

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica"
	"pontoon/watchfanout"
)

// TestAnEndedFeedPublishesNothing: an item that another node's feed brings late does not come between
// those of the feed that follows it.
func TestAnEndedFeedPublishesNothing(t *testing.T) {
	desc := shard.Descriptor{ID: 2, Replicas: []shard.Replica{{ID: 1, Node: 9}}}
	streams := make(chan func(*pb.FeedFrame) error)
	f := newFeeds(t.Context(), newRanges(1, nil, nil, slog.New(slog.DiscardHandler), "", 0, nil), slog.New(slog.DiscardHandler),
		func(shard.RangeID) (shard.Descriptor, bool) { return desc, true },
		func(ctx context.Context, _ shard.NodeID, _ *pb.FeedRequest, recv func(*pb.FeedFrame) error) error {
			streams <- recv
			<-ctx.Done()
			return ctx.Err()
		})
	var closed []int64
	f.publish = func(_ shard.RangeID, item watchfanout.Item) { closed = append(closed, item.Closed) }
	f.learn = func(int64, uint64) {}
	f.subscribe(2)
	first := <-streams
	if err := first(&pb.FeedFrame{Closed: 1}); err != nil {
		t.Fatal(err)
	}
	f.unsubscribe(2)
	f.subscribe(2)
	second := <-streams
	if err := second(&pb.FeedFrame{Closed: 3}); err != nil {
		t.Fatal(err)
	}
	if err := first(&pb.FeedFrame{Closed: 2}); err == nil {
		t.Error("the ended feed was not told to stop")
	}
	if len(closed) != 2 || closed[0] != 1 || closed[1] != 3 {
		t.Errorf("published %v", closed)
	}
	f.unsubscribe(2)
	f.wg.Wait()
}

// TestAnEventIsKnownBeforeItIsPublished: the hub asks for its revision to be closed at once, and a node
// closes at the newest one that it knows.
func TestAnEventIsKnownBeforeItIsPublished(t *testing.T) {
	f := newFeeds(t.Context(), newRanges(1, nil, nil, slog.New(slog.DiscardHandler), "", 0, nil), slog.New(slog.DiscardHandler), nil, nil)
	var told []string
	f.learn = func(rev int64, epoch uint64) { told = append(told, fmt.Sprintf("learn %d of %d", rev, epoch)) }
	f.publish = func(_ shard.RangeID, item watchfanout.Item) {
		told = append(told, fmt.Sprintf("publish %d", len(item.Events)))
	}
	f.fan(2, true).hub = true
	event := func(rev int64) mvcc.Event { return mvcc.Event{KV: mvcc.KeyValue{Key: []byte("k"), ModRevision: rev}} }
	f.Publish(2, replica.FeedItem{Events: []mvcc.Event{event(7), event(9)}, Epoch: 4})
	f.Publish(2, replica.FeedItem{Closed: 11, Epoch: 4})
	if want := []string{"learn 9 of 4", "publish 2", "publish 0"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}
