package watchfanout

import (
	"sync/atomic"
	"testing"

	"pontoon/shard"
)

// TestParkedItemsAreBounded: what waits for a newer map is bounded by what it holds, too, and what found no room is
// told of once the map is there.
func TestParkedItemsAreBounded(t *testing.T) {
	for name, size := range map[string]int{"items": 1, "bytes": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			var old, now atomic.Pointer[shard.Map]
			old.Store(mapOf(t, 1, "r2@1", "-"))
			now.Store(mapOf(t, 2, "r2@2", "-"))
			f := newFeed(2)
			const last = parkedItemsMax + 100
			value := make([]byte, size)
			for rev := int64(1); rev <= last; rev++ {
				ev := &shard.Event{KV: shard.KeyValue{Key: []byte("k"), Value: value, ModRevision: rev}}
				f.publish(shard.FeedItem{Generation: 2, Closed: rev, Gap: rev == 1, Events: []*shard.Event{ev}}, &old)
				held := 0
				for _, item := range f.mu.parked {
					held += weigh(item.Events)
				}
				if held > parkedBytesMax || len(f.mu.parked) > parkedItemsMax || held != f.mu.bytes {
					t.Fatalf("%d items with %d bytes wait, %d are counted", len(f.mu.parked), held, f.mu.bytes)
				}
			}
			if p := f.unpark(now.Load()); p.parked || !p.anew || f.mu.closed != last {
				t.Errorf("with the map: parked %v, anew %v, closed at %d", p.parked, p.anew, f.mu.closed)
			}
			if f.mu.turn != 2 || f.mu.bytes != 0 {
				t.Errorf("the feed has begun %d times, want the begin and the gap; %d bytes are counted", f.mu.turn, f.mu.bytes)
			}
		})
	}
}
