package server

import (
	"context"
	"log/slog"
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard"
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
