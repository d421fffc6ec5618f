package apply

import (
	"bytes"
	"testing"

	"pontoon/shard"
)

// TestHeldBackInBytes: a feed that holds back much, in few events, lets it go and says so.
func TestHeldBackInBytes(t *testing.T) {
	var f Feed
	value := bytes.Repeat([]byte("x"), heldBytesMax/4)
	for i := range 6 {
		ev := &shard.Event{KV: shard.KeyValue{Key: []byte("k"), Value: value, ModRevision: int64(10 + i)}}
		if out, gap := f.Add([]*shard.Event{ev}, 5); len(out) != 0 || gap != (f.gap) {
			t.Fatalf("event %d: %d go out, gap %v", i, len(out), gap)
		}
		if f.bytes > heldBytesMax {
			t.Fatalf("%d bytes are held", f.bytes)
		}
	}
	if _, gap := f.Add(nil, 20); !gap {
		t.Error("events were dropped, and nobody is told")
	}
}
