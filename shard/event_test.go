package shard

import (
	"errors"
	"sync"
	"testing"
)

// TestEncoded: the bytes are made once for all that share the event, and a failure is nobody's but the
// caller's.
func TestEncoded(t *testing.T) {
	e := NewEvents(1)[0]
	broken := errors.New("broken")
	if _, err := e.Encoded(EncodedPrev, func(*Event, Encoding) ([]byte, error) { return nil, broken }); err != broken {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	got := make([][]byte, 8)
	for i := range got {
		wg.Go(func() {
			got[i], _ = e.Encoded(EncodedPrev, func(*Event, Encoding) ([]byte, error) { return []byte{byte(i)}, nil })
		})
	}
	wg.Wait()
	for _, b := range got {
		if &b[0] != &got[0][0] {
			t.Fatal("two encodings")
		}
	}
	b, err := e.Encoded(EncodedPlain, func(*Event, Encoding) ([]byte, error) { return []byte("plain"), nil })
	if string(b) != "plain" || err != nil {
		t.Fatal(string(b), err)
	}
}

// TestNewEvents: as many as were asked for, each another, each alone in its own batch.
func TestNewEvents(t *testing.T) {
	for n := range 3*eventChunk + 2 {
		evs := NewEvents(n)
		seen := map[*Event]bool{}
		for _, e := range evs {
			if a := e.Alone(); len(a) != 1 || cap(a) != 1 || a[0] != e {
				t.Fatalf("%d events: one that is not alone in its batch", n)
			}
			seen[e] = true
		}
		if len(seen) != n {
			t.Fatalf("%d events, want %d", len(seen), n)
		}
	}
	literal := &Event{}
	if a := literal.Alone(); len(a) != 1 || a[0] != literal {
		t.Fatal(a)
	}
}

// TestNewEventCost: one event costs one allocation, with the batch of its own.
func TestNewEventCost(t *testing.T) {
	var evs []*Event
	if n := testing.AllocsPerRun(100, func() { evs = NewEvents(1) }); n != 1 || len(evs) != 1 {
		t.Fatalf("%v allocations", n)
	}
}

// TestDataBytes: what bounds of queues count.
func TestDataBytes(t *testing.T) {
	e := &Event{KV: KeyValue{Key: []byte("key"), Value: []byte("value")}}
	if n := e.DataBytes(); n != 8 {
		t.Errorf("%d bytes without a previous version", n)
	}
	e.Prev = &KeyValue{Key: []byte("key"), Value: []byte("before")}
	if n := e.DataBytes(); n != 17 {
		t.Errorf("%d bytes with a previous version", n)
	}
}
