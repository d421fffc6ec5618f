package watchfanout

import (
	"testing"

	"pontoon/shard"
)

// TestParkedItemsAreBounded: what waits for a newer map is bounded by what it holds, too, and what found no room is
// told of once the map is there.
func TestParkedItemsAreBounded(t *testing.T) {
	for name, size := range map[string]int{"items": 1, "bytes": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			f := w.hub.feeds.get(2)
			const last = parkedItemsMax + 100
			value := make([]byte, size)
			for rev := int64(1); rev <= last; rev++ {
				ev := &shard.Event{KV: shard.KeyValue{Key: []byte("k"), Value: value, ModRevision: rev}}
				w.hub.Publish(2, shard.FeedItem{Generation: 2, Closed: rev, Gap: rev == 1, Events: []*shard.Event{ev}})
				held := 0
				for _, item := range f.mu.parked {
					held += weigh(item.Events)
				}
				if held > parkedBytesMax || len(f.mu.parked) > parkedItemsMax || held != f.mu.bytes {
					t.Fatalf("%d items with %d bytes wait, %d are counted", len(f.mu.parked), held, f.mu.bytes)
				}
			}
			w.rmap = mapOf(t, 2, "r2@2", "-")
			w.hub.MapChanged()
			if len(f.mu.parked) > 0 || f.mu.closed != last {
				t.Errorf("with the map: %d items wait, closed at %d", len(f.mu.parked), f.mu.closed)
			}
			if f.mu.turn != 2 || f.mu.bytes != 0 {
				t.Errorf("the feed has begun %d times, want the begin and the gap; %d bytes are counted", f.mu.turn, f.mu.bytes)
			}
		})
	}
}
